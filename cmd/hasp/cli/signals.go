package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
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
