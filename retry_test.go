package hasp_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestConstantPolicy(t *testing.T) {
	p := hasp.Constant(3*time.Second, 5)
	for n := 1; n <= 6; n++ {
		if d, ok := p.Wait(n); d != 3*time.Second || ok != (n <= 5) {
			t.Errorf("Wait(%d) = %v, %v", n, d, ok)
		}
	}
	if _, ok := hasp.Constant(time.Second, hasp.Unlimited).Wait(1 << 30); !ok {
		t.Error("Unlimited ends")
	}
	if _, ok := hasp.Constant(time.Second, 0).Wait(1); ok {
		t.Error("no retries, and yet one")
	}
}

func TestExponentialPolicyHasFullJitter(t *testing.T) {
	const base, limit = 100 * time.Millisecond, 10 * time.Second
	p := hasp.Exponential(base, limit, hasp.Unlimited)
	for _, n := range []int{1, 2, 3, 7, 8, 61, 62, 63, 64, 65, 1000, 1 << 40} {
		bound := limit
		if n <= 7 {
			bound = min(limit, base<<(n-1))
		}
		var low, high int
		for range 2000 {
			d, ok := p.Wait(n)
			if !ok || d <= 0 || d > bound {
				t.Fatalf("Wait(%d) = %v, %v; want above 0 and at most %v", n, d, ok, bound)
			}
			if d < bound/4 {
				low++
			}
			if d > bound*3/4 {
				high++
			}
		}
		// 500 each on the average; 20 standard deviations are not chance
		if low < 100 || high < 100 {
			t.Errorf("Wait(%d): of 2000, %d in the lowest quarter and %d in the highest", n, low, high)
		}
	}
	if _, ok := hasp.Exponential(base, limit, 3).Wait(4); ok {
		t.Error("there is a fourth of three retries")
	}
}

// waitFor makes l wait for a key that nobody will release.
func waitFor(t *testing.T, store *memlock.Store, opts hasp.Options) (waited time.Duration, attempts []time.Duration, err error) {
	t.Helper()
	holder := locker(t, store.Client(), nil)
	acquire(t, holder, "k")
	var rec recorder
	opts.Observer = rec.observe
	l := locker(t, plain{store.Client()}, &opts)
	start := time.Now()
	_, err = l.Acquire(context.Background(), "k")
	waited = time.Since(start)
	_, at := rec.of(hasp.EventAttempt)
	for _, at := range at {
		attempts = append(attempts, at.Sub(start))
	}
	return waited, attempts, err
}

func TestWaitsAreJitteredAndTheirSumIsExact(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		waited, attempts, err := waitFor(t, memlock.New(), hasp.Options{RetryInterval: 10 * time.Second, MaxRetries: 6})
		mustMatch(t, err, hasp.ErrTimeout, hasp.ErrHeld)
		if waited != time.Minute {
			t.Errorf("waited %v, want exactly 6 x 10 s", waited)
		}
		if len(attempts) != 7 {
			t.Fatalf("attempts at %v, want one at once and one after each of 6 waits", attempts)
		}
		even := 0
		for n, at := range attempts {
			due := time.Duration(n) * 10 * time.Second
			within(t, "attempt", at, max(0, due-time.Second), due)
			if at == due {
				even++
			}
		}
		if even == len(attempts) {
			t.Error("there is no jitter: processes started together stay in step")
		}
		var te *hasp.TimeoutError
		if !errors.As(err, &te) || te.Attempts != 7 || te.Waited != time.Minute {
			t.Errorf("%#v", te)
		}
	})
}

func TestMaxWaitBoundsTheWait(t *testing.T) {
	for name, tc := range map[string]struct {
		opts hasp.Options
		want time.Duration
	}{
		"between two retries":  {hasp.Options{MaxWait: 12 * time.Second}, 12 * time.Second},
		"before the first":     {hasp.Options{MaxWait: time.Second}, time.Second},
		"on a retry":           {hasp.Options{MaxWait: 10 * time.Second}, 10 * time.Second},
		"after the last":       {hasp.Options{MaxWait: time.Hour, RetryInterval: time.Second, MaxRetries: 5}, 5 * time.Second},
		"of unlimited retries": {hasp.Options{MaxWait: time.Hour, MaxRetries: hasp.Unlimited}, time.Hour},
		"of a policy":          {hasp.Options{MaxWait: time.Hour, Retry: hasp.Exponential(time.Second, time.Minute, hasp.Unlimited)}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				waited, _, err := waitFor(t, memlock.New(), tc.opts)
				mustMatch(t, err, hasp.ErrTimeout, hasp.ErrHeld)
				if waited != tc.want {
					t.Errorf("waited %v, want %v", waited, tc.want)
				}
			})
		})
	}
}

func TestExponentialPolicyEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		waited, attempts, err := waitFor(t, memlock.New(), hasp.Options{Retry: hasp.Exponential(time.Second, 4*time.Second, 5)})
		mustMatch(t, err, hasp.ErrTimeout)
		within(t, "waited", waited, 1, (1+2+4+4+4)*time.Second)
		if len(attempts) != 6 {
			t.Errorf("%d attempts, want 1 + 5", len(attempts))
		}
	})
}

// impatient is a policy that knows no pause.
type impatient struct{ max int }

func (p impatient) Wait(n int) (time.Duration, bool) { return -time.Hour, n <= p.max }

func TestPolicyWithoutWaitsIsNoBusyLoop(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		waited, attempts, err := waitFor(t, memlock.New(), hasp.Options{Retry: impatient{100}})
		mustMatch(t, err, hasp.ErrTimeout)
		if waited != 100*time.Millisecond || len(attempts) != 101 {
			t.Errorf("%d attempts in %v, want 101, 1 ms apart", len(attempts), waited)
		}
	})
}

func TestTryAcquireMakesOneAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		holder := locker(t, store.Client(), &hasp.Options{Owner: "trainer-7"})
		acquire(t, holder, "k")
		other := locker(t, store.Client(), nil)
		before, start := store.Count(memlock.OpAny), time.Now()
		_, err := other.TryAcquire(t.Context(), "k")
		var held *hasp.HeldError
		if !errors.As(err, &held) || held.Record.Holder.Owner != "trainer-7" {
			t.Errorf("got %v, want a *HeldError that names trainer-7", err)
		}
		if errors.Is(err, hasp.ErrTimeout) {
			t.Errorf("%v: nothing was waited for", err)
		}
		if n := store.Count(memlock.OpAny) - before; n != 1 || time.Since(start) != 0 {
			t.Errorf("%d requests in %v, want 1 at once", n, time.Since(start))
		}
		if store.Waiters("k") != 0 {
			t.Error("it left a watch")
		}
	})
}

// A store that cries wolf neither uses up the patience of a waiter nor makes it
// a busy loop.
func TestWakeUpsUseUpNoRetry(t *testing.T) {
	wolf := func(n int) <-chan struct{} {
		ch := make(chan struct{}, n)
		for range n {
			ch <- struct{}{}
		}
		return ch
	}
	always := make(chan struct{})
	close(always)
	for name, wake := range map[string]func() <-chan struct{}{
		"1000 wake-ups":    func() <-chan struct{} { return wolf(1000) },
		"a closed channel": func() <-chan struct{} { return always },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				acquire(t, locker(t, store.Client(), nil), "k")
				var mu sync.Mutex
				watches := 0
				l := locker(t, &watchStub{stub{Backend: store.Client()}, func(context.Context, string, backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
					mu.Lock()
					defer mu.Unlock()
					watches++
					return wake(), func(context.Context, bool) error {
						mu.Lock()
						defer mu.Unlock()
						watches--
						return nil
					}, nil
				}}, &hasp.Options{RetryInterval: 5 * time.Second, MaxRetries: 10})
				before, start := store.Count(memlock.OpAcquire), time.Now()
				_, err := l.Acquire(t.Context(), "k")
				mustMatch(t, err, hasp.ErrTimeout)
				if d := time.Since(start); d != 50*time.Second {
					t.Errorf("waited %v, want 10 x 5 s", d)
				}
				if n := store.Count(memlock.OpAcquire) - before; n < 20 || n > 10*50 {
					t.Errorf("%d attempts, want a few more than the 11 of the policy but no busy loop", n)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if watches != 0 {
					t.Errorf("%d watches are left", watches)
				}
			})
		})
	}
}

// A channel that a watcher closes has done its work: the next release needs a
// new one.
func TestClosedWatchIsMadeAnew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		holder := acquire(t, locker(t, store.Client(), nil), "k")
		watches := make(chan chan struct{}, 10)
		l := locker(t, &watchStub{stub{Backend: store.Client()}, func(context.Context, string, backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
			ch := make(chan struct{})
			watches <- ch
			return ch, func(context.Context, bool) error { return nil }, nil
		}}, nil)
		got := acquiring(t.Context(), l, "k")
		for range 3 { // false alarms
			close(<-watches)
			time.Sleep(100 * time.Millisecond)
		}
		release(t, holder)
		start := time.Now()
		close(<-watches)
		o := <-got
		if o.err != nil {
			t.Fatal(o.err)
		}
		within(t, "hand-off", o.at.Sub(start), 0, 10*time.Millisecond)
	})
}

func TestWaiterTriesWhenTheLockBecomesStale(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		start := time.Now()
		dead := acquire(t, locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, NoHeartbeat: true}), "k")
		// no watcher, and a retry that is not due for an hour
		l := locker(t, plain{store.Client()}, &hasp.Options{RetryInterval: time.Hour})
		le := acquire(t, l, "k")
		within(t, "takeover", time.Since(start), 30*time.Second, 30*time.Second+10*time.Millisecond)
		if le.Token() <= dead.Token() {
			t.Errorf("token %d after %d", le.Token(), dead.Token())
		}
		if n := store.Count(memlock.OpAcquire); n > 4 {
			t.Errorf("%d attempts", n)
		}
		mustMatch(t, dead.Err(), hasp.ErrLost)
		// the one that was robbed frees nothing
		mustMatch(t, dead.Release(t.Context()), hasp.ErrLost)
		if err := le.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
