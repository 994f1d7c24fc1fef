package hasp_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestLeaseTellsWhatItIs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		le := acquire(t, locker(t, store.Client(), &hasp.Options{Owner: "trainer-7"}), "sweeps/foo")
		rec := mustState(t, store, "sweeps/foo", backend.Held)
		if le.Key() != "sweeps/foo" || le.Token() != rec.Token || le.Token() == 0 || le.Holder() != rec.Holder || le.Holder().Owner != "trainer-7" || le.Grant().ID != rec.ID {
			t.Errorf("key %q, token %d, holder %v, grant %+v; the store has %+v", le.Key(), le.Token(), le.Holder(), le.Grant(), rec)
		}
		if le.Err() != nil || closed(le.Done()) || le.Context().Err() != nil {
			t.Errorf("a lease that is held: Err %v, Done %v, Context %v", le.Err(), closed(le.Done()), le.Context().Err())
		}
	})
}

func TestReleaseIsIdempotent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		le := acquire(t, l, "k")
		ctx, done := le.Context(), le.Done()
		release(t, le)
		mustMatch(t, le.Err(), hasp.ErrReleased)
		mustMatch(t, context.Cause(ctx), hasp.ErrReleased)
		if !closed(done) || !closed(le.Done()) {
			t.Error("Done is open")
		}
		mustState(t, store, "k", backend.Free)
		next := acquire(t, locker(t, store.Client(), nil), "k")
		release(t, le) // frees nothing of another's
		if err := next.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		if n := store.Count(memlock.OpRelease); n != 1 {
			t.Errorf("%d requests to release", n)
		}
		mustMatch(t, le.Verify(t.Context()), hasp.ErrReleased)
	})
}

func TestConcurrentReleasesAreOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		le := acquire(t, locker(t, store.Client(), nil), "k")
		store.Inject(memlock.OpRelease, "k", memlock.Fault{Delay: time.Second, Times: -1})
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := le.Release(context.Background()); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d != time.Second {
					t.Errorf("returned after %v, before the lock was free", d)
				}
				mustMatch(t, le.Err(), hasp.ErrReleased)
			})
		}
		wg.Wait()
		if n := store.Count(memlock.OpRelease); n != 1 {
			t.Errorf("%d requests to release", n)
		}
	})
}

func TestReleaseAfterTheContextHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		ctx, cancel := context.WithCancel(t.Context())
		le, err := locker(t, store.Client(), nil).Acquire(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := le.Err(); err != nil {
			t.Errorf("the context of the Acquire ended the lease: %v", err)
		}
		if err := le.Release(ctx); err != nil {
			t.Error(err)
		}
		mustState(t, store, "k", backend.Free)
	})
}

func TestReleaseIsRepeatedWhileItsOutcomeIsUnknown(t *testing.T) {
	for name, f := range map[string]memlock.Fault{
		"not sent":   {Err: backend.Unavailable(errors.New("refused")), Times: 4},
		"lost reply": {LoseReply: backend.Unavailable(errors.New("reset")), Times: 4},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				le := acquire(t, locker(t, store.Client(), nil), "k")
				store.Inject(memlock.OpRelease, "k", f)
				release(t, le)
				mustState(t, store, "k", backend.Free)
			})
		})
	}
}

func TestReleaseIsBounded(t *testing.T) {
	for name, hang := range map[string]bool{"partition": false, "hanging": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store, unhang := memlock.New(), make(chan struct{})
				c := store.Client()
				l := locker(t, c, &hasp.Options{RequestTimeout: 3 * time.Second})
				le := acquire(t, l, "k")
				if hang {
					store.Inject(memlock.OpRelease, "k", memlock.Fault{Hang: unhang})
				} else {
					c.Partition(true)
				}
				start := time.Now()
				err := le.Release(t.Context())
				mustMatch(t, err, hasp.ErrUnavailable)
				within(t, "Release took", time.Since(start), 3*time.Second, 3100*time.Millisecond)
				mustMatch(t, le.Err(), hasp.ErrReleased)
				if errors.Is(err, hasp.ErrLost) {
					t.Errorf("%v: it was not lost", err)
				}
				if again := le.Release(t.Context()); again == nil || again.Error() != err.Error() {
					t.Errorf("the second Release: %v, the first: %v", again, err)
				}
				c.Partition(false)
				close(unhang)
				// the key frees itself, or what hung has freed it: nobody renews it
				next := acquire(t, l, "k")
				if next.Token() <= le.Token() {
					t.Error("token fell")
				}
			})
		})
	}
}

func TestReleaseAfterLoss(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := store.Client()
		lost := acquire(t, locker(t, c, &hasp.Options{TTL: 30 * time.Second}), "k")
		c.Partition(true)
		next := acquire(t, locker(t, store.Client(), nil), "k")
		c.Partition(false)
		if !closed(lost.Done()) {
			t.Fatal("another has the lock, and the first holder was not told before")
		}
		for range 2 {
			err := lost.Release(t.Context())
			mustMatch(t, err, hasp.ErrLost)
			if errors.Is(err, hasp.ErrReleased) {
				t.Errorf("%v", err)
			}
		}
		mustMatch(t, lost.Err(), hasp.ErrLost)
		if err := next.Verify(t.Context()); err != nil {
			t.Errorf("the successor: %v", err)
		}
	})
}

// Release finds out what no heartbeat has yet.
func TestReleaseFindsOutThatTheLeaseWasLost(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		le := acquire(t, locker(t, store.Client(), nil), "k")
		store.Forget("k")
		next := acquire(t, locker(t, store.Client(), nil), "k")
		mustMatch(t, le.Release(t.Context()), hasp.ErrLost)
		if err := next.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The answer to the first try of a Release is lost, and a later try finds that the
// key has another holder, or had one. That is no loss unless the other had the key
// before Release was called.
func TestReleaseWhoseAnswerWasLost(t *testing.T) {
	reset := backend.Unavailable(errors.New("connection reset"))
	lostAnswer := memlock.Fault{LoseReply: reset}
	notSent := memlock.Fault{Err: reset}
	for name, tc := range map[string]struct {
		fault   memlock.Fault
		before  func(*memlock.Store)             // before Release is called
		between func(*testing.T, *memlock.Store) // after the first try
		inspect func() error                     // what Inspect fails with
		lost    bool
	}{
		"a waiter has it": {fault: lostAnswer, between: func(t *testing.T, s *memlock.Store) {
			acquire(t, locker(t, s.Client(), &hasp.Options{Owner: "the successor"}), "k")
		}},
		"a waiter had it": {fault: lostAnswer, between: func(t *testing.T, s *memlock.Store) {
			release(t, acquire(t, locker(t, s.Client(), nil), "k"))
		}},
		"it ran out meanwhile": {fault: notSent, between: func(t *testing.T, s *memlock.Store) {
			s.Expire("k")
			acquire(t, locker(t, s.Client(), nil), "k")
		}},
		"Inspect does not answer": {fault: lostAnswer, inspect: func() error { return reset }, between: func(t *testing.T, s *memlock.Store) {
			acquire(t, locker(t, s.Client(), nil), "k")
		}},
		"it was gone, and nobody has it": {fault: lostAnswer, before: func(s *memlock.Store) { s.Forget("k") }},
		"it was taken over before": {fault: lostAnswer, lost: true, before: func(s *memlock.Store) {
			s.Expire("k")
			c := s.Client()
			if _, err := c.Acquire(context.Background(), "k", backend.Claim{ID: "robber", Holder: backend.Holder{Owner: "the successor"}, TTL: time.Hour}); err != nil {
				panic(err)
			}
			time.Sleep(10 * time.Second)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				c := store.Client()
				between := tc.between
				b := &stub{Backend: c, release: func(ctx context.Context, g backend.Grant) error {
					err := c.Release(ctx, g)
					if between != nil {
						f := between
						between = nil
						f(t, store)
					}
					return err
				}, inspect: func(ctx context.Context, key string) (backend.Record, error) {
					if tc.inspect != nil {
						return backend.Record{}, tc.inspect()
					}
					return c.Inspect(ctx, key)
				}}
				var rec recorder
				l := hasp.New(b, &hasp.Options{Observer: rec.observe})
				le := acquire(t, l, "k")
				time.Sleep(time.Minute)
				if tc.before != nil {
					tc.before(store)
				}
				store.Inject(memlock.OpRelease, "k", tc.fault)
				err := le.Release(t.Context())
				if tc.lost {
					mustMatch(t, err, hasp.ErrLost)
					if !strings.Contains(err.Error(), "the successor") {
						t.Errorf("%q does not name who has it", err)
					}
				} else if err != nil {
					t.Errorf("Release: %v", err)
				}
				mustMatch(t, le.Err(), hasp.ErrReleased)
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				es, _ := rec.of(hasp.EventReleased)
				if len(es) != 1 || errors.Is(es[0].Err, hasp.ErrLost) != tc.lost {
					t.Errorf("events %+v", es)
				}
			})
		})
	}
}

// With a real waiter, which takes the lock the moment that it is free.
func TestReleaseWhoseAnswerWasLostWithAWaiter(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		le := acquire(t, locker(t, store.Client(), nil), "k")
		got := acquiring(t.Context(), locker(t, store.Client(), nil), "k")
		time.Sleep(200 * time.Second)
		store.Inject(memlock.OpRelease, "k", memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset"))})
		release(t, le)
		next := <-got
		if next.err != nil {
			t.Fatal(next.err)
		}
		if err := next.lease.Verify(t.Context()); err != nil {
			t.Errorf("the successor: %v", err)
		}
		release(t, next.lease)
	})
}

func TestVerify(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(*testing.T, *memlock.Store, *memlock.Client, *hasp.Lease)
		want error
		lost bool
	}{
		"held":        {func(*testing.T, *memlock.Store, *memlock.Client, *hasp.Lease) {}, nil, false},
		"partitioned": {func(_ *testing.T, _ *memlock.Store, c *memlock.Client, _ *hasp.Lease) { c.Partition(true) }, hasp.ErrUnavailable, false},
		"forgotten":   {func(_ *testing.T, s *memlock.Store, _ *memlock.Client, _ *hasp.Lease) { s.Forget("k") }, hasp.ErrLost, true},
		"stale":       {func(_ *testing.T, s *memlock.Store, _ *memlock.Client, _ *hasp.Lease) { s.Expire("k") }, hasp.ErrLost, true},
		"broken": {func(t *testing.T, s *memlock.Store, _ *memlock.Client, le *hasp.Lease) {
			if err := s.Client().Break(t.Context(), "k", le.Token()); err != nil {
				t.Error(err)
			}
		}, hasp.ErrLost, true},
		"taken over": {func(t *testing.T, s *memlock.Store, _ *memlock.Client, _ *hasp.Lease) {
			s.Expire("k")
			acquire(t, locker(t, s.Client(), &hasp.Options{Owner: "the successor"}), "k")
		}, hasp.ErrLost, true},
		"released": {func(t *testing.T, _ *memlock.Store, _ *memlock.Client, le *hasp.Lease) { release(t, le) }, hasp.ErrReleased, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				c := store.Client()
				// without the store's word of loss, which would spare Verify the question
				l := locker(t, plain{c}, &hasp.Options{RequestTimeout: time.Second})
				le := acquire(t, l, "k")
				tc.do(t, store, c, le)
				err := le.Verify(t.Context())
				if tc.want == nil && err != nil {
					t.Errorf("got %v", err)
				}
				if tc.want != nil {
					mustMatch(t, err, tc.want)
					if !strings.HasPrefix(err.Error(), `hasp: verify "k": `) {
						t.Errorf("%q does not tell the operation and the key", err)
					}
				}
				if name == "taken over" && !strings.Contains(err.Error(), "the successor") {
					t.Errorf("%q does not name who has it", err)
				}
				if got := errors.Is(le.Err(), hasp.ErrLost); got != tc.lost || closed(le.Done()) != (tc.lost || name == "released") {
					t.Errorf("after that Err is %v, Done %v", le.Err(), closed(le.Done()))
				}
				c.Partition(false)
			})
		})
	}
}

// A store that knows the token and not the claim has said enough.
func TestVerifyWithoutTheClaimsID(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		b := &stub{Backend: c, inspect: func(ctx context.Context, key string) (backend.Record, error) {
			rec, err := c.Inspect(ctx, key)
			rec.ID = ""
			return rec, err
		}}
		le := acquire(t, locker(t, b, nil), "k")
		if err := le.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestVerifyByTheTokenAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		b := &stub{Backend: c, inspect: func(ctx context.Context, key string) (backend.Record, error) {
			rec, err := c.Inspect(ctx, key)
			rec.ID = ""
			rec.Token++
			return rec, err
		}}
		mustMatch(t, acquire(t, locker(t, b, nil), "k").Verify(t.Context()), hasp.ErrLost)
	})
}

func TestVerifyIsCancelled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		le := acquire(t, locker(t, c, nil), "k")
		c.Partition(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		mustMatch(t, le.Verify(ctx), context.DeadlineExceeded)
		within(t, "Verify took", time.Since(start), time.Second, time.Second)
		c.Partition(false)
	})
}

type valueKey struct{}

func TestLeaseContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		actx, cancel := context.WithTimeout(context.WithValue(t.Context(), valueKey{}, "trace 17"), time.Second)
		defer cancel()
		le, err := locker(t, store.Client(), nil).Acquire(actx, "k")
		if err != nil {
			t.Fatal(err)
		}
		ctx := le.Context()
		if ctx.Value(valueKey{}) != "trace 17" {
			t.Error("the values of the context given to Acquire are gone")
		}
		time.Sleep(time.Hour)
		if _, ok := ctx.Deadline(); ok || ctx.Err() != nil {
			t.Errorf("it has the deadline of the waiting: %v", ctx.Err())
		}
		if le.Context() != ctx {
			t.Error("two contexts")
		}
		derived, stop := context.WithCancel(ctx)
		defer stop()
		store.Forget("k")
		<-derived.Done()
		mustMatch(t, context.Cause(derived), hasp.ErrLost)
		mustMatch(t, ctx.Err(), context.Canceled)
		// who asks only now is told as well
		if !closed(le.Done()) {
			t.Error("Done is open")
		}
		other := acquire(t, locker(t, store.Client(), nil), "other")
		release(t, other)
		mustMatch(t, context.Cause(other.Context()), hasp.ErrReleased)
	})
}

// Everything at once, for the race detector.
func TestLeaseMethodsRunConcurrently(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: 3 * time.Second, Heartbeat: 10 * time.Millisecond})
		for round := range 20 {
			le := acquire(t, l, "k")
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for range 20 {
						_, _, _, _ = le.Deadline(), le.Token(), le.Holder(), le.Grant()
						_, _ = le.Err(), le.Context().Err()
						_ = closed(le.Done())
						_ = le.Verify(context.Background())
						time.Sleep(time.Duration(1+i) * time.Millisecond)
					}
				})
			}
			wg.Go(func() {
				time.Sleep(50 * time.Millisecond)
				if round%2 == 0 {
					_ = store.Client().Break(context.Background(), "k", le.Token())
				}
				_ = le.Release(context.Background())
			})
			wg.Wait()
			synctest.Wait()
			if le.Err() == nil {
				t.Error("held after Release")
			}
		}
	})
}
