package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if text := os.Getenv(jobVar); text != "" {
		err = work(ctx, text)
	} else {
		err = parent(ctx, os.Args[1:], os.Stdout)
	}
	var other *exec.ExitError
	if errors.As(err, &other) { // it has said why
		os.Exit(max(other.ExitCode(), 1))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sweep:", err)
		os.Exit(1)
	}
}

// result is what -o json prints.
type result struct {
	Processes int     `json:"processes"`
	Created   int     `json:"created"`      // that created the sweep
	Found     int     `json:"found"`        // that found it created
	Takeovers int     `json:"takeovers"`    // of the lock of one that was killed
	Token     uint64  `json:"token"`        // under which the sweep was created
	ID        string  `json:"id,omitempty"` // with -keep: what every process has
	Seconds   float64 `json:"seconds"`
}

// parent starts the processes and says what came of it.
func parent(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("sweep", flag.ContinueOnError)
	on := fs.String("on", "", "URL of the store that keeps the lock; default efs:// and -dir")
	dir := fs.String("dir", "", "where sweeps are; default a temporary directory")
	file := fs.String("file", "", "the sweep; default the built-in sweep.yaml")
	n := fs.Int("processes", 8, "how many processes")
	timeout := fs.Duration("timeout", 0, "the lock's TTL; default 300s, with -crash 2s")
	crash := fs.Bool("crash", false, "kill the first process that holds the lock, half-way")
	keep := fs.Bool("keep", false, "keep the sweep's id beside the lock, and share no directory")
	output := fs.String("o", "text", "text or json")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("there is no argument %q", fs.Arg(0))
	case *n < 1, *crash && *n < 2:
		return fmt.Errorf("-processes %d: too few", *n)
	case *timeout < 0:
		return fmt.Errorf("-timeout %v: it must not be negative", *timeout)
	case *output != "text" && *output != "json":
		return fmt.Errorf("-o %q: want text or json", *output)
	}
	if *timeout == 0 && *crash {
		*timeout = 2 * time.Second
	}
	if other, err := handOver(ctx, *on, args, out); other {
		return err
	}
	text := builtin
	if *file != "" {
		var err error
		if text, err = os.ReadFile(*file); err != nil {
			return err
		}
	}
	s, err := parseSweep(text)
	if err != nil {
		return err
	}
	home, remove, err := directory(*dir)
	if err != nil {
		return err
	}
	defer remove()
	store := *on
	if store == "" {
		store = (&url.URL{Scheme: "efs", Path: filepath.ToSlash(home)}).String()
	}
	j := job{On: store, Dir: home, Sweep: text, Timeout: *timeout, Crash: *crash, Keep: *keep}
	f, err := startFleet(ctx, *n, j, display(os.Stderr, *n, *output == "json"))
	if err != nil {
		return err
	}
	f.run()
	return f.sum(out, home, s, *keep, *output == "json")
}

// directory returns dir, made if it is missing, or a temporary one.
func directory(dir string) (_ string, remove func(), err error) {
	if dir == "" {
		dir, err = os.MkdirTemp("", "sweep-")
		return dir, func() { os.RemoveAll(dir) }, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	return dir, func() {}, os.MkdirAll(dir, 0o777)
}

func display(out *os.File, n int, quiet bool) shower {
	if quiet {
		return none{}
	}
	// A table that does not fit a screen could not be drawn over.
	if fi, err := out.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && n <= 20 {
		return &table{out: out}
	}
	return lines{out}
}

// sum checks the sweep and prints the result.
func (f *fleet) sum(out io.Writer, home string, s sweep, keep, asJSON bool) error {
	if len(f.errs) > 0 {
		return errors.New(strings.Join(f.errs, "\n"))
	}
	var each bytes.Buffer // what each process has
	var id string
	var token uint64
	var err error
	if keep {
		id, token, err = f.ids(&each)
	} else {
		token, err = complete(home, s)
	}
	if err != nil {
		return err
	}
	r := result{
		Processes: len(f.workers), Created: f.created, Found: f.found, Takeovers: f.takeovers,
		Token: token, ID: id, Seconds: time.Since(f.start).Round(time.Millisecond).Seconds(),
	}
	if r.Created > 1 || r.Created+r.Found+f.killed != r.Processes {
		return fmt.Errorf("of %d processes %d created the sweep and %d found it", r.Processes, r.Created, r.Found)
	}
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	parts := []string{fmt.Sprintf("%d created the sweep", r.Created)}
	if f.killed > 0 {
		parts = []string{fmt.Sprintf("%d was killed", f.killed), fmt.Sprintf("%d took the lock over and created the sweep", r.Created)}
	}
	_, err = fmt.Fprintf(out, "%s%d processes: %s, %d found it, token %d, %.1f s\n", each.String(), r.Processes, strings.Join(parts, ", "), r.Found, r.Token, r.Seconds)
	return err
}

// complete checks that the sweep in home is complete, and returns the token under which
// it was created.
func complete(home string, s sweep) (token uint64, err error) {
	c, err := check(home, s)
	if err != nil {
		return 0, fmt.Errorf("the sweep is not complete: %w", err)
	}
	return c.Token, nil
}
