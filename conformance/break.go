package conformance

import (
	"errors"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var breakRules = []Rule{
	{ID: "break-frees", Statement: "Break with the holder's token frees the key at once", needs: []backend.Capability{backend.CapBreak}, rests: []string{"release-spares-successor"}, run: breakFrees},
	{ID: "break-stale", Statement: "Break of a stale holder frees its key for good: it cannot renew, and its Release harms nobody", needs: []backend.Capability{backend.CapBreak}, rests: []string{"stale-after-ttl", "renew-after-break"}, run: breakStale},
	{ID: "release-after-break", Statement: "a holder that was broken is told ErrLost by its Release, also when nobody has taken the key since", needs: []backend.Capability{backend.CapBreak}, rests: []string{"release-spares-successor"}, run: releaseAfterBreak},
	{ID: "break-exact", Statement: "Break with any token but the present holder's changes nothing and says who holds the key, or that nobody does", needs: []backend.Capability{backend.CapBreak}, run: breakExact},
	{ID: "break-spares-others", Statement: "Break takes one key from its holder: what else that client holds is held, can be renewed, and is not said to be lost", needs: []backend.Capability{backend.CapBreak}, rests: []string{"break-frees", "loss-notified"}, run: breakSparesOthers},
	{ID: "break-tells", Statement: "a holder that was broken learns of it at its next heartbeat, and its Release harms nobody", needs: []backend.Capability{backend.CapBreak}, rests: []string{"release-spares-successor"}, run: breakTells},
	{ID: "loss-notified", Statement: "a holder that was broken is told at once, not at its next heartbeat", needs: []backend.Capability{backend.CapBreak, backend.CapLossNotify}, rests: []string{"release-spares-successor"}, run: lossNotified},
}

func (x *trial) breakKey(b backend.Backend, g backend.Grant) {
	if err := backend.Break(x.ctx, b, g.Key, g.Token); err != nil {
		x.restf("break-frees", "Break with the holder's token gave %q", err)
	}
}

func breakFrees(x *trial) {
	a, b := x.client(), x.client()
	for _, by := range []backend.Backend{a, b} {
		g := x.acquire(a, x.key(), x.long())
		x.breakKey(by, g)
		x.isFree(b, g.Key, "Break")
		next, err := x.attempt(b, g.Key, x.claim(x.long()))
		if err != nil {
			x.failf("a claim right after Break gave %q", err)
		}
		if err := a.Release(x.ctx, g); !errors.Is(err, backend.ErrLost) {
			x.failf("Release by the holder that was broken gave %v and not ErrLost", err)
		}
		x.stillHolds(a, next, "the broken holder's Release")
	}
}

// breakStale breaks the one of two stale holders through another's client and the
// other through its own.
func breakStale(x *trial) {
	a, b := x.client(), x.client()
	held := []silent{x.holdSilently(a, x.key(), x.ttl()), x.holdSilently(a, x.key(), x.ttl())}
	x.outlive(held[1])
	for i, by := range []backend.Backend{b, a} {
		s := held[i]
		if err := backend.Break(x.ctx, by, s.Key, s.Token); err != nil && !errors.Is(err, backend.ErrNotHeld) {
			x.failf("Break of a stale key gave %q", err)
		}
		x.isFree(b, s.Key, "Break of a stale key")
		if _, err := a.Renew(x.ctx, s.Grant); !errors.Is(err, backend.ErrLost) {
			x.failf("Renew after Break, which found its holder stale, gave %v and not ErrLost", err)
		}
		x.isFree(b, s.Key, "Renew of a stale grant that was broken")
		g := x.acquire(b, s.Key, x.long())
		if err := a.Release(x.ctx, s.Grant); !errors.Is(err, backend.ErrLost) {
			x.restf("release-spares-successor", "a late Release gave %v and not ErrLost", err)
		}
		x.stillHolds(a, g, "all that")
	}
}

func breakSparesOthers(x *trial) {
	a, b := x.client(), x.client()
	gs := []backend.Grant{x.acquire(a, x.key(), x.long()), x.acquire(a, x.key(), x.long()), x.acquire(a, x.key(), x.long())}
	var e *lossEar
	if backend.Has(a, backend.CapLossNotify) {
		e = x.ear(a)
		defer e.cancel()
		for _, g := range gs {
			e.expect(g)
		}
	}
	x.breakKey(b, gs[1])
	if e != nil && !x.hears(e, gs[1]) {
		x.restf("loss-notified-always", "a break was not told within %v", x.soon())
	}
	for i, g := range gs {
		if i == 1 {
			continue
		}
		x.stillHolds(b, g, "Break of another key of its client's")
		if _, err := a.Renew(x.ctx, g); err != nil {
			x.failf("Renew after Break of another key of its client's gave %q", err)
		}
		x.stillHolds(b, g, "Break of another key of its client's, and Renew,")
	}
	if e == nil {
		return
	}
	x.sleep(20 * time.Millisecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := e.heard[gs[0].ID] + e.heard[gs[2].ID]; n > 0 {
		x.failf("when one of a client's keys was broken, OnLoss was told of others")
	}
}

func releaseAfterBreak(x *trial) {
	a, b := x.client(), x.client()
	for _, by := range []backend.Backend{b, a} {
		g := x.acquire(a, x.key(), x.long())
		x.breakKey(by, g)
		for range 2 {
			if err := a.Release(x.ctx, g); !errors.Is(err, backend.ErrLost) {
				x.failf("Release by a holder that was broken, when nobody had taken the key, gave %v and not ErrLost", err)
			}
		}
		x.isFree(b, g.Key, "the Release of a broken holder")
	}
}

func breakExact(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	notHeld := func(token uint64, what string) {
		if err := backend.Break(x.ctx, b, key, token); !errors.Is(err, backend.ErrNotHeld) {
			x.failf("Break of %s gave %v and not ErrNotHeld", what, err)
		}
	}
	notHeld(1, "a key that was never locked")
	old := x.acquire(a, key, x.long())
	x.release(a, old)
	notHeld(old.Token, "a released key with its last token")
	g := x.acquire(a, key, x.long())
	for _, token := range []uint64{old.Token, g.Token + 1, g.Token - 1, 0} {
		err := backend.Break(x.ctx, b, key, token)
		var held *backend.HeldError
		if !errors.As(err, &held) {
			x.failf("Break with token %d of a key held with token %d gave %v and not a *HeldError", token, g.Token, err)
		}
		if held.Record.Token != g.Token {
			x.failf("Break with an old token says that the key is %s, and it is held with token %d", held.Record, g.Token)
		}
		if held.Record.Holder != g.Holder {
			x.restf("holder-named", "Break with an old token names %s, and the holder is %s", held.Record.Holder, g.Holder)
		}
		x.stillHolds(b, g, "Break with an old token")
	}
	if _, err := a.Renew(x.ctx, g); err != nil {
		x.failf("after Break with an old token Renew gave %q", err)
	}
}

// bare hides every capability of a backend.
type bare struct{ backend.Backend }

// broken takes a lease, breaks it and returns how long its holder took to learn
// of it.
func (x *trial) broken(holder backend.Backend, ttl, bound time.Duration) time.Duration {
	l, b := x.lockerOn(holder, func(o *hasp.Options) { o.TTL = ttl }), x.client()
	asked := time.Now()
	lease := x.lease(l, x.key())
	g := lease.Grant()
	done := lease.Done()
	if err := backend.Break(x.ctx, b, g.Key, g.Token); err != nil {
		x.unlessStalled(asked, ttl/4) // it was lost before it was broken
		x.restf("break-frees", "Break with the holder's token gave %q", err)
	}
	begun := time.Now()
	next := x.acquire(b, g.Key, x.long())
	if _, ok := await(x, done, bound); !ok {
		x.latef("%v after the break its holder had not been told; its TTL is %v", backend.Round(time.Since(begun)), ttl)
	}
	took := time.Since(begun)
	if took > bound { // its TTL may be over by now, and it has found out by itself
		x.unlessStalled(begun, 0)
	}
	if err := lease.Err(); !errors.Is(err, hasp.ErrLost) {
		x.failf("the broken lease ended with %v and not ErrLost", err)
	}
	x.lateRelease(l, lease, "was broken")
	x.stillHolds(b, next, "the broken holder's Release")
	return took
}

func breakTells(x *trial) {
	ttl := 2 * x.steady()
	// the heartbeat interval is TTL/3; the lease would end by itself at 9/10 TTL
	took := x.broken(bare{x.client()}, ttl, ttl/3+min(x.cfg.Slack, ttl/3))
	x.notef("told %v after the break; the heartbeat interval is %v", backend.Round(took), ttl/3)
}

func lossNotified(x *trial) {
	took := x.broken(x.client(), x.long(), x.soon())
	x.notef("told %v after the break; the heartbeat interval is %v", backend.Round(took), x.long()/3)
}
