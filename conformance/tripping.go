package conformance

import (
	"context"
	"errors"
	"sync"

	"github.com/hasplock/hasp/backend"
)

// tripping is a context that is cancelled when it is looked at for the nth time. So
// a call is cancelled at each point at which it would notice, however fast its store
// is: a timer hits nothing that takes a microsecond.
type tripping struct {
	context.Context

	mu    sync.Mutex
	looks int
	at    int
	done  chan struct{}
	err   error
}

func tripAt(parent context.Context, n int) *tripping {
	return &tripping{Context: parent, at: n, done: make(chan struct{})}
}

func (t *tripping) look() {
	if t.looks++; t.looks == t.at && t.err == nil {
		t.err = context.Canceled
		close(t.done)
	}
}

// Done implements context.Context.
func (t *tripping) Done() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.look()
	return t.done
}

// Err implements context.Context.
func (t *tripping) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.look()
	return t.err
}

// end cancels it, so that what the library hung on it goes.
func (t *tripping) end() (tripped bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tripped = t.err != nil
	if !tripped {
		t.err = context.Canceled
		close(t.done)
	}
	return tripped
}

// definite tells whether err promises that the claim does not hold the key.
func definite(err error) bool {
	return err != nil && !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}
