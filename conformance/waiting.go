package conformance

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var waitingRules = []Rule{
	{ID: "wait-woken", Statement: "a release wakes a waiter long before its next retry", needs: []backend.Capability{backend.CapWatch}, run: waitWoken},
	{ID: "wait-watch-free", Statement: "a claim that begins to watch a key that has become free is told at once", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken"}, run: waitWatchFree},
	{ID: "wait-watch-again", Statement: "a waiter is told of every release after Watch was called, also if others were faster before", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken"}, run: waitWatchAgain},
	{ID: "wait-watch-stopped", Statement: "a waiter that has stopped watching is in nobody's way", needs: []backend.Capability{backend.CapWatch}, run: waitWatchStopped},
	{ID: "wait-polls", Statement: "a waiter that retries gets a released key within a retry interval", run: waitPolls},
	{ID: "wait-timeout", Statement: "a waiter gives up after the retries it was given, with an error that names the holder", run: waitTimeout},
	{ID: "wait-takeover", Statement: "a waiter takes a silent holder's key over within TTL and slack, also if its next retry is far off, and if it comes late", rests: []string{"stale-waiter-long", "ttl-exact"}, run: waitTakeover},
	{ID: "try-once", Statement: "TryAcquire makes one attempt and does not wait", run: tryOnce},
	{ID: "no-starvation", Statement: "every one of many clients that contend for a key gets it again and again", phase: busy, rests: []string{"exclusive-clients", "exclusive-race", "no-lost-update"}, run: noStarvation},
	{ID: "fair-order", Statement: "clients that wait for a key get it in the order in which they came", hook: hookFair, needs: []backend.Capability{backend.CapWatch}, phase: busy, rests: []string{"exclusive-clients", "no-lost-update", "wait-woken", "wait-watch-again"}, run: fairOrder},
}

type acquired struct {
	lease *hasp.Lease
	err   error
	at    time.Time
}

// waiter starts an Acquire and returns when it has found the key held at least
// once and is waiting.
func (x *trial) waiter(ctx context.Context, key string, change func(*hasp.Options)) (<-chan acquired, hasp.Locker) {
	return x.waiterOn(x.client(), ctx, key, change)
}

func (x *trial) waiterOn(b backend.Backend, ctx context.Context, key string, change func(*hasp.Options)) (<-chan acquired, hasp.Locker) {
	waiting := make(chan bool, 1) // false: it ended without
	l := x.lockerOn(b, func(o *hasp.Options) {
		o.TTL = x.long()
		if change != nil {
			change(o)
		}
		observe := o.Observer
		o.Observer = func(e hasp.Event) {
			if observe != nil {
				observe(e)
			}
			if e.Kind == hasp.EventWaiting {
				select {
				case waiting <- true:
				default:
				}
			}
		}
	})
	got := make(chan acquired, 1)
	go func() {
		lease, err := l.Acquire(ctx, key)
		if err == nil {
			x.cleanup(releaseOf(lease))
		}
		got <- acquired{lease, err, time.Now()}
		select {
		case waiting <- false:
		default:
		}
	}()
	waits, ok := await(x, waiting, x.soon()+2*time.Second)
	if !ok {
		x.failf("an Acquire of a held key neither waited nor returned")
	}
	if !waits {
		a := <-got
		if a.err == nil {
			x.unlessStalled(x.start, x.ttl()/8)
			x.restf("exclusive-clients", "a second claim got token %d of a key that was held", a.lease.Token())
		}
		got <- a
	}
	return got, l
}

// granted waits for a waiter to get its lease.
func (x *trial) granted(got <-chan acquired, within time.Duration, what string) acquired {
	a, ok := await(x, got, within)
	switch {
	case !ok:
		x.failf("%s did not get the key within %v", what, backend.Round(within))
	case a.err != nil:
		x.failf("%s gave %q", what, a.err)
	}
	return a
}

func hourly(o *hasp.Options) { o.RetryInterval = time.Hour }

func waitWoken(x *trial) {
	a := x.client()
	for round := range 3 {
		key := x.key()
		g := x.acquire(a, key, x.long())
		var got <-chan acquired
		if round == 0 {
			got = x.waitsForWake(x.client(), key)
		} else {
			got, _ = x.waiter(x.ctx, key, hourly)
		}
		x.release(a, g)
		begun := time.Now()
		w := x.granted(got, x.soon(), "a waiter whose next retry is in an hour")
		x.notef("woken after %v", backend.Round(w.at.Sub(begun)))
		if err := w.lease.Release(x.ctx); err != nil {
			x.restf("release-frees", "Release gave %q", err)
		}
	}
}

// waitsForWake starts an Acquire and returns when nothing but a wake-up can end it. The
// engine looks again a second after it began to wait, as a rule, and then no more.
func (x *trial) waitsForWake(b backend.Backend, key string) <-chan acquired {
	refused := make(chan struct{}, 16)
	got, _ := x.waiterOn(b, x.ctx, key, func(o *hasp.Options) {
		hourly(o)
		o.Observer = func(e hasp.Event) {
			if e.Kind == hasp.EventWaiting {
				select {
				case refused <- struct{}{}:
				default:
				}
			}
		}
	})
	for range 2 {
		if _, ok := await(x, refused, 1500*time.Millisecond); !ok {
			break // it does not look again where nobody knows when the lock is stale
		}
	}
	return got
}

// waitWatchAgain watches at the level of the backend: others take and release
// the key several times, and each time the waiter has to be told.
func waitWatchAgain(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	c := x.claim(x.long())
	wake, stop, err := b.(backend.Watcher).Watch(x.ctx, key, c)
	if err != nil {
		x.failf("Watch gave %q", err)
	}
	stopped := false
	end := func(granted bool) {
		if !stopped {
			stopped = true
			if err := stop(context.WithoutCancel(x.ctx), granted); err != nil {
				x.errorf("ending a watch gave %q", err)
			}
		}
	}
	defer end(false)
	for round := range 3 {
		x.release(a, g)
		if _, ok := await(x, wake, x.soon()); !ok {
			x.failf("release %d after Watch did not wake the waiter within %v", round+1, x.soon())
		}
		// another who does not wait may be faster, or be told to queue behind
		g, err = x.attempt(a, key, x.claim(x.long()))
		if errors.Is(err, backend.ErrHeld) {
			break
		}
		if err != nil {
			x.failf("an attempt gave %q", err)
		}
	}
	if err == nil {
		x.release(a, g)
	}
	g, err = x.attempt(b, key, c)
	if err != nil {
		x.failf("the watching claim's attempt at a free key gave %q", err)
	}
	end(true)
	x.stillHolds(a, g, "its watch ended")
}

// waitWatchFree lets the key become free between the attempt that found it held
// and the watch.
func waitWatchFree(x *trial) {
	a, b := x.client(), x.client()
	for range 3 {
		key := x.key()
		g, c := x.acquire(a, key, x.long()), x.claim(x.long())
		if _, err := x.attempt(b, key, c); !errors.Is(err, backend.ErrHeld) {
			x.restf("exclusive-clients", "an attempt at a held key gave %q", err)
		}
		x.release(a, g)
		wake, stop, err := b.(backend.Watcher).Watch(x.ctx, key, c)
		if err != nil {
			x.failf("Watch gave %q", err)
		}
		if _, ok := await(x, wake, x.soon()); !ok {
			x.errorf("Watch of a free key did not wake within %v", x.soon())
		}
		g, err = x.attempt(b, key, c)
		if serr := stop(context.WithoutCancel(x.ctx), err == nil); serr != nil {
			x.errorf("ending a watch gave %q", serr)
		}
		if err != nil {
			x.failf("the attempt after the wake-up gave %q", err)
		}
		x.release(b, g)
	}
}

func waitWatchStopped(x *trial) {
	a, b, d := x.client(), x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	for range 3 {
		_, stop, err := b.(backend.Watcher).Watch(x.ctx, key, x.claim(x.long()))
		if err != nil {
			x.failf("Watch gave %q", err)
		}
		if err := stop(x.ctx, false); err != nil {
			x.failf("ending a watch gave %q", err)
		}
	}
	x.stillHolds(d, g, "watches that began and ended")
	x.release(a, g)
	if _, err := x.attempt(d, key, x.claim(x.long())); err != nil {
		x.failf("a claim after a release that nobody waits for any more gave %q", err)
	}
}

func waitPolls(x *trial) {
	a := x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	const interval = 200 * time.Millisecond
	got, _ := x.waiterOn(bare{x.client()}, x.ctx, key, func(o *hasp.Options) { o.RetryInterval = interval })
	x.release(a, g)
	w := x.granted(got, interval+x.soon(), "a waiter that retries every 200ms")
	if w.lease.Token() <= g.Token {
		x.restf("token-rises", "the waiter's token is %d after %d", w.lease.Token(), g.Token)
	}
}

func waitTimeout(x *trial) {
	a := x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	const interval, retries = 60 * time.Millisecond, 4
	l := x.locker(func(o *hasp.Options) { o.RetryInterval, o.MaxRetries = interval, retries })
	begun := time.Now()
	lease, err := l.Acquire(x.ctx, key)
	took := time.Since(begun)
	var te *hasp.TimeoutError
	switch {
	case err == nil:
		x.restf("exclusive-clients", "a second claim got token %d of a key that was held", lease.Token())
	case !errors.As(err, &te) || !errors.Is(err, hasp.ErrTimeout):
		x.failf("got %q and not a *TimeoutError", err)
	case !errors.Is(err, hasp.ErrHeld):
		x.failf("%q does not match ErrHeld", err)
	case te.Attempts < retries+1:
		x.failf("gave up after %d attempts, and %d retries were to be made", te.Attempts, retries)
	case took < interval*retries*9/10:
		x.failf("gave up after %v, and %d retries every %v were to be made", took, retries, interval)
	case took > interval*retries+x.soon():
		x.unlessStalled(begun, x.cfg.Slack)
		x.latef("gave up after %v, and %d retries every %v were to be made", took, retries, interval)
	}
	var held *hasp.HeldError
	if !errors.As(err, &held) || held.Record.Holder != g.Holder {
		x.restf("holder-named", "the error does not name the holder %s: %q", g.Holder, err)
	}
	x.stillHolds(a, g, "another's timeout")
	x.release(a, g)
	// The engine ends a watch beside its caller, so the waiter may be first in a store's queue
	// for as long as that takes.
	for released := time.Now(); time.Since(released) < x.soon() && x.inspect(a, key).State == backend.Held; {
		x.sleep(x.poll())
	}
	x.isFree(a, key, "a waiter's timeout and the holder's Release")
}

func waitTakeover(x *trial) {
	a, b := x.client(), x.client()
	// longer than the second after which the engine looks again in any case
	s := x.holdSilently(a, x.key(), max(x.ttl(), 1500*time.Millisecond))
	_, err := x.attempt(b, s.Key, x.claim(x.long()))
	var h *backend.HeldError
	switch {
	case err == nil && time.Since(s.asked) >= s.TTL:
		x.unlessStalled(s.asked, s.TTL/8)
		x.latef("an attempt at a key with a TTL of %v was answered %v after it was locked, with the key", s.TTL, backend.Round(time.Since(s.asked)))
	case !errors.As(err, &h):
		x.restf("exclusive-clients", "an attempt at a held key gave %v, not a *HeldError", err)
	case h.RetryAfter == 0:
		x.lackf("its *HeldError does not say how long to wait (RetryAfter is 0)")
	}
	// One that comes late looks again after a second, as it always does; what it is
	// told then has to say how much is left, and not how much there was.
	l := x.holdSilently(a, x.key(), max(x.ttl(), x.cfg.Slack+2700*time.Millisecond))
	got, _ := x.waiter(x.ctx, s.Key, hourly)
	x.sleep(time.Until(l.asked.Add(l.TTL - 1600*time.Millisecond)))
	late, _ := x.waiter(x.ctx, l.Key, hourly)
	within := time.Until(s.answered.Add(s.TTL)) + x.cfg.Slack + 2*time.Second
	x.sleep(within / 2)
	x.sleep(within/2 + x.s.stalls.since(s.asked))
	if len(got) == 0 {
		if _, err := x.attempt(b, s.Key, x.claim(s.TTL)); errors.Is(err, backend.ErrHeld) && len(got) == 0 {
			x.restf("stale-after-ttl", "a claim %v after the last sign of life of a holder with a TTL of %v gave %q", backend.Round(time.Since(s.answered)), s.TTL, err)
		}
	}
	w := x.granted(got, 10*time.Millisecond, fmt.Sprintf("a waiter whose next retry is in an hour, at a key whose holder fell silent %v ago with a TTL of %v,", backend.Round(time.Since(s.answered)), s.TTL))
	if early := w.at.Sub(s.asked); early < s.TTL {
		x.restf("stale-not-before-ttl", "a waiter took over after %v of a TTL of %v", early, s.TTL)
	}
	// The engine looks again within a second when it is told too little, so it may be
	// that much later than the store.
	const pace = 1500 * time.Millisecond
	who := fmt.Sprintf("a waiter that came %v before a silent holder's TTL of %v had run out", 1600*time.Millisecond, l.TTL)
	w = x.granted(late, max(0, time.Until(l.end().Add(x.slack(l.end())+pace))), who)
	if after := w.at.Sub(l.end()); after > x.slack(l.end())+pace {
		x.failf("%s got the key %v after that", who, backend.Round(after))
	}
}

func tryOnce(x *trial) {
	a := x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	l := x.locker(hourly)
	var err error
	x.returns(x.soon(), "TryAcquire of a held key", func() { _, err = l.TryAcquire(x.ctx, key) })
	var held *hasp.HeldError
	if !errors.As(err, &held) {
		x.restf("exclusive-clients", "TryAcquire of a held key gave %v and not a *HeldError", err)
	}
	x.release(a, g)
	var lease *hasp.Lease
	x.returns(x.soon(), "TryAcquire of a free key", func() { lease, err = l.TryAcquire(x.ctx, key) })
	if err != nil {
		x.restf("release-frees", "TryAcquire of a free key gave %q", err)
	}
	if err := lease.Release(x.ctx); err != nil {
		x.restf("release-frees", "Release gave %q", err)
	}
}

func noStarvation(x *trial) {
	n, rounds := 6, 4
	if x.cfg.brief {
		rounds = 2
	}
	key := x.key()
	var mu sync.Mutex
	longest, waits := time.Duration(0), 0
	var contest contest
	var wg sync.WaitGroup
	bound := 25*time.Second + 10*x.cfg.Slack
	if x.cfg.brief {
		bound /= 4
	}
	ctx, cancel := context.WithTimeout(x.ctx, bound)
	defer cancel()
	for i := range n {
		l := x.locker(func(o *hasp.Options) { o.TTL = 4 * x.steady() })
		x.spawn(&wg, func() {
			for round := range rounds {
				begun := time.Now()
				err := hasp.Do(ctx, l, key, func(context.Context, *hasp.Lease) error {
					mu.Lock()
					longest, waits = max(longest, time.Since(begun)), waits+1
					mu.Unlock()
					time.Sleep(2 * time.Millisecond)
					return nil
				})
				if err != nil {
					contest.note(err)
					x.errorf("client %d of %d, in round %d, after %v: %v", i+1, n, round+1, backend.Round(time.Since(begun)), err)
					return
				}
			}
		})
	}
	wg.Wait()
	if x.failed() {
		x.unlessStalled(x.start, contest.bearable(x, 2*x.steady()))
		return
	}
	x.notef("%d waits by %d clients, the longest %v", waits, n, backend.Round(longest))
}

func fairOrder(x *trial) {
	a := x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	const n = 6
	var mu sync.Mutex
	var order []int
	var want []int
	var wg sync.WaitGroup
	for i := range n {
		// each is waiting before the next one comes
		got, _ := x.waiter(x.ctx, key, hourly)
		want = append(want, i)
		x.spawn(&wg, func() {
			w, ok := await(x, got, x.wait())
			switch {
			case !ok:
				x.errorf("waiter %d did not get the key within %v", i+1, x.wait())
				return
			case w.err != nil:
				x.errorf("waiter %d gave %q", i+1, w.err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			if err := w.lease.Release(x.ctx); err != nil {
				x.errorf("Release by waiter %d gave %q", i+1, err)
			}
		})
	}
	x.release(a, g)
	wg.Wait()
	if x.failed() {
		runtime.Goexit()
	}
	if !slices.Equal(order, want) {
		x.failf("%s came in this order and were served in the order %s", fmt.Sprint(want), fmt.Sprint(order))
	}
}
