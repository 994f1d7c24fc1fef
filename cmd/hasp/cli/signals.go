package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// signals are those that this process has got and not dealt with yet.
type signals struct {
	ch chan os.Signal
}

// catchSignals catches what is to be passed on to the command. What was ignored
// when this process started (under nohup, say) stays ignored.
func catchSignals() *signals {
	s := &signals{make(chan os.Signal, 64)}
	s.catch(forwarded)
	return s
}

func (s *signals) catch(sigs []os.Signal) {
	for _, sig := range sigs {
		if !signal.Ignored(sig) {
			signal.Notify(s.ch, sig)
		}
	}
}

func (s *signals) stop() { signal.Stop(s.ch) }

// cancelOn returns a context that ends, with a *signalError as its cause, when a
// signal arrives that asks this process to end. stop leaves the signals that
// arrive from then on in s.ch.
func (s *signals) cancelOn(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case sig := <-s.ch:
				if isTerminating(sig) {
					cancel(&signalError{sig})
					return
				}
			case <-quit:
				// What came before that is not for the command, whoever is looked at first.
				for len(s.ch) > 0 {
					if sig := <-s.ch; isTerminating(sig) {
						cancel(&signalError{sig})
						return
					}
				}
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() {
		close(quit)
		<-done
	})
}

// signalError says that a signal asked this process to end.
type signalError struct{ sig os.Signal }

func (e *signalError) Error() string { return fmt.Sprintf("stopped by signal: %v", e.sig) }

func (e *signalError) number() int {
	if n, ok := e.sig.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}

// opening opens a store, and returns as soon as a signal has ended ctx: nothing is held
// yet, and the call may never return, as on a mount whose server is gone. It is left
// behind then; this process ends. Whatever error a store makes of its cancelled context,
// it is the signal that hasp was ended by.
func opening[T any](ctx context.Context, url string, open func(context.Context, string) (T, error)) (T, error) {
	type result struct {
		store T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		store, err := open(ctx, url)
		done <- result{store, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	return r.store, bySignal(ctx, "open", backend.RedactURL(url), r.err)
}

// bySignal returns err, or if a signal has ended ctx an error that says so: that of a
// call which was cancelled may say anything.
func bySignal(ctx context.Context, op, key string, err error) error {
	var sig *signalError
	if err == nil || errors.As(err, &sig) || !errors.As(context.Cause(ctx), &sig) {
		return err
	}
	return &hasp.Error{Op: op, Key: key, Err: sig}
}

// heard looks at what the program ends with: after a Ctrl-C before there was a command,
// which has its own way to tell of one, hasp has to end by the signal, so that a shell
// ends the script too.
func (a *app) heard(err error) {
	var sig *signalError
	if errors.As(err, &sig) {
		a.interrupted = sig.sig == os.Interrupt && job.Foreground()
	}
}
