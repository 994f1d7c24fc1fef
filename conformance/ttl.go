package conformance

import (
	"crypto/rand"
	"errors"
	"math"
	"time"

	"github.com/hasplock/hasp/backend"
)

var ttlRules = []Rule{
	{ID: "ttl-exact", Statement: "a TTL is kept to the fraction of a second, and not for longer than it says", rests: []string{"stale-not-before-ttl", "stale-after-ttl"}, run: ttlExact},
	{ID: "ttl-largest", Statement: "the longest TTL there is gets an error, or a lock that is held", rests: []string{"ttl-long"}, run: ttlLargest},
	{ID: "stale-untouched", Statement: "nothing prolongs a silent holder's lock: others may look, list, wait, raise tokens, and try to renew, free or break it, and its own client may take, renew and release other keys", rests: []string{"stale-after-ttl", "ttl-exact"}, run: staleUntouched},
}

// telling is a TTL with a fraction of a second that is so long that twice as much
// is more than the slack can hide.
func (x *trial) telling() time.Duration {
	least := max(x.ttl(), 2*x.cfg.Slack+100*time.Millisecond)
	ttl := least.Truncate(time.Second) + 400*time.Millisecond
	for ttl < least {
		ttl += time.Second
	}
	return ttl
}

func ttlExact(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.telling())
	c := x.claim(x.long())
	refused := s.asked // when the last attempt was made that was
	for {
		begun := time.Now()
		g, err := x.attempt(b, s.Key, c)
		took := time.Since(s.asked)
		if err == nil {
			if took < s.TTL {
				x.failf("a claim got token %d %v after the last sign of life of a holder whose TTL is %v", g.Token, backend.Round(took), s.TTL)
			}
			// not seen: whether it was to be had before. A store that is as slow as that
			// always is shows no more.
			if tried := refused.Sub(s.asked); tried < s.TTL-200*time.Millisecond && x.scale < 4 {
				x.undecide("between %v and %v of a TTL of %v nothing was tried", backend.Round(tried), backend.Round(took), s.TTL)
			}
			x.notef("taken over %v after a TTL of %v had run out", backend.Round(time.Since(s.end())), s.TTL)
			return
		}
		if !errors.Is(err, backend.ErrHeld) {
			x.restf("stale-after-ttl", "an attempt at a held key gave %q", err)
		}
		if late := begun.Sub(s.end()); late > x.slack(s.end()) {
			x.failf("%v after its holder's TTL of %v had run out the key was still %q", backend.Round(late), s.TTL, err)
		}
		refused = begun
		x.sleep(x.poll())
	}
}

func ttlLargest(x *trial) {
	a, b := x.client(), x.client()
	for _, ttl := range []time.Duration{math.MaxInt64, math.MaxInt64 - time.Duration(time.Now().UnixNano()) + 1, 100 * 365 * 24 * time.Hour} {
		key := x.key()
		c := x.claim(ttl)
		g, err := x.attempt(a, key, c)
		if err != nil {
			if errors.Is(err, backend.ErrHeld) || errors.Is(err, backend.ErrLost) {
				x.failf("a claim of a free key with a TTL of %v gave %q", ttl, err)
			}
			_ = a.Release(x.ctx, backend.Grant{Key: key, ID: c.ID}) // it may be of unknown outcome
			x.isFree(b, key, "a claim that was refused for its TTL")
			x.notef("a TTL of %d years is refused: %v", int(ttl.Hours()/24/365), err)
			continue
		}
		if g.TTL < ttl {
			x.failf("claimed %v and got %v", ttl, g.TTL)
		}
		if g2, err := x.attempt(b, key, x.claim(x.long())); err == nil {
			x.failf("another got token %d of a key that was held with a TTL of %v", g2.Token, ttl)
		}
		if r := x.inspect(b, key); r.State != backend.Held || r.Remaining < 0 {
			x.failf("with a TTL of %v the key is %s, and %v are left", ttl, r, r.Remaining)
		}
		if g, err = a.Renew(x.ctx, g); err != nil {
			x.failf("Renew with a TTL of %v gave %q", ttl, err)
		}
		if g2, err := x.attempt(b, key, x.claim(x.long())); err == nil {
			x.failf("another got token %d of a key that was renewed with a TTL of %v", g2.Token, ttl)
		}
		x.release(a, g)
		x.isFree(b, key, "Release")
	}
}

// staleUntouched has one key for each thing that others may do, so that a failure
// names it.
func staleUntouched(x *trial) {
	a, b := x.client(), x.client()
	type thing struct {
		what string
		do   func(s silent)
		of   backend.Backend // the silent holder's client; nil if it is one for all
	}
	things := []thing{
		{"Inspect", func(s silent) { _, _ = b.Inspect(x.ctx, s.Key) }, nil},
		{"attempts that were refused", func(s silent) {
			g, err := x.attempt(b, s.Key, x.claim(x.long()))
			if err != nil {
				return
			}
			if took := time.Since(s.asked); took < s.TTL {
				x.restf("stale-not-before-ttl", "a claim got the key %v after the last sign of life of a holder with a TTL of %v", backend.Round(took), s.TTL)
			}
			x.release(b, g) // the store was slow; whether the key comes free was not to be seen this time
		}, nil},
		{"Renew by another claim", func(s silent) {
			_, _ = b.Renew(x.ctx, backend.Grant{Key: s.Key, ID: rand.Text(), Token: s.Token, TTL: s.TTL})
		}, nil},
		{"Release by another claim", func(s silent) { _ = b.Release(x.ctx, backend.Grant{Key: s.Key, ID: rand.Text(), Token: s.Token}) }, nil},
	}
	if backend.Has(b, backend.CapBreak) {
		things = append(things, thing{"Break with another token", func(s silent) { _ = backend.Break(x.ctx, b, s.Key, s.Token+1) }, nil})
	}
	if backend.Has(b, backend.CapList) {
		things = append(things, thing{"List", func(s silent) { _, _ = backend.List(x.ctx, b, s.Key) }, nil})
	}
	if backend.Has(b, backend.CapRaiseToken) {
		things = append(things, thing{"RaiseToken", func(s silent) { _ = backend.RaiseToken(x.ctx, b, s.Key, s.Token+10) }, nil})
	}
	if w, ok := backend.AsWatcher(b); ok {
		things = append(things, thing{"watches", func(s silent) {
			if _, stop, err := w.Watch(x.ctx, s.Key, x.claim(x.long())); err == nil {
				_ = stop(x.ctx, false)
			}
		}, nil})
	}
	// nor what its own client does with other keys
	renews, locks := x.client(), x.client()
	other := x.acquire(renews, x.key(), x.long())
	things = append(things,
		thing{"its client's Renew of another key", func(silent) { _, _ = renews.Renew(x.ctx, other) }, renews},
		thing{"its client's Acquire and Release of another key", func(silent) {
			if g, err := x.attempt(locks, x.key(), x.claim(x.long())); err == nil {
				_ = locks.Release(x.ctx, g)
			}
		}, locks})
	held := make([]silent, len(things))
	for i, th := range things {
		by := th.of
		if by == nil {
			by = a
		}
		held[i] = x.holdSilently(by, x.key(), x.telling())
	}
	// the last time is late in the TTL, so that it would count for most of another
	ttl := held[0].TTL
	for _, part := range []time.Duration{2, 5, 7, 8} {
		x.sleep(time.Until(held[0].asked.Add(ttl * part / 10)))
		for i, th := range things {
			if time.Since(held[i].asked) < ttl*9/10 {
				th.do(held[i])
			}
		}
	}
	for i, th := range things {
		s := held[i]
		x.sleep(time.Until(s.asked.Add(s.TTL)))
		for {
			begun := time.Now()
			if _, err := x.attempt(b, s.Key, x.claim(x.long())); err == nil {
				break
			}
			if late := begun.Sub(s.end()); late > x.slack(s.end()) {
				x.failf("%v after its holder's TTL of %v had run out the key was still held: %s prolonged it", backend.Round(late), s.TTL, th.what)
			}
			x.sleep(x.poll())
		}
	}
}
