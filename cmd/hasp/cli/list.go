package cli

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
)

// requestTimeout bounds the requests that are made without a Locker.
const requestTimeout = 10 * time.Second

func (a *app) listCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List the locks that are held",
		Long: `List the locks that are held, or stale. With --on URL, or HASP_URL, those whose
keys start with PREFIX; otherwise PREFIX is a directory of lock files.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			store, prefix, dir, err := a.listed(prefix)
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
func (a *app) listed(arg string) (store, prefix, dir string, err error) {
	if store = a.store(); store != "" {
		store, err = a.withOptions(store)
		return store, arg, "", err
	}
	if arg == "" {
		return "", "", "", usagef("list: want --on URL, HASP_URL, or a directory of lock files")
	}
	if fi, err := os.Stat(arg); err != nil {
		return "", "", "", fail(fmt.Errorf("list: %w", err))
	} else if !fi.IsDir() {
		return "", "", "", usagef("list: %q is not a directory; for one lock file there is hasp status", arg)
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
	for _, r := range recs {
		name := r.Key
		if dir != "" {
			name = filepath.Join(dir, filepath.FromSlash(r.Key))
		}
		locks = append(locks, lockOf(name, r))
		if !a.json() {
			if err := writeLine(a.stdout, lockLine(name, r)); err != nil {
				return err
			}
		}
	}
	if a.json() {
		return writeJSON(a.stdout, locks)
	}
	return nil
}
