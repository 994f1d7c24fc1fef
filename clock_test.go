package hasp

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// clocks are a process's, of which a test can move the wall clock alone, as a
// suspension does: the monotonic one stands still meanwhile.
type clocks struct {
	mu   sync.Mutex
	jump time.Duration
}

func (c *clocks) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jump += d
}

func (c *clocks) now() reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := readClocks()
	r.wall = r.wall.Add(c.jump)
	return r
}

// withClocks returns a Locker that reads clocks that can be moved.
func withClocks(t *testing.T, b backend.Backend, opts *Options) (*locker, *clocks) {
	t.Helper()
	l, err := newLocker(b, opts)
	if err != nil {
		t.Fatal(err)
	}
	c := &clocks{}
	l.now = c.now
	t.Cleanup(func() { _ = l.Close() })
	return l, c
}

func mustAcquire(t *testing.T, l Locker, key string) *Lease {
	t.Helper()
	le, err := l.Acquire(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return le
}

func isDone(le *Lease) bool {
	select {
	case <-le.Done():
		return true
	default:
		return false
	}
}

func TestSuspendedPastTheTTL(t *testing.T) {
	for name, opts := range map[string]Options{
		"heartbeats":    {TTL: time.Minute},
		"no heartbeats": {TTL: time.Minute, NoHeartbeat: true},
		"long TTL":      {TTL: 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, c := withClocks(t, memlock.New().Client(), &opts)
				asked, told := mustAcquire(t, l, "asked"), mustAcquire(t, l, "told")
				ctx := told.Context()
				time.Sleep(opts.TTL / 10)
				c.move(opts.TTL)
				// at once to whoever asks
				if err := asked.Err(); !errors.Is(err, ErrLost) {
					t.Errorf("Err is %v in the moment after waking up", err)
				}
				if !isDone(asked) || !errors.Is(context.Cause(asked.Context()), ErrLost) {
					t.Error("Done or Context say that it is held, when Err has said that it is lost")
				}
				if err := asked.Verify(t.Context()); !errors.Is(err, ErrLost) {
					t.Errorf("Verify: %v", err)
				}
				// and soon to whoever does not
				woke := time.Now()
				<-told.Done()
				if d := time.Since(woke); d > time.Second+10*time.Millisecond {
					t.Errorf("Done was closed %v after waking up", d)
				}
				if err := context.Cause(ctx); !errors.Is(err, ErrLost) {
					t.Errorf("cause %v", err)
				}
			})
		})
	}
}

// A suspension that the lease has survived leaves less time than the monotonic
// clock says: heartbeats and the deadline move.
func TestSuspendedForLessThanTheTTL(t *testing.T) {
	t.Run("store answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := memlock.New()
			l, c := withClocks(t, store.Client(), &Options{TTL: time.Minute})
			le := mustAcquire(t, l, "k")
			time.Sleep(time.Second)
			for range 5 {
				before := store.Count(memlock.OpRenew)
				c.move(50 * time.Second) // of the 55 it has
				time.Sleep(2 * time.Second)
				if err := le.Err(); err != nil {
					t.Fatal(err)
				}
				if n := store.Count(memlock.OpRenew) - before; n != 1 {
					t.Fatalf("%d heartbeats in the 2 s after waking up, want 1: it was overdue", n)
				}
			}
		})
	})
	t.Run("store is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client := memlock.New().Client()
			l, c := withClocks(t, client, &Options{TTL: time.Minute})
			le := mustAcquire(t, l, "k")
			start := time.Now()
			client.Partition(true)
			time.Sleep(5 * time.Second)
			c.move(30 * time.Second)
			if d := le.Deadline().Sub(start); d != 25*time.Second {
				t.Errorf("deadline %v after the start, want 55 s less 30", d)
			}
			<-le.Done()
			if d := time.Since(start); d < 25*time.Second || d > 26*time.Second {
				t.Errorf("lost %v after the start, want 55 s less the 30 of the suspension", d)
			}
			client.Partition(false)
		})
	})
	t.Run("in many small pieces", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l, c := withClocks(t, memlock.New().Client(), &Options{TTL: time.Hour, NoHeartbeat: true})
			le := mustAcquire(t, l, "k")
			start := time.Now()
			time.Sleep(500 * time.Millisecond) // between the scheduler's looks at the clocks
			for !isDone(le) {
				time.Sleep(time.Second)
				c.move(9 * time.Millisecond)
			}
			if d := time.Since(start); d < 3560*time.Second || d > 3566*time.Second {
				t.Errorf("lost after %v by a clock that loses 9 ms a second, want 3563 s", d)
			}
		})
	})
}

func TestWallClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memlock.New()
		l, c := withClocks(t, store.Client(), &Options{TTL: time.Minute})
		le := mustAcquire(t, l, "k")
		c.move(-time.Hour)
		time.Sleep(30 * time.Second)
		c.move(-24 * time.Hour)
		deadline := time.Until(le.Deadline())
		if deadline <= 0 || deadline > 55*time.Second {
			t.Errorf("deadline in %v", deadline)
		}
		time.Sleep(10 * time.Minute)
		if err := le.Err(); err != nil {
			t.Error(err)
		}
		if n := store.Count(memlock.OpRenew); n < 30 || n > 40 {
			t.Errorf("%d heartbeats in 10.5 minutes, want one in 18 to 20 s", n)
		}
	})
}

func TestSmallClockStepsAreHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memlock.New()
		l, c := withClocks(t, store.Client(), &Options{TTL: 30 * time.Second})
		le := mustAcquire(t, l, "k")
		steps := []time.Duration{3 * time.Millisecond, -20 * time.Millisecond, time.Second, -1500 * time.Millisecond, 500 * time.Millisecond, -2 * time.Second, 2 * time.Second}
		for i := range 600 {
			time.Sleep(1300 * time.Millisecond)
			c.move(steps[i%len(steps)])
			if err := le.Err(); err != nil {
				t.Fatalf("after step %d: %v", i, err)
			}
		}
		if n := store.Count(memlock.OpRenew); n > 2*600*13/90 {
			t.Errorf("%d heartbeats in 13 minutes", n)
		}
	})
}

// The answer to an acquire that took longer than the TTL by the wall clock.
func TestSuspendedWhileAcquiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memlock.New()
		l, c := withClocks(t, store.Client(), &Options{TTL: time.Minute})
		store.Inject(memlock.OpAcquire, "", memlock.Fault{Delay: time.Second})
		time.AfterFunc(500*time.Millisecond, func() { c.move(time.Hour) })
		_, err := l.TryAcquire(t.Context(), "k")
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable: the lease had run out before the answer came", err)
		}
		le := mustAcquire(t, l, "k")
		if err := le.Err(); err != nil {
			t.Error(err)
		}
	})
}

// renewals is a backend whose Renew is a test's own.
type renewals struct {
	backend.Backend
	renew func(context.Context, backend.Grant) (backend.Grant, error)
}

func (r renewals) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	return r.renew(ctx, g)
}

// The scheduler takes a lease out of its heap as expired, is held up, and in the
// meantime the renewal turns out to have come in time: the lease is held, and has
// to be renewed from then on.
func TestRenewalThatComesThroughAsItsLeaseIsTakenForExpired(t *testing.T) {
	t.Run("in time", func(t *testing.T) { renewAroundTheDeadline(t, -time.Millisecond) })
	t.Run("too late", func(t *testing.T) { renewAroundTheDeadline(t, time.Millisecond) })
}

func renewAroundTheDeadline(t *testing.T, after time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		client := memlock.New().Client()
		var l *locker
		var first *Lease // until it is lost
		var hold, renewed bool
		var mu sync.Mutex
		b := renewals{client, func(ctx context.Context, g backend.Grant) (backend.Grant, error) {
			if g.Key == "first" {
				return g, errors.New("no answer")
			}
			mu.Lock()
			once := !renewed
			renewed = true
			mu.Unlock()
			if once {
				g, err := client.Renew(ctx, g)
				time.Sleep(time.Until(l.leaseOf("second").Deadline()) + after)
				mu.Lock()
				hold = true // the next look at the clocks, by the heart for this renewal
				mu.Unlock()
				return g, err
			}
			return client.Renew(ctx, g)
		}}
		l, err := newLocker(b, &Options{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l.now = func() reading {
			r := readClocks()
			mu.Lock()
			held := hold
			hold = false
			scheduler := first != nil && isDone(first) // it has just found out, and looks how long that was held
			if scheduler {
				first = nil
			}
			mu.Unlock()
			if scheduler {
				time.Sleep(10 * time.Millisecond) // it is held up here
			}
			if held {
				time.Sleep(5 * time.Millisecond) // read in time, acted on after the deadline
			}
			return r
		}
		lost := mustAcquire(t, l, "first")
		mu.Lock()
		first = lost
		mu.Unlock()
		second := mustAcquire(t, l, "second")
		<-lost.Done()
		time.Sleep(time.Second)
		if after > 0 {
			if err := second.Err(); !errors.Is(err, ErrLost) || !isDone(second) {
				t.Errorf("renewed after its deadline: Err %v, Done %v", err, isDone(second))
			}
			return
		}
		if err := second.Err(); err != nil {
			t.Fatalf("the renewal came too late for the race: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if err := second.Err(); err != nil {
			t.Errorf("not renewed any more after the race: %v", err)
		}
		if isDone(second) {
			t.Error("Done is closed")
		}
	})
}

// leaseOf returns the lease on key.
func (l *locker) leaseOf(key string) *Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, le := range l.leases {
		if le.key == key {
			return le
		}
	}
	return nil
}
