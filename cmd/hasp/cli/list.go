package cli

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
)

// requestTimeout bounds the requests that are made without a Locker.
const requestTimeout = 10 * time.Second

func (a *app) listCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list [flags] [PREFIX]",
		Short: "List the locks that are held",
		Long: `List the locks that are held, or stale. With --on URL, or HASP_URL, those whose
keys start with PREFIX; otherwise PREFIX is a directory of lock files. A lock whose
state cannot be read is listed as unknown, with the reason as its note; so is a
directory in which there may be others, with a slash at the end of its name.

Exit status: 0; 1 if something is listed as unknown.`,
		Example: `  hasp list /mnt/efs/sweeps
  hasp list --on redis://cache:6379 sweeps/ -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			store, prefix, dir, err := a.listed("list", prefix)
			if err != nil {
				return err
			}
			b, err := a.open(cmd.Context(), store)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			recs, err := backend.List(ctx, b, prefix)
			if err = closing(b, err); err != nil {
				return fail(fmt.Errorf("list: %w", err))
			}
			return a.printList(recs, dir)
		},
	}
}

// listed returns the store, the prefix, and the directory that was asked for.
func (a *app) listed(command, arg string) (store, prefix, dir string, err error) {
	if store = a.store(); store != "" {
		store, err = a.withOptions(store)
		return store, arg, "", err
	}
	if arg == "" {
		return "", "", "", usagef(command+": want --on URL, HASP_URL, or a directory of lock files", command)
	}
	if hasURL(arg) {
		return "", "", "", usagef("%s: %q is a URL: want --on URL, or a directory of lock files", command, backend.RedactURL(arg))
	}
	if fi, err := os.Stat(arg); err != nil {
		return "", "", "", fail(fmt.Errorf("%s: %w", command, err))
	} else if !fi.IsDir() {
		return "", "", "", usagef("%s: %q is not a directory; for one lock there is hasp status", command, arg)
	}
	abs, err := absolute(arg)
	if err != nil {
		return "", "", "", fail(err)
	}
	store, err = a.withOptions((&url.URL{Scheme: "efs", Path: filepath.ToSlash(abs)}).String())
	return store, "", arg, err
}

func (a *app) printList(recs []backend.Record, dir string) error {
	locks := make([]lockJSON, 0, len(recs))
	for i, r := range recs {
		if dir != "" {
			recs[i].Key = filepath.Join(dir, filepath.FromSlash(r.Key))
			if strings.HasSuffix(r.Key, "/") {
				recs[i].Key += string(filepath.Separator)
			}
		}
		locks = append(locks, lockOf(recs[i].Key, r))
	}
	var err error
	if a.json() {
		err = writeJSON(a.stdout, locks)
	} else {
		err = written(writeAll(a.stdout, lockTable(recs)))
	}
	if err == nil && slices.ContainsFunc(recs, func(r backend.Record) bool { return r.State == backend.Unknown }) {
		err = &exitError{code: exitUnknown}
	}
	return err
}

// exitUnknown is the status of list and clear if there is something that could not be
// read: what was shown is not all there is.
const exitUnknown = 1

// lockTable is locks as text, a line each under a line of headings, or nothing.
func lockTable(recs []backend.Record) []byte {
	if len(recs) == 0 {
		return nil
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATE\tHOLDER\tHELD FOR\tSTALE IN\tTOKEN\tNOTE")
	orNone := func(d time.Duration) string {
		if d <= 0 {
			return "-"
		}
		return backend.Round(d).String()
	}
	for _, r := range recs {
		if r.State == backend.Unknown || r.State == backend.Sealed {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t-\t%s\n", backend.Printable(r.Key), r.State, backend.Printable(r.Note))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", backend.Printable(r.Key), r.State, r.Holder, orNone(r.HeldFor), orNone(r.Remaining), r.Token, backend.Printable(r.Note))
	}
	w.Flush() // into memory
	var trimmed bytes.Buffer
	for line := range bytes.Lines(b.Bytes()) { // no blanks where there is no note
		trimmed.Write(bytes.TrimRight(line, " \n"))
		trimmed.WriteByte('\n')
	}
	return trimmed.Bytes()
}
