package hasp_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

var errShutdown = errors.New("the node is going away")

// An Acquire can be cancelled wherever it is: it returns at once, with the cause
// and the holder last seen, and nothing of it is left.
func TestCancelledAcquireReturnsAtOnceAndLeavesNothing(t *testing.T) {
	type scene struct {
		store  *memlock.Store
		holder *hasp.Lease // of "k" in another process; nil if the test wants it free
		local  *hasp.Lease // of "k" in the same Locker
		unhang chan struct{}
	}
	for name, tc := range map[string]struct {
		free   bool // nobody holds k
		local  bool // a goroutine of the same Locker holds k
		setup  func(s *scene)
		after  time.Duration // when to cancel
		prompt time.Duration // how long it may take to return
		holder bool          // the error names the holder
	}{
		"before it began":          {after: -1},
		"in the attempt":           {setup: func(s *scene) { s.store.Inject(memlock.OpAcquire, "", memlock.Fault{Delay: 3 * time.Second}) }, after: time.Second},
		"in the attempt, if free":  {free: true, setup: func(s *scene) { s.store.Inject(memlock.OpAcquire, "", memlock.Fault{Delay: 3 * time.Second}) }, after: time.Second},
		"in an attempt that hangs": {setup: func(s *scene) { s.store.Inject(memlock.OpAcquire, "", memlock.Fault{Hang: s.unhang}) }, after: time.Second, prompt: 100 * time.Millisecond},
		"in one that is granted":   {free: true, setup: func(s *scene) { s.store.Inject(memlock.OpAcquire, "", memlock.Fault{Hang: s.unhang}) }, after: time.Second, prompt: 100 * time.Millisecond},
		"in the second attempt": {setup: func(s *scene) {
			time.AfterFunc(time.Millisecond, func() { s.store.Inject(memlock.OpAcquire, "", memlock.Fault{Delay: 3 * time.Second, Times: -1}) })
		}, after: 7 * time.Second, holder: true},
		"as it begins to watch":      {setup: func(s *scene) { s.store.Inject(memlock.OpWatch, "", memlock.Fault{Delay: 3 * time.Second}) }, after: time.Second, holder: true},
		"as beginning to watch hung": {setup: func(s *scene) { s.store.Inject(memlock.OpWatch, "", memlock.Fault{Hang: s.unhang}) }, after: time.Second, prompt: 100 * time.Millisecond, holder: true},
		"while it watches":           {after: time.Second, holder: true},
		"after some retries":         {after: 63 * time.Second, holder: true},
		"behind its own process":     {local: true, after: 63 * time.Second, holder: true},
		"while the store is silent": {free: true, setup: func(s *scene) {
			s.store.Inject(memlock.OpAcquire, "", memlock.Fault{Err: backend.Unavailable(errors.New("refused")), Times: -1})
		}, after: time.Second},
		"while replies get lost": {free: true, setup: func(s *scene) {
			s.store.Inject(memlock.OpAcquire, "", memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset")), Times: -1})
		}, after: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := scene{store: memlock.New(), unhang: make(chan struct{})}
				l := locker(t, s.store.Client(), nil)
				switch {
				case tc.local:
					s.local = acquire(t, l, "k")
				case !tc.free:
					s.holder = acquire(t, locker(t, s.store.Client(), &hasp.Options{Owner: "trainer-7"}), "k")
				}
				if tc.setup != nil {
					tc.setup(&s)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				if tc.after < 0 {
					cancel(errShutdown)
				}
				got := acquiring(ctx, l, "k")
				time.Sleep(max(0, tc.after))
				start := time.Now()
				cancel(errShutdown)
				o := <-got
				if o.err == nil {
					t.Fatal("got the lock")
				}
				within(t, "returned", o.at.Sub(start), 0, tc.prompt)
				mustMatch(t, o.err, errShutdown, context.Canceled)
				if errors.Is(o.err, hasp.ErrTimeout) {
					t.Errorf("%v: nothing timed out", o.err)
				}
				var held *hasp.HeldError
				switch named := errors.As(o.err, &held); {
				case named != tc.holder:
					t.Errorf("holder named: %v, want %v: %v", named, tc.holder, o.err)
				case named && s.holder != nil && held.Record.Token != s.holder.Token():
					t.Errorf("the holder named is %+v", held.Record)
				}
				if !strings.Contains(o.err.Error(), errShutdown.Error()) {
					t.Errorf("%q does not tell the cause", o.err)
				}

				time.Sleep(5 * time.Second)
				close(s.unhang) // the store acts on what hung, long after the caller has gone
				time.Sleep(5 * time.Second)
				for _, le := range []*hasp.Lease{s.holder, s.local} {
					if le != nil {
						release(t, le)
					}
				}
				synctest.Wait()
				mustState(t, s.store, "k", backend.Free)
				if n := s.store.Waiters("k"); n != 0 {
					t.Errorf("%d watches are left", n)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// prompt is a client whose calls the engine makes in the caller's goroutine.
type prompt struct{ *memlock.Client }

func (prompt) Prompt() bool { return true }

// The same where no call can hang, so that the engine needs no goroutine to leave
// one behind.
func TestPromptBackend(t *testing.T) {
	for name, end := range map[string]func(cancel context.CancelCauseFunc, l hasp.Locker) error{
		"cancelled": func(cancel context.CancelCauseFunc, _ hasp.Locker) error {
			cancel(errShutdown)
			return errShutdown
		},
		"closed": func(_ context.CancelCauseFunc, l hasp.Locker) error {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			return hasp.ErrClosed
		},
	} {
		for _, f := range []memlock.Fault{
			{Delay: 3 * time.Second, Times: -1},
			{LoseReply: backend.Unavailable(errors.New("reset")), Times: -1},
		} {
			t.Run(fmt.Sprintf("%s, delay %v", name, f.Delay), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					store := memlock.New()
					l := locker(t, prompt{store.Client()}, nil)
					release(t, acquire(t, l, "k"))
					store.Inject(memlock.OpAcquire, "", f)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					got := acquiring(ctx, l, "k")
					time.Sleep(time.Second)
					start := time.Now()
					want := end(cancel, l)
					o := <-got
					mustMatch(t, o.err, want)
					within(t, "returned", o.at.Sub(start), 0, 0)
					synctest.Wait()
					mustState(t, store, "k", backend.Free)
				})
			})
		}
	}
}

func TestDeadlineOfTheContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		acquire(t, locker(t, store.Client(), nil), "k")
		ctx, cancel := context.WithTimeout(t.Context(), 17*time.Second)
		defer cancel()
		start := time.Now()
		_, err := locker(t, store.Client(), nil).Acquire(ctx, "k")
		mustMatch(t, err, context.DeadlineExceeded, hasp.ErrHeld)
		if errors.Is(err, hasp.ErrTimeout) {
			t.Errorf("%v matches ErrTimeout, which is for the retries", err)
		}
		if d := time.Since(start); d != 17*time.Second {
			t.Errorf("waited %v", d)
		}
	})
}

// claims records the claim IDs that a client uses.
type claims struct {
	mu  sync.Mutex
	ids []string
}

func (c *claims) backend(b backend.Backend) *stub {
	return &stub{Backend: b, acquire: func(ctx context.Context, key string, cl backend.Claim) (backend.Grant, error) {
		c.mu.Lock()
		c.ids = append(c.ids, cl.ID)
		c.mu.Unlock()
		return b.Acquire(ctx, key, cl)
	}}
}

func (c *claims) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ids)
}

func TestUnknownOutcomeIsRepeatedWithTheSameClaim(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset")), Times: 3})
		var cs claims
		l := locker(t, cs.backend(store.Client()), nil)
		start := time.Now()
		le := acquire(t, l, "k")
		ids := cs.list()
		if len(ids) != 4 || len(slices.Compact(slices.Clone(ids))) != 1 {
			t.Errorf("claims %v, want one, four times", ids)
		}
		rec := mustState(t, store, "k", backend.Held)
		if rec.Token != le.Token() || rec.ID != ids[0] {
			t.Errorf("%+v is not the lease's, token %d", rec, le.Token())
		}
		within(t, "took", time.Since(start), 100*time.Millisecond, 2*time.Second)
		release(t, le)
		// another Acquire is another claim
		release(t, acquire(t, l, "k"))
		if ids := cs.list(); ids[4] == ids[0] {
			t.Error("two leases have one claim ID")
		}
	})
}

// A call that hangs may act at any time later. Whatever is acquired in the
// meantime must be safe from it, and from the clean-up after it.
func TestAbandonedCallDoesNotHarmALaterGrant(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		unhang := make(chan struct{})
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{Hang: unhang})
		var cs claims
		l := locker(t, cs.backend(store.Client()), &hasp.Options{RequestTimeout: time.Second})
		first := acquire(t, l, "k")
		if ids := cs.list(); len(ids) != 2 || ids[0] == ids[1] {
			t.Errorf("claims %v, want a fresh one after the call that hung", ids)
		}
		release(t, first)
		// free: what hung takes the key now, and has to give it back
		close(unhang)
		second := acquire(t, l, "k")
		time.Sleep(time.Hour)
		if err := second.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		release(t, second)
		mustState(t, store, "k", backend.Free)
	})
}

// It may also be the answer that hangs: the store has acted, and the key must not
// be left to that claim until its TTL has run out.
func TestAnswerThatHangsIsWithdrawnAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := store.Client()
		unhang := make(chan struct{})
		var calls atomic.Int32
		b := &stub{Backend: c, acquire: func(ctx context.Context, key string, cl backend.Claim) (backend.Grant, error) {
			g, err := c.Acquire(ctx, key, cl)
			if calls.Add(1) == 1 {
				<-unhang
			}
			return g, err
		}}
		l := locker(t, b, &hasp.Options{RequestTimeout: time.Second})
		start := time.Now()
		le := acquire(t, l, "k")
		within(t, "acquired", time.Since(start), time.Second, 2*time.Second)
		close(unhang)
		time.Sleep(time.Hour)
		if err := le.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The store acts on a request that was given up only after a later attempt was
// told that another holds the key.
func TestRequestThatArrivesLateIsWithdrawn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := store.Client()
		holder := acquire(t, locker(t, store.Client(), nil), "k")
		var calls atomic.Int32
		var wg sync.WaitGroup
		b := &stub{Backend: c, acquire: func(ctx context.Context, key string, cl backend.Claim) (backend.Grant, error) {
			if calls.Add(1) == 1 {
				wg.Go(func() {
					time.Sleep(2 * time.Second) // in the network
					if _, err := c.Acquire(context.WithoutCancel(ctx), key, cl); err != nil {
						t.Error(err)
					}
				})
				return backend.Grant{}, backend.Unavailable(errors.New("connection reset"))
			}
			return c.Acquire(ctx, key, cl)
		}}
		l := locker(t, b, &hasp.Options{RetryInterval: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		got := acquiring(ctx, l, "k")
		time.Sleep(time.Second)
		release(t, holder)
		wg.Wait()
		cancel()
		if o := <-got; o.err == nil {
			t.Fatal("got it")
		}
		time.Sleep(time.Second)
		mustState(t, store, "k", backend.Free)
	})
}

func TestUnavailableStore(t *testing.T) {
	refused := memlock.Fault{Err: backend.Unavailable(errors.New("connection refused")), Times: -1}
	for name, tc := range map[string]struct {
		opts     hasp.Options
		fault    func(*memlock.Store, *memlock.Client)
		lo, hi   time.Duration
		attempts [2]int
	}{
		"refused":                     {hasp.Options{}, func(s *memlock.Store, _ *memlock.Client) { s.Inject("", "", refused) }, 10 * time.Second, 11 * time.Second, [2]int{10, 50}},
		"refused, -1":                 {hasp.Options{MaxUnavailable: -1}, func(s *memlock.Store, _ *memlock.Client) { s.Inject("", "", refused) }, 0, 0, [2]int{1, 1}},
		"refused, 1 m":                {hasp.Options{MaxUnavailable: time.Minute}, func(s *memlock.Store, _ *memlock.Client) { s.Inject("", "", refused) }, time.Minute, 62 * time.Second, [2]int{50, 250}},
		"partition":                   {hasp.Options{RequestTimeout: time.Second}, func(_ *memlock.Store, c *memlock.Client) { c.Partition(true) }, 10 * time.Second, 13 * time.Second, [2]int{5, 12}},
		"partition, default timeouts": {hasp.Options{}, func(_ *memlock.Store, c *memlock.Client) { c.Partition(true) }, 10 * time.Second, 11 * time.Second, [2]int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				c := store.Client()
				l := locker(t, c, &tc.opts)
				tc.fault(store, c)
				start := time.Now()
				_, err := l.Acquire(t.Context(), "k")
				mustMatch(t, err, hasp.ErrUnavailable)
				if errors.Is(err, hasp.ErrTimeout) || errors.Is(err, hasp.ErrHeld) {
					t.Errorf("%v: it is not known to be held", err)
				}
				within(t, "failed", time.Since(start), tc.lo, tc.hi)
				if n := store.Count(memlock.OpAcquire); n < tc.attempts[0] || n > tc.attempts[1] {
					t.Errorf("%d attempts, want %v", n, tc.attempts)
				}
				c.Partition(false)
			})
		})
	}
}

func TestTryAcquireOnAnUnavailableStore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		store.Inject(memlock.OpAcquire, "", memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset"))})
		l := locker(t, store.Client(), nil)
		_, err := l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrUnavailable)
		if n := store.Count(memlock.OpAcquire); n != 1 {
			t.Errorf("%d attempts", n)
		}
		synctest.Wait()
		mustState(t, store, "k", backend.Free) // withdrawn
	})
}

// A store's silence is counted from its first attempt without an answer, not from
// an answer that is old because nothing was asked.
func TestOneBlipAfterALongWaitIsForgiven(t *testing.T) {
	blip := memlock.Fault{Err: backend.Unavailable(errors.New("connection refused")), Times: 2}
	t.Run("in the local queue", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			l := locker(t, store.Client(), nil)
			first := acquire(t, l, "k")
			got := acquiring(t.Context(), l, "k")
			time.Sleep(2 * time.Minute)
			store.Inject(memlock.OpAcquire, "k", blip)
			release(t, first)
			if o := <-got; o.err != nil {
				t.Error(o.err)
			}
		})
	})
	t.Run("each time", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			first := acquire(t, locker(t, store.Client(), nil), "k")
			got := acquiring(t.Context(), locker(t, plain{store.Client()}, nil), "k")
			for range 10 {
				store.Inject(memlock.OpAcquire, "k", blip)
				time.Sleep(20 * time.Second)
			}
			release(t, first)
			if o := <-got; o.err != nil {
				t.Error(o.err)
			}
		})
	})
	t.Run("between retries", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			first := acquire(t, locker(t, store.Client(), nil), "k")
			got := acquiring(t.Context(), locker(t, plain{store.Client()}, &hasp.Options{RetryInterval: time.Minute}), "k")
			time.Sleep(30 * time.Second)
			store.Inject(memlock.OpAcquire, "k", blip)
			release(t, first)
			if o := <-got; o.err != nil {
				t.Error(o.err)
			}
		})
	})
}

func TestAnswerLaterThanTheTTLIsNoLease(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		opts := &hasp.Options{TTL: 3 * time.Second}
		l := locker(t, store.Client(), opts)
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{Delay: 2800 * time.Millisecond})
		_, err := l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrUnavailable)
		if err == nil || !strings.Contains(err.Error(), "longer than the lock is valid") {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		mustState(t, store, "k", backend.Free)

		store.Inject(memlock.OpAcquire, "k", memlock.Fault{Delay: 2800 * time.Millisecond})
		le := acquire(t, l, "k")
		if err := le.Err(); err != nil || time.Until(le.Deadline()) < 2*time.Second {
			t.Errorf("%v, deadline in %v", err, time.Until(le.Deadline()))
		}
		if n := store.Count(memlock.OpAcquire); n != 3 {
			t.Errorf("%d attempts, want 1 and 2", n)
		}
	})
}

func TestDefiniteErrorsAreNotRetried(t *testing.T) {
	for _, want := range []error{backend.ErrCorrupt, backend.ErrInvalidKey, backend.ErrUnsupported, errors.New("permission denied")} {
		t.Run(want.Error(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				store.Inject(memlock.OpAcquire, "", memlock.Fault{Err: fmt.Errorf("wrapped: %w", want)})
				start := time.Now()
				_, err := locker(t, store.Client(), nil).Acquire(t.Context(), "k")
				mustMatch(t, err, want)
				if n := store.Count(memlock.OpAny); n != 1 || time.Since(start) != 0 {
					t.Errorf("%d requests in %v, want 1", n, time.Since(start))
				}
			})
		})
	}
}

func TestInvalidKeysDoNotReachTheStore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		for name, key := range map[string]string{
			"empty": "", "NUL": "a\x00b", "newline": "a\nb", "DEL": "\x7f", "not UTF-8": "a\xff", "too long": strings.Repeat("x", backend.MaxKeyLen+1),
		} {
			_, errA := l.Acquire(t.Context(), key)
			_, errT := l.TryAcquire(t.Context(), key)
			_, errI := l.Inspect(t.Context(), key)
			for op, err := range map[string]error{"acquire": errA, "try": errT, "inspect": errI} {
				if !errors.Is(err, hasp.ErrInvalidKey) {
					t.Errorf("%s, %s: %v", name, op, err)
				}
			}
		}
		if n := store.Count(memlock.OpAny); n != 0 {
			t.Errorf("%d requests", n)
		}
		release(t, acquire(t, l, strings.Repeat("x", backend.MaxKeyLen)))
	})
}

func TestInspect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{Owner: "trainer-7", RequestTimeout: time.Second})
		rec, err := l.Inspect(t.Context(), "k")
		if err != nil || rec.State != backend.Free {
			t.Errorf("%v, %v", rec, err)
		}
		le := acquire(t, l, "k")
		time.Sleep(7 * time.Second)
		rec, err = l.Inspect(t.Context(), "k")
		if err != nil || rec.State != backend.Held || rec.Token != le.Token() || rec.HeldFor != 7*time.Second || rec.Holder.Owner != "trainer-7" {
			t.Errorf("%+v, %v", rec, err)
		}
		unhang := make(chan struct{})
		store.Inject(memlock.OpInspect, "", memlock.Fault{Hang: unhang})
		start := time.Now()
		_, err = l.Inspect(t.Context(), "k")
		mustMatch(t, err, hasp.ErrUnavailable)
		within(t, "gave up", time.Since(start), time.Second, 1100*time.Millisecond)
		close(unhang)
	})
}

// Watching is a help, not a need: when it cannot be had, waiting goes on.
func TestWatchThatFails(t *testing.T) {
	for name, f := range map[string]memlock.Fault{
		"at once":    {Err: errors.New("no subscriptions today"), Times: -1},
		"lost reply": {LoseReply: backend.Unavailable(errors.New("reset")), Times: -1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				store.Inject(memlock.OpWatch, "", f)
				first := acquire(t, locker(t, store.Client(), nil), "k")
				var rec recorder
				got := acquiring(t.Context(), locker(t, store.Client(), &hasp.Options{Observer: rec.observe}), "k")
				time.Sleep(42 * time.Second)
				release(t, first)
				start := time.Now()
				o := <-got
				if o.err != nil {
					t.Fatal(o.err)
				}
				within(t, "hand-off", o.at.Sub(start), 0, 5*time.Second)
				es, _ := rec.of(hasp.EventWarning)
				if len(es) == 0 || !strings.Contains(es[0].Err.Error(), "polling instead") {
					t.Errorf("warnings: %v", es)
				}
				if n := store.Waiters("k"); n != 0 {
					t.Errorf("%d watches are left", n)
				}
			})
		})
	}
}
