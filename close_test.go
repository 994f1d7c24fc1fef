package hasp_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestCloseReleasesLeases(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := hasp.New(store.Client(), nil)
		leases := make([]*hasp.Lease, 100)
		for i := range leases {
			leases[i] = acquire(t, l, fmt.Sprintf("key %d", i))
		}
		ctx := leases[0].Context()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		for i, le := range leases {
			mustMatch(t, le.Err(), hasp.ErrReleased)
			if !closed(le.Done()) {
				t.Fatal("Done is open")
			}
			mustState(t, store, fmt.Sprintf("key %d", i), backend.Free)
			if err := le.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		mustMatch(t, context.Cause(ctx), hasp.ErrReleased)
		if err := l.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
	})
}

func TestClosedLocker(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := hasp.New(store.Client(), nil)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := l.Acquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrClosed)
		_, err = l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrClosed)
		_, err = l.Inspect(t.Context(), "k")
		mustMatch(t, err, hasp.ErrClosed)
		if n := store.Count(memlock.OpAny); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestCloseClosesTheBackend(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		if err := hasp.New(c, nil).Close(); err != nil {
			t.Fatal(err)
		}
		_, err := c.Inspect(t.Context(), "k")
		mustMatch(t, err, backend.ErrClosed)
	})
}

type badClose struct{ backend.Backend }

func (badClose) Close() error { return errors.New("disk full") }

func TestCloseReportsTheBackendsError(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		err := hasp.New(badClose{memlock.New().Client()}, nil).Close()
		if err == nil || !strings.Contains(err.Error(), "hasp: close: disk full") {
			t.Errorf("got %v", err)
		}
	})
}

// Close ends every Acquire with ErrClosed, wherever it is, and stays until they
// have cleaned up.
func TestCloseEndsAcquires(t *testing.T) {
	for name, tc := range map[string]struct {
		free, local bool
		fault       memlock.Fault
		op          memlock.Op
		wake        time.Duration // when the hanging call returns, after Close
		took        time.Duration // how long Close may take
		err         string
	}{
		"waiting":                 {},
		"behind its own process":  {local: true},
		"in the attempt":          {op: memlock.OpAcquire, fault: memlock.Fault{Delay: 5 * time.Second}},
		"in one that is granted":  {free: true, op: memlock.OpAcquire, fault: memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset")), Times: -1}},
		"in a slow grant":         {free: true, op: memlock.OpAcquire, fault: memlock.Fault{Hang: make(chan struct{})}, wake: 50 * time.Millisecond, took: 60 * time.Millisecond},
		"in a very slow grant":    {free: true, op: memlock.OpAcquire, fault: memlock.Fault{Hang: make(chan struct{})}, wake: 5 * time.Second, took: 5 * time.Second},
		"as it begins to watch":   {op: memlock.OpWatch, fault: memlock.Fault{Delay: 5 * time.Second}},
		"in an attempt that hung": {op: memlock.OpAcquire, fault: memlock.Fault{Hang: make(chan struct{})}, wake: time.Hour, took: 10 * time.Second, err: "still hanging after 10s"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				l := hasp.New(store.Client(), nil)
				switch {
				case tc.local:
					acquire(t, l, "k")
				case !tc.free:
					acquire(t, locker(t, store.Client(), nil), "k")
				}
				if tc.fault.Hang != nil {
					unhang := make(chan struct{})
					tc.fault.Hang = unhang
					time.AfterFunc(500*time.Millisecond+tc.wake, func() { close(unhang) })
				}
				if tc.op != "" {
					store.Inject(tc.op, "k", tc.fault)
				}
				got := acquiring(t.Context(), l, "k")
				time.Sleep(500 * time.Millisecond)
				start := time.Now()
				err := l.Close()
				switch {
				case tc.err == "" && err != nil, tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
					t.Errorf("close: %v", err)
				}
				within(t, "Close took", time.Since(start), 0, tc.took)
				o := <-got
				if o.lease != nil {
					t.Fatalf("got a lease, %v", o.lease.Err())
				}
				mustMatch(t, o.err, hasp.ErrClosed)
				within(t, "Acquire returned", o.at.Sub(start), 0, 100*time.Millisecond)
				time.Sleep(2 * time.Hour)
				if tc.free && tc.wake < 10*time.Second {
					mustState(t, store, "k", backend.Free)
				}
				if n := store.Waiters("k"); n != 0 {
					t.Errorf("%d watches are left", n)
				}
			})
		})
	}
}

// Close takes two request timeouts at most, however many leases there are and
// whatever the store does.
func TestCloseIsBounded(t *testing.T) {
	for name, fault := range map[string]func(*memlock.Store, *memlock.Client, chan struct{}){
		"partition": func(_ *memlock.Store, c *memlock.Client, _ chan struct{}) { c.Partition(true) },
		"hanging": func(s *memlock.Store, _ *memlock.Client, unhang chan struct{}) {
			s.Inject(memlock.OpAny, "", memlock.Fault{Hang: unhang, Times: -1})
		},
		"refusing": func(s *memlock.Store, _ *memlock.Client, _ chan struct{}) {
			s.Inject(memlock.OpAny, "", memlock.Fault{Err: backend.Unavailable(errors.New("refused")), Times: -1})
		},
	} {
		for _, n := range []int{1, 500} {
			t.Run(fmt.Sprintf("%s, %d leases", name, n), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					store, unhang := memlock.New(), make(chan struct{})
					c := store.Client()
					l := hasp.New(c, &hasp.Options{RequestTimeout: 2 * time.Second})
					leases := make([]*hasp.Lease, n)
					for i := range leases {
						leases[i] = acquire(t, l, fmt.Sprintf("key %d", i))
					}
					fault(store, c, unhang)
					start := time.Now()
					err := l.Close()
					within(t, "Close took", time.Since(start), 0, 4500*time.Millisecond)
					mustMatch(t, err, hasp.ErrUnavailable)
					if n > 100 && !strings.Contains(err.Error(), "more leases are left to expire") {
						t.Errorf("%v", err)
					}
					for _, le := range leases {
						mustMatch(t, le.Err(), hasp.ErrReleased)
					}
					close(unhang)
					synctest.Wait()
				})
			})
		}
	}
}

// A slow store is not a dead one: all leases are released, however long it takes.
func TestCloseReleasesManyLeasesSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := hasp.New(store.Client(), &hasp.Options{RequestTimeout: 2 * time.Second})
		for i := range 500 {
			acquire(t, l, fmt.Sprintf("key %d", i))
		}
		store.Inject(memlock.OpRelease, "", memlock.Fault{Delay: time.Second, Times: -1})
		start := time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		within(t, "Close took", time.Since(start), 10*time.Second, 20*time.Second)
		for i := range 500 {
			mustState(t, store, fmt.Sprintf("key %d", i), backend.Free)
		}
	})
}

// Whoever holds a lost lease was told so by the lease.
func TestCloseSaysNothingOfLostLeases(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := hasp.New(store.Client(), nil)
		le := acquire(t, l, "k")
		if err := store.Client().Break(t.Context(), "k", le.Token()); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		mustMatch(t, le.Release(t.Context()), hasp.ErrLost)
	})
}

func TestNoEventAfterClose(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var isClosed atomic.Bool
		l := hasp.New(store.Client(), &hasp.Options{TTL: 3 * time.Second, Observer: func(e hasp.Event) {
			if isClosed.Load() {
				t.Errorf("after Close: %+v", e)
			}
		}})
		for i := range 50 {
			acquire(t, l, fmt.Sprintf("key %d", i))
		}
		store.Inject(memlock.OpRenew, "", memlock.Fault{Delay: 300 * time.Millisecond, Times: -1})
		time.Sleep(1100 * time.Millisecond) // renewals are under way
		for range 10 {
			acquiring(t.Context(), l, "key 1")
		}
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		isClosed.Store(true)
		time.Sleep(time.Minute)
	})
}

// A store that refuses at once has been asked all that can be asked: Close does not
// stay with it, whether what is to be freed failed before Close or ends with it.
func TestCloseDoesNotWaitForAStoreThatRefuses(t *testing.T) {
	refused := backend.Unavailable(errors.New("connection refused"))
	for name, tc := range map[string]func(*testing.T, *memlock.Store, hasp.Locker){
		"after a failed acquire": func(t *testing.T, s *memlock.Store, l hasp.Locker) {
			s.Inject(memlock.OpAny, "", memlock.Fault{Err: refused, Times: -1})
			_, err := l.TryAcquire(t.Context(), "k")
			mustMatch(t, err, hasp.ErrUnavailable)
		},
		"during an acquire": func(t *testing.T, s *memlock.Store, l hasp.Locker) {
			s.Inject(memlock.OpAny, "", memlock.Fault{Err: refused, Times: -1})
			acquiring(t.Context(), l, "k")
			time.Sleep(time.Second)
		},
		"after a late grant": func(t *testing.T, s *memlock.Store, l hasp.Locker) {
			s.Inject(memlock.OpAcquire, "k", memlock.Fault{LoseReply: refused})
			// Before the acquire: the withdrawal begins while TryAcquire returns.
			s.Inject(memlock.OpRelease, "", memlock.Fault{Err: refused, Times: -1})
			_, err := l.TryAcquire(t.Context(), "k")
			mustMatch(t, err, hasp.ErrUnavailable)
			s.Inject(memlock.OpAny, "", memlock.Fault{Err: refused, Times: -1})
		},
		"after the release of a lost lease": func(t *testing.T, s *memlock.Store, l hasp.Locker) {
			le := acquire(t, l, "k")
			s.Inject(memlock.OpAny, "", memlock.Fault{Err: refused, Times: -1})
			<-le.Done()
			mustMatch(t, le.Release(t.Context()), hasp.ErrLost)
		},
	} {
		for _, after := range []time.Duration{0, 3500 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, %v later", name, after), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					store := memlock.New()
					l := hasp.New(store.Client(), &hasp.Options{TTL: 30 * time.Second})
					tc(t, store, l)
					time.Sleep(after)
					synctest.Wait()
					tried := store.Count(memlock.OpRelease)
					start := time.Now()
					if err := l.Close(); err != nil {
						t.Error(err)
					}
					within(t, "Close took", time.Since(start), 0, 10*time.Millisecond)
					if n := store.Count(memlock.OpRelease) - tried; n != 1 {
						t.Errorf("%d tries to free it after Close, want 1", n)
					}
				})
			})
		}
	}
}

// The one try after Close is enough if the store is back.
func TestCloseFreesWhatAStoreRefusedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := hasp.New(store.Client(), nil)
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset"))})
		back := store.Inject(memlock.OpRelease, "k", memlock.Fault{Err: backend.Unavailable(errors.New("refused")), Times: -1})
		_, err := l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrUnavailable)
		time.Sleep(3 * time.Second)
		mustState(t, store, "k", backend.Held)
		back()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		mustState(t, store, "k", backend.Free)
	})
}
