package hasp_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// inBubble runs f with a clock of its own. The bubble ends only when every
// goroutine in it has, so each test in one is also a test for leaks.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// heartbeats go on for ever while a test waits for what does not come
		dog := time.AfterFunc(7*24*time.Hour, func() { panic("a week has passed: the test waits in vain") })
		defer dog.Stop()
		f(t)
	})
}

// locker returns a Locker on b, which is closed when the test ends.
func locker(t *testing.T, b backend.Backend, opts *hasp.Options) hasp.Locker {
	t.Helper()
	l := hasp.New(b, opts)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func acquire(t *testing.T, l hasp.Locker, key string) *hasp.Lease {
	t.Helper()
	le, err := l.Acquire(context.Background(), key)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	return le
}

func release(t *testing.T, le *hasp.Lease) {
	t.Helper()
	if err := le.Release(context.Background()); err != nil {
		t.Errorf("release: %v", err)
	}
}

// outcome is what an Acquire that runs in the background came to.
type outcome struct {
	lease *hasp.Lease
	err   error
	at    time.Time // when it returned
}

// acquiring starts an Acquire in the background.
func acquiring(ctx context.Context, l hasp.Locker, key string) <-chan outcome {
	ch := make(chan outcome, 1)
	go func() {
		le, err := l.Acquire(ctx, key)
		ch <- outcome{le, err, time.Now()}
	}()
	return ch
}

// mustState fails unless store says that key is in this state.
func mustState(t *testing.T, store *memlock.Store, key string, want backend.State) backend.Record {
	t.Helper()
	rec, err := store.Client().Inspect(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if rec.State != want {
		t.Errorf("%q is %s, want %s", key, rec, want)
	}
	return rec
}

// mustMatch fails unless err matches every target.
func mustMatch(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error %q (%T) does not match %q", err, err, target)
		}
	}
}

// within fails unless d is in [lo, hi].
func within(t *testing.T, what string, d, lo, hi time.Duration) {
	t.Helper()
	if d < lo || d > hi {
		t.Errorf("%s: %v, want %v to %v", what, d, lo, hi)
	}
}

// closed tells whether ch is closed.
func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// recorder is an Observer that remembers.
type recorder struct {
	mu     sync.Mutex
	events []hasp.Event
	times  []time.Time
}

func (r *recorder) observe(e hasp.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	r.times = append(r.times, e.Time)
}

// of returns the events of these kinds (all if none is given) so far, and when they
// were.
func (r *recorder) of(kinds ...hasp.EventKind) (es []hasp.Event, ts []time.Time) {
	synctest.Wait() // they are told by another goroutine
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range r.events {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			es, ts = append(es, e), append(ts, r.times[i])
		}
	}
	return es, ts
}

func (r *recorder) count(kinds ...hasp.EventKind) int {
	es, _ := r.of(kinds...)
	return len(es)
}

// plain hides everything that a backend can do besides the required methods.
type plain struct{ backend.Backend }

// stub is a backend some of whose methods are a test's own.
type stub struct {
	backend.Backend
	acquire func(context.Context, string, backend.Claim) (backend.Grant, error)
	renew   func(context.Context, backend.Grant) (backend.Grant, error)
	release func(context.Context, backend.Grant) error
	inspect func(context.Context, string) (backend.Record, error)
}

func (s *stub) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if s.acquire != nil {
		return s.acquire(ctx, key, c)
	}
	return s.Backend.Acquire(ctx, key, c)
}

func (s *stub) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	if s.renew != nil {
		return s.renew(ctx, g)
	}
	return s.Backend.Renew(ctx, g)
}

func (s *stub) Release(ctx context.Context, g backend.Grant) error {
	if s.release != nil {
		return s.release(ctx, g)
	}
	return s.Backend.Release(ctx, g)
}

func (s *stub) Inspect(ctx context.Context, key string) (backend.Record, error) {
	if s.inspect != nil {
		return s.inspect(ctx, key)
	}
	return s.Backend.Inspect(ctx, key)
}

// watchStub is a stub that also watches as a test says.
type watchStub struct {
	stub
	watch func(context.Context, string, backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error)
}

func (s *watchStub) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	return s.watch(ctx, key, c)
}

// batchStub is a stub that renews batches as a test says.
type batchStub struct {
	stub
	renewAll func(context.Context, []backend.Grant) []backend.Renewal
}

func (s *batchStub) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	return s.renewAll(ctx, gs)
}
