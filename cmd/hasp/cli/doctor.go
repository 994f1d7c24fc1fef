package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hasplock/hasp/backend"
)

// exitFound is doctor's status when it found a problem.
const exitFound = 1

type doctorFlags struct {
	peer    string
	timeout time.Duration
	strict  bool
}

func (a *app) doctorCmd() *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use:   "doctor [flags] [URL]",
		Short: "Look a store over, and say what is wrong with it and what to do",
		Long: `Look over the store that URL names (or --on, or HASP_URL): how it is set up, what
its server says, and how it does what locks rest on, which is tried for real under names that no
lock has. Each finding has a line: ok, warning or problem, what was seen, and what to do.

  ok       as it should be, or good to know
  warning  locks exclude, and something is worse than it could be
  problem  locks do not work here, may be lost, or do not exclude

It takes a few seconds and leaves nothing behind. Whether every promise is kept is for hasp verify,
which takes a minute. With --peer PATH a directory is also looked at through a second mount of it,
such as another host's: whether each shows at once what is done through the other.

Exit status: 0 if there is no problem, 1 if there is one (with --strict also if there is a
warning); 64 if the arguments or the URL are wrong, whatever the store's state.`,
		Example: `  hasp doctor /mnt/efs/sweeps
  hasp doctor /mnt/a/sweeps --peer /mnt/b/sweeps
  hasp doctor redis://cache:6379 -o json
  hasp doctor --strict --on etcd://10.0.0.1:2379,10.0.0.2:2379`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			store := a.store()
			if len(args) == 1 {
				store = args[0]
			}
			switch {
			case store == "":
				return usagef("doctor: want the URL of a store, as an argument, with --on or in HASP_URL")
			case f.timeout <= 0:
				return usagef("doctor: --timeout %v: it must be more than nothing", f.timeout)
			}
			return a.doctor(store, f)
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.peer, "peer", "", "URL or path of a second mount of the same directory")
	durationVar(fs, &f.timeout, "timeout", time.Minute, "after how long to give up, which is a problem")
	fs.BoolVar(&f.strict, "strict", false, "exit with 1 if there is a warning")
	return c
}

func (a *app) doctor(store string, f doctorFlags) error {
	store, err := a.withOptions(store)
	if err != nil {
		return err
	}
	if err := handOver(store); err != nil {
		return err
	}
	if onFiles(store) && schemeOf(store) == "" {
		if store, err = absolute(store); err != nil {
			return fail(err)
		}
		store = (&url.URL{Scheme: "efs", Path: filepath.ToSlash(store)}).String()
	}
	sigs := catchSignals()
	defer sigs.stop()
	ctx, stop := sigs.cancelOn(context.Background())
	defer stop()
	x, err := opening(ctx, store, openExaminer)
	if err != nil {
		return failOpen(err)
	}
	if _, ok := x.(backend.PeerExaminer); f.peer != "" && !ok {
		return errors.Join(usagef("doctor: --peer is for stores that are seen through a mount, and %s is not", backend.RedactURL(store)), x.Close())
	}
	rep := newDiagnosis(a, backend.RedactURL(store))
	examine(ctx, x, f, rep)
	if cause := context.Cause(ctx); cause != nil {
		return fail(cause)
	}
	if err := rep.finish(); err != nil {
		return err
	}
	if rep.counts[backend.LevelProblem] > 0 || f.strict && rep.counts[backend.LevelWarning] > 0 {
		return &exitError{code: exitFound}
	}
	return nil
}

// openExaminer returns the store's own, or one that can do what any backend can.
func openExaminer(ctx context.Context, store string) (backend.Examiner, error) {
	x, err := backend.OpenExaminer(ctx, store)
	if errors.Is(err, backend.ErrUnsupported) {
		return plainExaminer{store}, nil
	}
	return x, err
}

// examine does it all. It returns when ctx ends or time has run out, also if a call does not
// return, as on a mount whose server is gone; that call is left behind, and what it finds
// is not heard of any more.
func examine(ctx context.Context, x backend.Examiner, f doctorFlags, rep *diagnosis) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	found := make(chan backend.Finding)
	done := make(chan struct{})
	yield := func(f backend.Finding) {
		select {
		case found <- f:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(done)
		if err := examineAll(ctx, x, f.peer, yield); err != nil && ctx.Err() == nil {
			yield(backend.Finding{ID: "examination", Level: backend.LevelProblem, Seen: "it could not go on: " + backend.Text(err)})
		}
	}()
	last := "the start"
	add := func(f backend.Finding) {
		last = f.ID
		rep.add(f)
	}
	for {
		select {
		case f := <-found:
			add(f)
			continue
		case <-done:
		case <-ctx.Done():
			// What was tried is taken away, unless that hangs too.
			select {
			case <-done:
			case <-time.After(cleanupTimeout):
			}
			if context.Cause(ctx) == context.DeadlineExceeded {
				add(backend.Finding{ID: "timeout", Level: backend.LevelProblem, Seen: fmt.Sprintf("not done after %v: it got as far as %q", f.timeout, last),
					Advice: "see whether the store answers at all (on a mount: ls, in another terminal); --timeout gives it longer"})
			}
		}
		return
	}
}

// cleanupTimeout is how long taking away what was tried may take.
const cleanupTimeout = 5 * time.Second

func examineAll(ctx context.Context, x backend.Examiner, peer string, yield backend.Finder) (err error) {
	defer func() { err = errors.Join(err, x.Close()) }()
	if err := x.Examine(ctx, yield); err != nil {
		return err
	}
	b, remove, err := x.Scratch(ctx)
	switch {
	case errors.Is(err, backend.ErrUnsupported):
	case err != nil:
		yield(backend.Finding{ID: "open", Level: backend.LevelProblem, Seen: backend.Text(err), Advice: "no lock can be taken until this is mended"})
	case b != nil:
		if _, plain := x.(plainExaminer); plain {
			for _, w := range backend.Warnings(b) {
				yield(backend.Finding{ID: "warning", Level: backend.LevelWarning, Seen: w})
			}
		}
		if err := tryVerbs(ctx, b, remove, yield); err != nil {
			return err
		}
	}
	if p, ok := x.(backend.PeerExaminer); ok && peer != "" {
		return p.ExaminePeer(ctx, peer, yield)
	}
	return nil
}

// plainExaminer is for backends without one.
type plainExaminer struct{ url string }

func (x plainExaminer) Examine(_ context.Context, yield backend.Finder) error {
	yield(backend.Finding{ID: "examiner", Level: backend.LevelOK, Seen: "this backend has no examination of its own: what any backend does is tried"})
	return nil
}

func (x plainExaminer) Scratch(ctx context.Context) (backend.Backend, func(context.Context) error, error) {
	b, err := opening(ctx, x.url, backend.Open)
	if err != nil {
		return nil, nil, err
	}
	return b, func(context.Context) error { return b.Close() }, nil
}

func (x plainExaminer) Close() error { return nil }
