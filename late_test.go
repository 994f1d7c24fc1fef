package hasp_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// A releases records how a client is asked to release, and says of itself that a
// request may be executed twice, if repeats is set.
type releases struct {
	*memlock.Client
	repeats bool

	mu    sync.Mutex
	asked []uint64 // the tokens
	lost  bool     // answers ErrLost from now on
}

func (r *releases) Repeats() bool { return r.repeats }

func (r *releases) Release(ctx context.Context, g backend.Grant) error {
	r.mu.Lock()
	r.asked = append(r.asked, g.Token)
	lost := r.lost
	r.mu.Unlock()
	if err := r.Client.Release(ctx, g); err != nil || !lost {
		return err
	}
	return backend.ErrLost
}

// An attempt without an answer may arrive when the lease of a later one of its claim has
// been released, and has the lock for nobody then: so the claim is withdrawn as well.
func TestReleaseWithdrawsAnAttemptThatMayArriveLate(t *testing.T) {
	for _, late := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			s := memlock.New()
			r := &releases{Client: s.Client()}
			l := hasp.New(r, nil)
			if late {
				s.Inject(memlock.OpAcquire, "k", memlock.Fault{Err: backend.ErrUnavailable})
			}
			le := acquire(t, l, "k")
			token := le.Token()
			if err := le.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			want := []uint64{token}
			if late {
				want = append(want, 0) // 0 withdraws
			}
			if !slices.Equal(r.asked, want) {
				t.Errorf("with an attempt that may be late (%t) it was released with the tokens %d, and not %d", late, r.asked, want)
			}
		})
	}
}

// A client library that sends a request again by itself finds what it has released in the
// next holder's hands, at the engine's first try.
func TestReleaseByAClientThatRepeats(t *testing.T) {
	for _, repeats := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			s := memlock.New()
			r := &releases{Client: s.Client(), repeats: repeats, lost: true}
			l, other := locker(t, r, nil), locker(t, s.Client(), nil)
			le := acquire(t, l, "k")
			next := make(chan *hasp.Lease)
			go func() {
				le, err := other.Acquire(context.Background(), "k")
				if err != nil {
					t.Error(err)
				}
				next <- le
			}()
			time.Sleep(time.Second) // it waits
			err := le.Release(t.Context())
			if lost := errors.Is(err, hasp.ErrLost); lost == repeats {
				t.Errorf("of a client that repeats (%t) Release gave %v", repeats, err)
			}
			if err := (<-next).Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// wakes is a store whose watchers close their channel after a moment, or wake for nothing.
type wakes struct {
	*memlock.Client
	every time.Duration // 0: closed after a moment
	free  chan struct{} // closed when it is worth waking

	mu      sync.Mutex
	unended int // stops that were given no deadline
	stops   int
}

func (w *wakes) Watch(context.Context, string, backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	wake, quit := make(chan struct{}), make(chan struct{})
	go func() {
		if w.every == 0 {
			time.Sleep(50 * time.Millisecond)
			close(wake)
			return
		}
		free := w.free
		for {
			select {
			case <-time.After(w.every):
			case <-free:
				free = nil
			case <-quit:
				return
			}
			select {
			case wake <- struct{}{}:
			case <-quit:
				return
			}
		}
	}()
	return wake, func(ctx context.Context, _ bool) error {
		close(quit)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stops++
		if w.every > 0 {
			return nil
		}
		if _, ok := ctx.Deadline(); !ok {
			w.unended++
			return nil
		}
		<-ctx.Done() // the store does not answer
		return backend.Unavailable(ctx.Err())
	}, nil
}

// What ends a watch while its Acquire goes on ends with the request's time, and the Acquire
// with its context.
func TestStopOfAWatchThatHasEndedIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := memlock.New()
		holder := acquire(t, locker(t, s.Client(), nil), "k")
		w := &wakes{Client: s.Client()}
		l := hasp.New(w, &hasp.Options{RetryInterval: 100 * time.Millisecond, RequestTimeout: 300 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if _, err := l.Acquire(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it gave %v", err)
		}
		if took := time.Since(begun); took > 1500*time.Millisecond {
			t.Errorf("an Acquire with a context of a second took %v", took)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if w.stops == 0 || w.unended > 0 {
			t.Errorf("%d of %d stops had no deadline", w.unended, w.stops)
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A waiter that is woken for nothing some times a second still hears that the lock is free.
func TestWakeUpsForNothingDoNotDeafen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := memlock.New()
		holder := acquire(t, locker(t, s.Client(), nil), "k")
		w := &wakes{Client: s.Client(), every: 230 * time.Millisecond, free: make(chan struct{})}
		l := locker(t, w, &hasp.Options{RetryInterval: time.Minute})
		got := make(chan time.Time)
		go func() {
			le, err := l.Acquire(context.Background(), "k")
			got <- time.Now()
			if err == nil {
				err = le.Release(context.Background())
			}
			if err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(20*time.Second + 50*time.Millisecond)
		if err := holder.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		freed := time.Now()
		close(w.free)
		if took := (<-got).Sub(freed); took > 10*time.Millisecond {
			t.Errorf("it got the lock %v after it was woken", took)
		}
	})
}

// One that is woken for nothing without a pause looks seldom all the same.
func TestWakeUpsForNothingAreNoBusyLoop(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := memlock.New()
		acquire(t, locker(t, s.Client(), nil), "k")
		w := &wakes{Client: s.Client(), every: time.Millisecond}
		attempts := 0
		l := locker(t, w, &hasp.Options{RetryInterval: time.Minute, Observer: func(e hasp.Event) {
			if e.Kind == hasp.EventAttempt {
				attempts++
			}
		}})
		if _, err := l.Acquire(t.Context(), "k", hasp.WithMaxWait(30*time.Second)); !errors.Is(err, hasp.ErrTimeout) {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil { // events have come
			t.Fatal(err)
		}
		if attempts > 400 {
			t.Errorf("%d attempts in 30 s", attempts)
		}
	})
}
