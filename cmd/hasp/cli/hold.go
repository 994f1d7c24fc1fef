package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// resultJSON is how run and once ended, as -o json shows it, on standard error
// since standard output is the command's.
type resultJSON struct {
	Key           string  `json:"key"`
	Ran           bool    `json:"ran"`
	Exit          int     `json:"exit"`
	Token         uint64  `json:"token"` // 0 if the lock was not taken
	WaitedSeconds float64 `json:"waited_seconds"`
	RanSeconds    float64 `json:"ran_seconds"`
	Error         string  `json:"error"`
}

// mode is what once has besides what run has.
type mode struct {
	done func(context.Context) (bool, error) // nil: run
	keep bool                                // what the command writes is kept beside the lock
}

// hold is run and once.
func (a *app) hold(h *holdFlags, key string, argv []string, m mode) error {
	res := resultJSON{Key: key}
	err := a.holdFor(h, key, argv, m, &res)
	if !a.json() {
		return err
	}
	a.heard(err) // which the result has in words
	var e *exitError
	if errors.As(err, &e) {
		res.Exit = e.code
		if e.err != nil {
			res.Error = message(e.err)
		}
	}
	var out bytes.Buffer
	if res.Ran {
		// The command may have left its last line open, and nobody can tell.
		out.WriteByte('\n')
	}
	if err := writeJSON(&out, res); err != nil {
		return err
	}
	_, _ = a.stderr.Write(out.Bytes()) // in one piece, and it never fails
	return &exitError{code: res.Exit}
}

func (a *app) holdFor(h *holdFlags, key string, argv []string, m mode, res *resultJSON) error {
	opts, err := h.options()
	if err != nil {
		return err
	}
	t, err := a.target(key)
	if err != nil {
		return err
	}
	path, err := lookUp(argv[0])
	if err != nil {
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	if err := handOver(t.url); err != nil {
		return err
	}
	defer job.CollectOrphans()()
	sigs := catchSignals()
	defer sigs.stop()
	ctx, heed := sigs.cancelOn(context.Background())
	defer heed()

	p := newProgress(a.stderr, backend.Redact(t.name), a.json())
	defer p.stop()
	if names := h.misplaced(argv); len(names) > 0 {
		p.warn(fmt.Errorf("%s after -- is for %s: hasp's own flags go before --, and one given there too is not warned of", strings.Join(names, ", "), redactArg(argv[0])))
	}
	renewed := make(chan struct{}, 1)
	opts.Observer = func(e hasp.Event) {
		if e.Kind == hasp.EventRenewed {
			select {
			case renewed <- struct{}{}:
			default:
			}
		}
		p.observe(e)
	}
	if opts.Owner == "" {
		// Looking the name up can take longer than the lock does.
		opts.Owner = a.getenv("USER")
	}
	b, err := a.open(ctx, t.url)
	if err != nil {
		return err
	}
	l := hasp.New(b, opts)
	begun := time.Now()
	ran := false
	var end outcome
	k := &keeper{l: l, key: t.key}
	if m.keep {
		m.done = k.look
	}
	under := func(ctx context.Context, lease *hasp.Lease) error {
		ran = true
		p.stop()
		res.Ran, res.Token, res.WaitedSeconds = true, lease.Token(), seconds(time.Since(begun))
		heed() // from here on signals are for the command
		sigs.catch(whileRunning)
		if err := context.Cause(ctx); err != nil {
			res.Ran = false
			return err
		}
		begun = time.Now()
		spec := job.Spec{Path: path, Args: argv, Env: environment(t, lease), Grace: h.grace, Then: func() string { return heldNote(t.url, lease) }}
		if m.keep {
			if err := k.capture(&spec); err != nil {
				res.Ran = false
				return err
			}
		}
		j, err := job.Start(spec)
		k.started()
		if err != nil {
			res.Ran = false
			return cannotRun(argv[0], err)
		}
		s := &supervisor{lease: lease, job: j, grace: h.grace, renewed: renewed, signals: sigs.ch, warn: p.warn}
		end = s.run()
		a.interrupted = end.interrupted
		res.RanSeconds = seconds(time.Since(begun))
		if m.keep {
			return k.keep(ctx, lease, end)
		}
		return nil
	}
	var terms []hasp.AcquireOption
	if h.try {
		terms = append(terms, hasp.NoWait())
	}
	if m.done != nil {
		_, err = hasp.Once(ctx, l, t.key, m.done, under, terms...)
	} else {
		err = hasp.Do(ctx, l, t.key, under, terms...)
	}
	p.stop()
	if !res.Ran {
		err = bySignal(ctx, "acquire", t.name, err)
	}
	if !ran {
		res.WaitedSeconds = seconds(time.Since(begun))
	}
	cerr := l.Close()
	if m.keep {
		return k.verdict(a, t, ran && res.Ran, end, err, cerr, p.warn)
	}
	return verdict(t, ran && res.Ran, end, err, cerr, p.warn)
}

// environment is this process's, and what the command may want to know.
func environment(t target, lease *hasp.Lease) []string {
	var env []string
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "HASP_KEY" && name != "HASP_TOKEN" && name != "HASP_HOLDER" {
			env = append(env, kv)
		}
	}
	return append(env,
		"HASP_KEY="+t.name,
		"HASP_TOKEN="+strconv.FormatUint(lease.Token(), 10),
		"HASP_HOLDER="+lease.Holder().String())
}
