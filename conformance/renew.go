package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var renewRules = []Rule{
	{ID: "renew-extends", Statement: "a grant that is renewed lives its TTL from the last renewal on", rests: []string{"stale-not-before-ttl"}, run: renewExtends},
	{ID: "renew-by-stranger", Statement: "a claim that does not hold the key cannot renew it, and is told ErrLost", run: renewByStranger},
	{ID: "renew-after-takeover", Statement: "a grant that was taken over cannot be renewed, and its successor is not disturbed", run: renewAfterTakeover},
	{ID: "renew-after-release", Statement: "a grant that was released cannot be renewed, and the key stays free", run: renewAfterRelease},
	{ID: "renew-after-break", Statement: "a grant that was broken cannot be renewed, and the key stays free", needs: []backend.Capability{backend.CapBreak}, run: renewAfterBreak},
	{ID: "renew-batch", Statement: "renewing a batch does for each grant what Renew does, in the same order", needs: []backend.Capability{backend.CapBatchRenew}, rests: []string{"renew-extends", "renew-after-release", "renew-by-stranger", "release-spares-successor"}, run: renewBatch},
	{ID: "heartbeat-keeps", Statement: "a lease that is kept by heartbeats outlives its TTL several times", rests: []string{"renew-extends"}, run: heartbeatKeeps},
	{ID: "heartbeat-many", Statement: "heartbeats keep a hundred leases of one client", phase: busy, rests: []string{"renew-extends"}, run: heartbeatMany},
}

func renewExtends(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	g, asked := s.Grant, s.asked
	for end := time.Now().Add(3 * g.TTL); time.Now().Before(end); {
		for time.Since(asked) < g.TTL/3 {
			got, err := x.attempt(b, g.Key, x.claim(x.long()))
			if err == nil {
				x.unlessStalled(asked, g.TTL/8)
				if alive := time.Since(asked); alive < g.TTL {
					x.failf("a stranger got token %d only %v after the last renewal, and the TTL is %v", got.Token, backend.Round(alive), g.TTL)
				}
				x.unlessStalled(asked, 0)
				x.latef("%v passed from one renewal to the next", time.Since(asked))
			}
			x.sleep(x.poll())
		}
		begun := time.Now()
		next, err := a.Renew(x.ctx, g)
		if err != nil {
			x.unlessStalled(asked, g.TTL/8)
			x.latef("Renew %v after the last sign of life, with a TTL of %v, gave %q", backend.Round(time.Since(asked)), g.TTL, err)
		}
		if next.Token != g.Token || next.ID != g.ID || next.Key != g.Key || next.TTL < s.Grant.TTL {
			x.failf("Renew turned token %d, TTL %v into token %d, TTL %v", g.Token, g.TTL, next.Token, next.TTL)
		}
		g, asked = next, begun
	}
	// the last renewal counts in full, too
	x.early(b, silent{g, asked, time.Now()}, x.long())
}

func renewByStranger(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	for _, s := range []backend.Grant{
		{Key: key, ID: rand.Text(), Token: g.Token, TTL: g.TTL},
		{Key: key, ID: rand.Text(), Holder: g.Holder, Token: g.Token + 1, TTL: g.TTL},
		{Key: x.key(), ID: g.ID, Token: g.Token, TTL: g.TTL},
	} {
		if _, err := b.Renew(x.ctx, s); !errors.Is(err, backend.ErrLost) {
			x.failf("Renew by a claim that does not hold the key gave %v and not ErrLost", err)
		}
		if r := x.inspect(b, s.Key); s.Key != key && r.State == backend.Held {
			x.failf("Renew of a free key took it: %s", r)
		}
	}
	x.stillHolds(b, g, "a stranger's Renew")
}

func renewAfterTakeover(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	g, _ := x.takeover(b, s, x.long())
	for range 2 {
		if _, err := a.Renew(x.ctx, s.Grant); !errors.Is(err, backend.ErrLost) {
			x.failf("Renew after a takeover gave %v and not ErrLost", err)
		}
		x.stillHolds(a, g, "the former holder's Renew")
	}
	x.release(b, g)
	if _, err := a.Renew(x.ctx, s.Grant); !errors.Is(err, backend.ErrLost) {
		x.failf("Renew after a takeover and the successor's Release gave %v and not ErrLost", err)
	}
	x.isFree(b, s.Key, "the former holder's Renew")
}

func renewAfterRelease(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	x.release(a, g)
	for range 2 {
		if _, err := a.Renew(x.ctx, g); !errors.Is(err, backend.ErrLost) {
			x.failf("Renew after Release gave %v and not ErrLost", err)
		}
		x.isFree(b, g.Key, "Renew of a released grant")
	}
}

func renewAfterBreak(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	x.breakKey(b, g)
	for range 2 {
		if _, err := a.Renew(x.ctx, g); !errors.Is(err, backend.ErrLost) {
			x.failf("Renew after Break gave %v and not ErrLost", err)
		}
		x.isFree(b, g.Key, "Renew of a broken grant")
	}
}

func renewBatch(x *trial) {
	a, b := x.client(), x.client()
	br := a.(backend.BatchRenewer)
	if rs := br.RenewAll(x.ctx, nil); len(rs) != 0 {
		x.failf("a batch of none has %d answers", len(rs))
	}
	kinds := []string{"live", "released", "live", "never granted", "taken by another", "live"}
	var gs []backend.Grant
	for _, k := range kinds {
		key := x.key()
		g := backend.Grant{Key: key, ID: rand.Text(), Token: 1, TTL: x.ttl()}
		if k != "never granted" {
			ttl := x.ttl()
			if k != "live" {
				ttl = x.long()
			}
			g = x.acquire(a, key, ttl)
		}
		if k == "released" || k == "taken by another" {
			x.release(a, g)
		}
		if k == "taken by another" {
			x.acquire(b, key, x.long())
		}
		gs = append(gs, g)
	}
	var last time.Time
	for round := range 4 {
		asked := time.Now()
		rs := br.RenewAll(x.ctx, gs)
		if len(rs) != len(gs) {
			x.failf("a batch of %d has %d answers", len(gs), len(rs))
		}
		for i, k := range kinds {
			if k != "live" {
				if !errors.Is(rs[i].Err, backend.ErrLost) {
					x.failf("in a batch, a grant that was %s gave %v and not ErrLost", k, rs[i].Err)
				}
				continue
			}
			if rs[i].Err != nil {
				x.unlessStalled(last, gs[i].TTL/8)
				x.latef("in a batch, a live grant gave %v in round %d", rs[i].Err, round+1)
			}
			if rs[i].Grant.Key != gs[i].Key || rs[i].Grant.Token != gs[i].Token {
				x.failf("in a batch, the answer for token %d of %q is token %d of %q", gs[i].Token, gs[i].Key, rs[i].Grant.Token, rs[i].Grant.Key)
			}
			gs[i] = rs[i].Grant
		}
		last = asked
		x.sleep(time.Until(asked.Add(gs[0].TTL / 2)))
	}
	// two TTLs have passed: only the renewals can have kept them
	for i, k := range kinds {
		if k != "live" {
			continue
		}
		if g, err := x.attempt(b, gs[i].Key, x.claim(x.long())); err == nil && time.Since(last) < gs[i].TTL {
			x.failf("number %d of a batch was renewed, and a stranger got token %d %v later, with a TTL of %v", i+1, g.Token, backend.Round(time.Since(last)), gs[i].TTL)
		}
	}
}

func heartbeatKeeps(x *trial) {
	l, b := x.locker(nil), x.client()
	key := x.key()
	lease := x.lease(l, key)
	token := lease.Token()
	ttl := lease.Grant().TTL
	// A lease is lost when no heartbeat has come through for nine tenths of a TTL: what the
	// machine did before the last but one is forgotten.
	beats := func() time.Time { return time.Now().Add(-ttl * 3 / 2) }
	for end := time.Now().Add(3*ttl + ttl/2); time.Now().Before(end); {
		if g, err := x.attempt(b, key, x.claim(x.long())); err == nil {
			x.unlessStalled(beats(), ttl/4)
			x.latef("a stranger got token %d while heartbeats kept token %d", g.Token, token)
		}
		if err := lease.Err(); err != nil {
			x.unlessStalled(beats(), ttl/4)
			x.latef("the lease ended although its heartbeats ran: %v", err)
		}
		x.sleep(max(x.poll(), ttl/50))
	}
	if lease.Token() != token {
		x.failf("heartbeats changed the token from %d to %d", token, lease.Token())
	}
	if err := lease.Release(x.ctx); err != nil {
		x.unlessStalled(beats(), ttl/4)
		x.latef("Release after three TTLs gave %q", err)
	}
}

func heartbeatMany(x *trial) {
	const n = 100
	ttl := 2 * x.steady()
	var mu sync.Mutex
	var wrong []string
	var slowest time.Duration // that an attempt took
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	timed := func(f func()) {
		begun := time.Now()
		f()
		mu.Lock()
		defer mu.Unlock()
		slowest = max(slowest, time.Since(begun))
	}
	settle := func() {
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) == 0 {
			return
		}
		x.unlessStalled(time.Now().Add(-ttl*3/2), ttl/4) // as in heartbeatKeeps
		if slowest > ttl/8 {
			x.undecide("an attempt took %v, with a TTL of %v: %s", backend.Round(slowest), ttl, wrong[0])
		}
		x.latef("%d of %d: %s", len(wrong), n, wrong[0])
	}
	l := x.locker(func(o *hasp.Options) {
		o.TTL = ttl
		o.Observer = func(e hasp.Event) {
			if e.Kind == hasp.EventLost {
				note("a lease was lost although heartbeats ran: %s: %v", e.Key, e.Err)
			}
		}
	})
	// few requests at once, so that they are the store's time and not a queue's
	each := func(f func(i int)) {
		var wg sync.WaitGroup
		limit := make(chan struct{}, 8)
		for i := range n {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				timed(func() { f(i) })
			})
		}
		wg.Wait()
		settle()
	}
	leases := make([]*hasp.Lease, n)
	keys := make([]string, n)
	for i := range keys {
		keys[i] = x.key()
	}
	each(func(i int) {
		var err error
		if leases[i], err = l.Acquire(x.ctx, keys[i]); err != nil {
			note("a free key was refused: %v", err)
		}
	})
	x.sleep(ttl * 3 / 2)
	b := x.client()
	each(func(i int) {
		if g, err := x.attempt(b, keys[i], x.claim(x.long())); err == nil {
			note("a stranger got token %d of a key that heartbeats keep", g.Token)
		}
	})
	each(func(i int) {
		if err := leases[i].Release(x.ctx); err != nil {
			note("Release gave %q", err)
		}
	})
}

// lease acquires key, which must be free, through the engine.
func (x *trial) lease(l hasp.Locker, key string) *hasp.Lease {
	begun := time.Now()
	lease, err := l.TryAcquire(x.ctx, key)
	if took := time.Since(begun); errors.Is(err, hasp.ErrUnavailable) && took > x.ttl()/4 {
		x.undecide("an attempt took %v: %v", backend.Round(took), err)
	}
	if err != nil {
		if r, ierr := l.Inspect(x.ctx, key); definite(err) && ierr == nil && r.State == backend.Held {
			x.restf("error-definite", "an attempt at a free key gave %q, and the key is %s", err, r)
		}
		x.failf("a free key was refused: %v", err)
	}
	x.cleanup(releaseOf(lease))
	return lease
}

func releaseOf(lease *hasp.Lease) func(context.Context) {
	return func(ctx context.Context) { _ = lease.Release(ctx) }
}
