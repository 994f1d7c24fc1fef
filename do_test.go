package hasp_test

import (
	"context"
	"errors"
	neturl "net/url"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

var errWork = errors.New("the work failed")

func TestDo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		ctx := context.WithValue(t.Context(), valueKey{}, "trace 17")
		err := hasp.Do(ctx, l, "k", func(ctx context.Context, le *hasp.Lease) error {
			rec := mustState(t, store, "k", backend.Held)
			if le.Token() != rec.Token || le.Key() != "k" || ctx.Err() != nil || ctx.Value(valueKey{}) != "trace 17" {
				t.Errorf("lease %d, context %v", le.Token(), ctx)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		mustState(t, store, "k", backend.Free)
		if err := hasp.Do(ctx, l, "k", func(context.Context, *hasp.Lease) error { return errWork }); err != errWork {
			t.Errorf("got %v, want fn's error as it is", err)
		}
		mustState(t, store, "k", backend.Free)
	})
}

// closedClient tells when it is closed.
type closedClient struct {
	*memlock.Client
	closed *bool
}

func (c closedClient) Close() error {
	*c.closed = true
	return c.Client.Close()
}

// openTold is how a store of the scheme told is opened. A scheme is registered once.
var openTold func() backend.Backend

func init() {
	backend.Register("told", func(context.Context, *neturl.URL) (backend.Backend, error) { return openTold(), nil })
}

// One call opens a store, holds the key for as long as fn runs, and closes the store.
func TestDoURL(t *testing.T) {
	const url = "told:"
	store, closed := memlock.New(), false
	openTold = func() backend.Backend { return closedClient{store.Client(), &closed} }
	l := locker(t, store.Client(), nil)
	state := func() hasp.State {
		t.Helper()
		rec, err := l.Inspect(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		return rec.State
	}
	var lease *hasp.Lease
	err := hasp.DoURL(t.Context(), url, "k", nil, func(ctx context.Context, le *hasp.Lease) error {
		lease = le
		if s := state(); s != hasp.Held || ctx.Err() != nil || closed {
			t.Errorf("the key is %v, context %v, closed: %v", s, ctx.Err(), closed)
		}
		return errWork
	})
	if !errors.Is(err, errWork) {
		t.Errorf("got %v, want fn's error", err)
	}
	if s := state(); s != hasp.Free || lease.Context().Err() == nil || !closed {
		t.Errorf("afterwards the key is %v, the lease's context %v, closed: %v", s, lease.Context().Err(), closed)
	}
	never := func(context.Context, *hasp.Lease) error { t.Error("fn ran"); return nil }
	for _, url := range []string{"nowhere:x", "mem:?no=such"} {
		if err := hasp.DoURL(t.Context(), url, "k", nil, never); err == nil {
			t.Errorf("%s was opened", url)
		}
	}
	if err := hasp.DoURL(t.Context(), url, "k", &hasp.Options{TTL: -1}, never); err == nil {
		t.Error("a negative TTL was taken")
	}
}

func TestDoWithoutTheLock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		acquire(t, locker(t, store.Client(), nil), "k")
		err := hasp.Do(t.Context(), locker(t, store.Client(), nil), "k", func(context.Context, *hasp.Lease) error {
			t.Error("fn ran")
			return nil
		})
		mustMatch(t, err, hasp.ErrTimeout, hasp.ErrHeld)
	})
}

func TestDoStopsWorkThatHasLostItsLock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second})
		start := time.Now()
		err := hasp.Do(t.Context(), l, "k", func(ctx context.Context, le *hasp.Lease) error {
			store.Forget("k")
			<-ctx.Done()
			mustMatch(t, context.Cause(ctx), hasp.ErrLost)
			return errWork
		})
		within(t, "stopped", time.Since(start), time.Second, 10*time.Second)
		mustMatch(t, err, hasp.ErrLost, errWork)

		// also if fn does not notice
		err = hasp.Do(t.Context(), l, "k", func(context.Context, *hasp.Lease) error {
			store.Forget("k")
			time.Sleep(time.Minute)
			return nil
		})
		mustMatch(t, err, hasp.ErrLost)
	})
}

// The store that cannot be reached is no reason to hear late of the loss.
func TestDoReturnsSoonAfterALoss(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := store.Client()
		l := locker(t, c, &hasp.Options{TTL: 30 * time.Second})
		start := time.Now()
		err := hasp.Do(t.Context(), l, "k", func(ctx context.Context, _ *hasp.Lease) error {
			c.Partition(true)
			<-ctx.Done()
			return nil
		})
		c.Partition(false)
		mustMatch(t, err, hasp.ErrLost)
		within(t, "Do returned", time.Since(start), 27*time.Second, 27*time.Second)
	})
}

// And what the store still has of a lost lease is freed all the same.
func TestReleaseOfALostLeaseFreesIt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := store.Client()
		le := acquire(t, locker(t, c, &hasp.Options{TTL: 30 * time.Second}), "k")
		store.Inject(memlock.OpRenew, "k", memlock.Fault{Err: errWork, Times: -1})
		<-le.Done()
		mustState(t, store, "k", backend.Held) // until its TTL has run out
		mustMatch(t, le.Release(t.Context()), hasp.ErrLost)
		synctest.Wait()
		mustState(t, store, "k", backend.Free)
	})
}

func TestDoEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errShutdown) })
		err := hasp.Do(ctx, locker(t, store.Client(), nil), "k", func(ctx context.Context, le *hasp.Lease) error {
			<-ctx.Done()
			if err := le.Err(); err != nil {
				t.Errorf("the lease ended before the work did: %v", err)
			}
			return context.Cause(ctx)
		})
		mustMatch(t, err, errShutdown)
		mustState(t, store, "k", backend.Free)
	})
}

func TestDoReleasesWhateverHappens(t *testing.T) {
	for name, fn := range map[string]func(){
		"panic":  func() { panic("the work panics") },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				l := locker(t, store.Client(), nil)
				recovered := make(chan any)
				go func() {
					defer func() { recovered <- recover() }()
					_ = hasp.Do(context.Background(), l, "k", func(context.Context, *hasp.Lease) error {
						fn()
						return nil
					})
				}()
				if r := <-recovered; name == "panic" && r != "the work panics" {
					t.Errorf("the panic became %v", r)
				}
				mustState(t, store, "k", backend.Free)
			})
		})
	}
}

func TestDoReportsAReleaseThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		refused := errors.New("refused")
		store.Inject(memlock.OpRelease, "k", memlock.Fault{Err: refused})
		err := hasp.Do(t.Context(), locker(t, store.Client(), nil), "k", func(context.Context, *hasp.Lease) error { return errWork })
		mustMatch(t, err, refused, errWork)
	})
}

func TestOnce(t *testing.T) {
	yes := func(context.Context) (bool, error) { return true, nil }
	no := func(context.Context) (bool, error) { return false, nil }
	fails := func(context.Context) (bool, error) { return false, errShutdown }
	later := func(first, second func(context.Context) (bool, error)) func(context.Context) (bool, error) {
		n := 0
		return func(ctx context.Context) (bool, error) {
			n++
			if n == 1 {
				return first(ctx)
			}
			return second(ctx)
		}
	}
	for name, tc := range map[string]struct {
		done     func(context.Context) (bool, error)
		fn       error
		ran      bool
		err      error
		acquires int
	}{
		"done before":                   {yes, nil, false, nil, 0},
		"not done":                      {no, nil, true, nil, 1},
		"not done, and the work fails":  {no, errWork, true, errWork, 1},
		"done by another while waiting": {later(no, yes), nil, false, nil, 1},
		"cannot be told":                {fails, nil, false, errShutdown, 0},
		"cannot be told under the lock": {later(no, fails), nil, false, errShutdown, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				called := false
				ran, err := hasp.Once(t.Context(), locker(t, store.Client(), nil), "k", tc.done, func(context.Context, *hasp.Lease) error {
					called = true
					return tc.fn
				})
				if ran != tc.ran || called != tc.ran || !errors.Is(err, tc.err) {
					t.Errorf("ran %v (fn called: %v), %v; want %v, %v", ran, called, err, tc.ran, tc.err)
				}
				if n := store.Count(memlock.OpAcquire); n != tc.acquires {
					t.Errorf("%d acquires, want %d", n, tc.acquires)
				}
				mustState(t, store, "k", backend.Free)
			})
		})
	}
	t.Run("no lock to be had", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			acquire(t, locker(t, store.Client(), nil), "k")
			ran, err := hasp.Once(t.Context(), locker(t, store.Client(), nil), "k", no, func(context.Context, *hasp.Lease) error { return nil })
			if ran {
				t.Error("it ran")
			}
			mustMatch(t, err, hasp.ErrTimeout)
		})
	})
	t.Run("lost", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			ran, err := hasp.Once(t.Context(), locker(t, store.Client(), nil), "k", no, func(ctx context.Context, _ *hasp.Lease) error {
				store.Forget("k")
				<-ctx.Done()
				return nil
			})
			if !ran {
				t.Error("it did not run")
			}
			mustMatch(t, err, hasp.ErrLost)
		})
	})
}

// Eight processes, and one of them creates the sweep.
func TestOnceAmongMany(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var mu sync.Mutex
		created, exists := 0, false
		var wg sync.WaitGroup
		for range 8 {
			l := locker(t, store.Client(), nil)
			wg.Go(func() {
				_, err := hasp.Once(context.Background(), l, "k", func(context.Context) (bool, error) {
					mu.Lock()
					defer mu.Unlock()
					return exists, nil
				}, func(context.Context, *hasp.Lease) error {
					time.Sleep(time.Second)
					mu.Lock()
					defer mu.Unlock()
					created++
					exists = true
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if created != 1 {
			t.Errorf("%d created it", created)
		}
	})
}
