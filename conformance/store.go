package conformance

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var storeRules = []Rule{
	{ID: "skewed-clock", Statement: "a host whose wall clock is wrong neither robs nor is robbed, and can still take over", hook: hookSkew, rests: []string{"token-after-expiry", "stale-not-before-ttl"}, run: skewedClock},
	{ID: "partition-unavailable", Statement: "a client that is cut off fails with ErrUnavailable by its context's deadline, and what it asked for can be withdrawn", hook: hookPartition, run: partitionUnavailable},
	{ID: "partition-prompt", Statement: "a call of a client that is cut off returns when its context's deadline has passed, and not when some other time is up", hook: hookPartition, rests: []string{"partition-unavailable"}, run: partitionPrompt},
	{ID: "partition-loss", Statement: "a holder that is cut off knows that its lease is lost before another can take over, and harms nobody when it is back", hook: hookPartition, rests: []string{"renew-extends", "stale-after-renewals", "heartbeat-keeps", "stale-not-before-ttl", "stale-waiter-long", "release-spares-successor"}, run: partitionLoss},
	{ID: "restart-recovers", Statement: "after a restart of the store its clients work again, no key has two holders, and tokens rise", hook: hookRestart, phase: alone, run: restartRecovers},
	{ID: "wipe-token", Statement: "tokens rise although the store has forgotten everything", hook: hookWipe, phase: alone, run: wipeToken},
	{ID: "wipe-loss", Statement: "a holder whose store has forgotten everything learns of it by its next heartbeat once another has the key, and harms nobody", hook: hookWipe, phase: alone, rests: []string{"release-by-stranger", "renew-by-stranger", "release-spares-successor", "heartbeat-keeps"}, run: wipeLoss},
}

func skewedClock(x *trial) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		a := x.client()
		wrong, err := x.cfg.Skew(x.ctx, by)
		if err != nil {
			x.failf("a client with its clock wrong by %v cannot be opened: %v", by, err)
		}
		x.cleanup(func(context.Context) { _ = wrong.Close() })
		for _, pair := range [][2]backend.Backend{{a, wrong}, {wrong, a}} {
			s := x.holdSilently(pair[0], x.key(), x.ttl())
			x.early(pair[1], s, s.TTL)
			g, _ := x.takeover(pair[1], s, x.long())
			if g.Token <= s.Token {
				x.failf("with a clock wrong by %v, got %d after %d", by, g.Token, s.Token)
			}
		}
	}
}

func (x *trial) cut(b backend.Backend) (heal func()) {
	h, err := x.cfg.Partition(x.ctx, b)
	if err != nil {
		x.failf("a client cannot be cut off: %v", err)
	}
	healed := false
	heal = func() {
		if !healed {
			healed = true
			if err := h(); err != nil {
				x.errorf("a client that was cut off cannot be put back: %v", err)
			}
		}
	}
	x.cleanup(func(context.Context) { heal() })
	return heal
}

func partitionUnavailable(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, x.key(), x.long())
	heal := x.cut(a)
	limit := 500 * time.Millisecond
	c := x.claim(x.long())
	for what, call := range map[string]func(context.Context) error{
		"Acquire": func(ctx context.Context) error { _, err := a.Acquire(ctx, key, c); return err },
		"Renew":   func(ctx context.Context) error { _, err := a.Renew(ctx, g); return err },
		"Inspect": func(ctx context.Context) error { _, err := a.Inspect(ctx, key); return err },
	} {
		var err error
		x.returns(limit+x.soon(), what+" by a client that is cut off", func() {
			ctx, cancel := context.WithTimeout(x.ctx, limit)
			defer cancel()
			err = call(ctx)
		})
		switch {
		case err == nil:
			x.failf("%s by a client that is cut off succeeded", what)
		case errors.Is(err, backend.ErrHeld), errors.Is(err, backend.ErrLost):
			x.failf("%s by a client that is cut off gave %q, which it cannot know", what, err)
		case !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
			x.failf("%s by a client that is cut off gave %q and not ErrUnavailable", what, err)
		}
	}
	heal()
	x.eventually("a client that was put back", func() error {
		if err := a.Release(x.ctx, backend.Grant{Key: key, ID: c.ID}); err != nil && !errors.Is(err, backend.ErrLost) {
			return err
		}
		return nil
	})
	x.acquire(b, key, x.long())
}

// partitionPrompt makes all calls at once. What is cancelled and not timed out is
// left to those who say that they are prompt.
func partitionPrompt(x *trial) {
	a := x.client()
	g, spare := x.acquire(a, x.key(), x.long()), x.acquire(a, x.key(), x.long())
	calls := map[string]func(context.Context){
		"Acquire": func(ctx context.Context) { _, _ = a.Acquire(ctx, x.key(), x.claim(x.ttl())) },
		"Renew":   func(ctx context.Context) { _, _ = a.Renew(ctx, g) },
		"Release": func(ctx context.Context) { _ = a.Release(ctx, spare) },
		"Inspect": func(ctx context.Context) { _, _ = a.Inspect(ctx, g.Key) },
	}
	if backend.Has(a, backend.CapBreak) {
		calls["Break"] = func(ctx context.Context) { _ = backend.Break(ctx, a, g.Key, g.Token+1) }
	}
	if backend.Has(a, backend.CapList) {
		calls["List"] = func(ctx context.Context) { _, _ = backend.List(ctx, a, g.Key) }
	}
	if backend.Has(a, backend.CapRaiseToken) {
		calls["RaiseToken"] = func(ctx context.Context) { _ = backend.RaiseToken(ctx, a, g.Key, 1) }
	}
	if r, ok := backend.AsBatchRenewer(a); ok {
		calls["RenewAll"] = func(ctx context.Context) { _ = r.RenewAll(ctx, []backend.Grant{g}) }
	}
	heal := x.cut(a)
	const limit, bound = 300 * time.Millisecond, 1500 * time.Millisecond
	all := func(how string, with func() (context.Context, context.CancelFunc)) {
		var mu sync.Mutex
		took := map[string]time.Duration{}
		var wg sync.WaitGroup
		begun := time.Now()
		for what, call := range calls {
			x.spawn(&wg, func() {
				ctx, cancel := with()
				defer cancel()
				call(ctx)
				mu.Lock()
				defer mu.Unlock()
				took[what] = time.Since(begun)
			})
		}
		ended := make(chan struct{})
		go func() { defer close(ended); wg.Wait() }()
		_, _ = await(x, ended, limit+bound)
		late := limit + bound + 2*x.s.stalls.since(begun)
		mu.Lock()
		defer mu.Unlock()
		for what := range calls {
			if d, ok := took[what]; !ok || d > late {
				x.latef("%s by a client that is cut off had not returned %v after its context had %s", what, bound, how)
			}
		}
	}
	all("timed out", func() (context.Context, context.CancelFunc) { return context.WithTimeout(x.ctx, limit) })
	if backend.IsPrompt(a) {
		all("been cancelled", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(x.ctx)
			time.AfterFunc(limit, cancel)
			return ctx, cancel
		})
	}
	heal()
}

// atMost waits for ch, but not for longer than that.
func (x *trial) atMost(ch <-chan struct{}, within time.Duration) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
	}
}

// eventually repeats what may fail for a while after the store comes back.
func (x *trial) eventually(what string, f func() error) {
	begun := time.Now()
	for {
		err := f()
		if err == nil {
			return
		}
		if x.tooLong(begun, x.soon()+5*time.Second) {
			x.failf("%s: %v later: %v", what, backend.Round(time.Since(begun)), err)
		}
		x.sleep(5 * x.poll())
	}
}

func partitionLoss(x *trial) {
	c, b := x.client(), x.client()
	l := x.lockerOn(c, nil)
	lease := x.lease(l, x.key())
	g := lease.Grant()
	done := lease.Done()
	x.sleep(g.TTL / 2)
	before := time.Now()
	heal := x.cut(c)
	cut := time.Now()
	x.fault("holder", "cut off")
	next, at := x.takeoverAt(b, lease.Key(), before.Add(-g.TTL/2), cut, g.TTL)
	if deadline := lease.Deadline(); at.Before(deadline) {
		x.failf("another took over %v before the cut-off holder's own deadline", deadline.Sub(at))
	}
	if _, ok := await(x, done, x.cfg.Slack); !ok {
		x.failf("the cut-off holder had not been told of its loss when another had taken over")
	}
	heal()
	x.fault("holder", "put back")
	x.lateRelease(l, lease, "was lost while its holder was cut off")
	x.stillHolds(b, next, "the cut-off holder came back")
}

func restartRecovers(x *trial) {
	a, b := x.client(), x.client()
	held := x.acquire(a, x.key(), x.long())
	freed := x.acquire(a, x.key(), x.long())
	x.release(a, freed)
	if err := x.cfg.Restart(x.ctx); err != nil {
		x.failf("the store could not be restarted: %v", err)
	}
	x.fault("store", "restarted")
	var next backend.Grant
	for _, client := range []backend.Backend{a, b} {
		c := x.claim(x.long())
		x.eventually("a claim after a restart", func() (err error) {
			next, err = x.attempt(client, freed.Key, c)
			return err
		})
		if next.Token <= freed.Token {
			x.failf("got %d after %d, across a restart", next.Token, freed.Token)
		}
		freed.Token = next.Token
		x.release(client, next)
	}
	// either the store has kept the lock or it has forgotten it
	_, renewed := a.Renew(x.ctx, held)
	taken, err := x.attempt(b, held.Key, x.claim(x.long()))
	switch {
	case renewed == nil && err == nil:
		x.failf("after a restart the holder with token %d could renew, and another got token %d", held.Token, taken.Token)
	case renewed == nil:
		x.notef("the lock was kept over the restart")
	case !errors.Is(renewed, backend.ErrLost):
		x.failf("after a restart Renew gave %q", renewed)
	case err != nil:
		x.failf("after a restart the holder is told ErrLost, and another's claim gave %q", err)
	case taken.Token <= held.Token:
		x.failf("got %d after %d, which was held during a restart", taken.Token, held.Token)
	default:
		x.notef("the lock was forgotten by the restart")
	}
}

func wipeToken(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	x.release(a, g)
	for range 2 {
		if err := x.cfg.Wipe(x.ctx); err != nil {
			x.failf("the store could not be wiped: %v", err)
		}
		x.fault("store", "wiped")
		c := x.claim(x.long())
		var next backend.Grant
		x.eventually("a claim after a wipe", func() (err error) {
			next, err = x.attempt(b, key, c)
			return err
		})
		if next.Token <= g.Token {
			x.failf("got %d after %d, across a wipe", next.Token, g.Token)
		}
		g = next
		x.release(b, g)
	}
}

func wipeLoss(x *trial) {
	l, b := x.locker(func(o *hasp.Options) { o.TTL = 4 * x.steady() }), x.client()
	lease := x.lease(l, x.key())
	ttl := lease.Grant().TTL
	done := lease.Done()
	if err := x.cfg.Wipe(x.ctx); err != nil {
		x.failf("the store could not be wiped: %v", err)
	}
	x.fault("store", "wiped")
	wiped := time.Now()
	c := x.claim(x.long())
	var next backend.Grant
	var kept bool
	x.eventually("a claim after a wipe", func() (err error) {
		next, err = x.attempt(b, lease.Key(), c)
		if errors.Is(err, backend.ErrHeld) {
			kept = true // its heartbeat came first and the store believed it
			return nil
		}
		return err
	})
	if kept {
		if err := lease.Err(); err != nil {
			x.unlessStalled(x.start, ttl/4)
			x.failf("after a wipe the key is held, and its holder's lease says %q", err)
		}
		x.notef("the holder came through the wipe")
		return
	}
	if next.Token <= lease.Token() {
		x.restf("wipe-token", "got %d after %d, across a wipe", next.Token, lease.Token())
	}
	if _, ok := await(x, done, ttl/3+x.cfg.Slack); !ok {
		x.failf("%v after the store was wiped, and another had the key, its former holder had not been told; heartbeats are due every %v", backend.Round(time.Since(wiped)), ttl/3)
	}
	x.notef("told %v after the wipe; the heartbeat interval is %v", backend.Round(time.Since(wiped)), ttl/3)
	x.lateRelease(l, lease, "was lost by a wipe")
	x.stillHolds(b, next, "the former holder's heartbeat and Release")
}
