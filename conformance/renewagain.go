package conformance

import (
	"errors"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What Renew does when it is called again and again, as heartbeats are.
var renewAgainRules = []Rule{
	{ID: "renew-repeatable", Statement: "renewing the same grant again, as after an answer that was lost, succeeds again", rests: []string{"renew-extends"}, run: renewRepeatable},
	{ID: "renew-often", Statement: "a grant can be renewed any number of times", rests: []string{"renew-extends", "renew-repeatable"}, run: renewOften},
	{ID: "stale-after-renewals", Statement: "however often a grant was renewed, it is stale when its TTL has run out after the last time", rests: []string{"stale-after-ttl", "ttl-exact"}, run: staleAfterRenewals},
	{ID: "renew-after-stale-successor", Statement: "a grant that was taken over cannot be renewed, even when its successor is itself stale", rests: []string{"renew-after-takeover"}, run: renewAfterStaleSuccessor},
}

func renewRepeatable(x *trial) {
	a, b := x.client(), x.client()
	first := x.acquire(a, x.key(), x.long())
	g := first
	for range 2 {
		next, err := a.Renew(x.ctx, g)
		if err != nil {
			x.restf("renew-extends", "Renew gave %q", err)
		}
		// its answer was lost: the engine asks again, with what it has
		for _, by := range []backend.Backend{a, b} {
			again, err := by.Renew(x.ctx, g)
			if err != nil {
				x.failf("renewing the same grant again gave %q", err)
			}
			if again.Token != g.Token || again.ID != g.ID || again.Key != g.Key {
				x.failf("renewing the same grant again turned token %d into token %d", g.Token, again.Token)
			}
		}
		if _, err := a.Renew(x.ctx, first); err != nil {
			x.failf("renewing a grant as it was first given, after later renewals, gave %q", err)
		}
		g = next
	}
	x.stillHolds(b, first, "repeated renewals")
	if err := a.Release(x.ctx, first); err != nil {
		x.failf("releasing a grant as it was first given, after renewals, gave %q", err)
	}
	x.isFree(b, first.Key, "Release of a grant as it was first given")
}

func renewOften(x *trial) {
	const times = 120
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	for i := range times {
		next, err := a.Renew(x.ctx, g)
		if err != nil {
			x.failf("renewal %d gave %q", i+1, err)
		}
		if next.Token != g.Token || next.TTL < g.TTL {
			x.failf("renewal %d turned token %d, TTL %v into token %d, TTL %v", i+1, g.Token, g.TTL, next.Token, next.TTL)
		}
		g = next
	}
	x.stillHolds(b, g, "120 renewals")
	x.release(a, g)
}

func staleAfterRenewals(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.telling())
	for range 25 {
		last := s.asked
		s.asked = time.Now()
		g, err := a.Renew(x.ctx, s.Grant)
		if err != nil {
			if x.unlessStalled(last, s.TTL/8); time.Since(last) >= s.TTL {
				x.latef("Renew was answered %v after the one before, with a TTL of %v, with %q", backend.Round(time.Since(last)), s.TTL, err)
			}
			x.restf("renew-often", "Renew gave %q", err)
		}
		s.Grant, s.answered = g, time.Now()
	}
	x.sleep(time.Until(s.asked.Add(s.TTL * 9 / 10)))
	c := x.claim(x.long())
	for {
		begun := time.Now()
		if _, err := x.attempt(b, s.Key, c); err == nil {
			return
		}
		if late := begun.Sub(s.end()); late > x.slack(s.end()) {
			x.failf("%v after the last of 25 renewals, with a TTL of %v, the key was still held", backend.Round(begun.Sub(s.answered)), s.TTL)
		}
		x.sleep(x.poll())
	}
}

func renewAfterStaleSuccessor(x *trial) {
	a, b := x.client(), x.client()
	first := x.holdSilently(a, x.key(), x.ttl())
	x.outlive(x.takeoverSilently(b, first, x.ttl()))
	for range 2 {
		if _, err := a.Renew(x.ctx, first.Grant); !errors.Is(err, backend.ErrLost) {
			x.failf("Renew of a grant that was taken over, when its successor had fallen silent too, gave %v and not ErrLost", err)
		}
	}
	x.isFree(b, first.Key, "the Renew of a grant that was taken over")
	third, err := x.attempt(b, first.Key, x.claim(x.long()))
	if err != nil {
		x.restf("stale-again", "a claim at a key whose second holder is stale gave %q", err)
	}
	x.stillHolds(a, third, "all that")
}
