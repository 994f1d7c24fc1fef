package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
)

// exitBroken is verify's status when a rule failed.
const exitBroken = 1

type verifyFlags struct {
	minTTL, slack time.Duration
	prefix        string
	report        string
	fair, quiet   bool
}

func (a *app) verifyCmd() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify [flags] [URL]",
		Short: "Try on a live store whether its locks can be trusted",
		Long: `Try every rule of hasp's conformance suite on the store that URL names (or --on,
or HASP_URL): exclusion, takeover from processes that are killed and stopped,
fencing tokens, waiting, cancelling and more. It takes a minute or so.

Keys begin with --prefix and a random part, so the store may be in use; on a file
system all of it happens in a directory of its own. Nothing is left but what the store
keeps of tokens for a while.

The exit status is 0 if no rule failed and 1 if one did. What a backend cannot do is
shown as lacking.`,
		Example: `  hasp verify redis://cache:6379
  hasp verify /mnt/efs/sweeps --report efs.html
  hasp verify etcd://10.0.0.1:2379,10.0.0.2:2379 --min-ttl 3s -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			store := a.store()
			if len(args) == 1 {
				store = args[0]
			}
			if store == "" {
				return usagef("verify: want the URL of a store, as an argument, with --on or in HASP_URL")
			}
			return a.verify(store, f)
		},
	}
	fs := c.Flags()
	durationVar(fs, &f.minTTL, "min-ttl", time.Second, "the shortest TTL to try; the time that verify takes grows with it")
	durationVar(fs, &f.slack, "slack", 2*time.Second, "how long after its holder's TTL a lock may take to be taken over")
	fs.StringVar(&f.prefix, "prefix", "hasp-verify/", "what every key begins with")
	fs.StringVar(&f.report, "report", "", "write a page with the results and a timeline of every hold to this file")
	fs.BoolVar(&f.fair, "fair", false, "expect that waiters are served in the order in which they came")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	c.AddCommand(&cobra.Command{
		Use:    "worker",
		Short:  "Be one of the processes that verify starts",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if theSuite != nil {
				theSuite.Worker()
			}
			return usagef("verify worker is started by hasp verify alone")
		},
	})
	return c
}

func (a *app) verify(store string, f verifyFlags) (err error) {
	if store, err = a.withOptions(store); err != nil {
		return err
	}
	if err := handOver(store); err != nil {
		return err
	}
	if theSuite == nil {
		return handOverToPart("verify")
	}
	name, store, remove, err := apart(store)
	if err != nil {
		return err
	}
	defer func() {
		if rerr := remove(); rerr != nil && err == nil {
			err = fail(fmt.Errorf("verify: the directory it was done in is left: %w", rerr))
		}
	}()
	sigs := catchSignals()
	defer sigs.stop()
	ctx, stop := sigs.cancelOn(context.Background())
	defer stop()
	v, err := a.verification(ctx, name, store, f)
	if err != nil {
		return err
	}
	rep, err := theSuite.Check(ctx, v)
	if cause := context.Cause(ctx); cause != nil {
		return fail(cause)
	}
	if err != nil && !rep.Tried() {
		return failOpen(fmt.Errorf("verify: %w", err))
	}
	if err := a.showReport(rep, f.report); err != nil {
		return err
	}
	if rep.Failed() {
		return &exitError{code: exitBroken}
	}
	return nil
}

// verification opens the store once, to see that it answers and what it can do.
func (a *app) verification(ctx context.Context, name, store string, f verifyFlags) (v Verification, err error) {
	b, err := a.open(ctx, store)
	if err != nil {
		return v, err
	}
	v = Verification{
		Name: name, URL: store, MinTTL: f.minTTL, Slack: f.slack, KeyPrefix: f.prefix, Fair: f.fair,
		Has: map[backend.Capability]bool{}, InMemory: schemeOf(store) == "mem",
		LockFiles: onFiles(store) && !strings.Contains(store, "lockfile=false"),
	}
	for _, c := range backend.Capabilities(b) {
		v.Has[c] = true
	}
	if err := b.Close(); err != nil {
		return v, fail(fmt.Errorf("verify: %w", err))
	}
	exe, err := os.Executable()
	if err != nil {
		return v, fail(fmt.Errorf("verify: this program cannot be found to be started again: %w", err))
	}
	v.WorkerCommand = []string{exe, "verify", "worker"}
	if !f.quiet {
		v.Progress = func(line string) { fmt.Fprintln(a.stderr, backend.Printable(line)) }
	}
	return v, nil
}

// showReport writes what came of it.
func (a *app) showReport(rep Verdict, file string) error {
	if file != "" {
		w, err := os.Create(file)
		if err == nil {
			var page bytes.Buffer
			err = errors.Join(rep.WriteHTML(&page), writeAll(redactingWriter{w}, page.Bytes()), w.Close())
		}
		if err != nil {
			return fail(fmt.Errorf("verify: the report cannot be written: %w", err))
		}
	}
	if a.json() {
		return writeJSON(a.stdout, rep)
	}
	var table bytes.Buffer
	if err := rep.WriteTable(&table); err != nil {
		return written(err)
	}
	return written(writeAll(a.stdout, table.Bytes()))
}

func writeAll(w io.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}

func onFiles(store string) bool {
	scheme := schemeOf(store)
	return scheme == "" || scheme == "efs"
}

// apart returns the store's name as it may be shown, and where to try it. On a
// file system that is a new directory in the store's: state directories stay where
// a key was locked once, and remove takes them all away.
func apart(store string) (name, where string, remove func() error, err error) {
	u, err := url.Parse(store)
	if onFiles(store) && (err != nil || u.Scheme != "efs") {
		u, err = &url.URL{Scheme: "efs"}, nil // a bare path, as backend.Open takes it
		if u.Path, err = absolute(store); err != nil {
			return "", "", nil, fail(err)
		}
	}
	if err != nil {
		return "", "", nil, usagef("verify: the URL cannot be parsed")
	}
	name = backend.RedactURL(u.String())
	if u.Scheme != "efs" {
		return name, store, func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp(filepath.FromSlash(u.Path), "hasp-verify-")
	if err != nil {
		return "", "", nil, fail(fmt.Errorf("verify: %w", err))
	}
	u.Path = filepath.ToSlash(dir)
	return name, u.String(), func() error { return os.RemoveAll(dir) }, nil
}
