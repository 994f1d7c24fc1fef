package conformance

import (
	"errors"
	"time"

	"github.com/hasplock/hasp/backend"
)

var repeatRules = []Rule{
	{ID: "acquire-repeatable", Statement: "an attempt that is repeated with the same claim gets the same token again", run: acquireRepeatable},
	{ID: "acquire-repeat-restarts-ttl", Statement: "an attempt that is repeated with the same claim restarts its TTL", run: acquireRepeatRestarts},
	{ID: "acquire-repeat-after-takeover", Statement: "an attempt that is repeated when another has taken the key over is refused, and once that one has released it gets a new token", rests: []string{"acquire-repeatable", "exclusive-in-client", "wait-polls", "stale-after-ttl", "token-after-expiry"}, run: acquireRepeatAfterTakeover},
	{ID: "grant-without-state", Statement: "a grant that has lost its State, or comes to another client, can be renewed and released", run: grantWithoutState},
}

func acquireRepeatable(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	c := x.claim(x.long())
	g := x.acquireAs(a, key, c)
	for _, by := range []backend.Backend{a, a, b} {
		again, err := x.attempt(by, key, c)
		if err != nil {
			x.failf("a repeated attempt gave %q", err)
		}
		if again.Token != g.Token || again.ID != g.ID {
			x.failf("a repeated attempt got token %d, and the first %d", again.Token, g.Token)
		}
		g = again
	}
	if _, err := a.Renew(x.ctx, g); err != nil {
		x.failf("Renew after repeated attempts gave %q", err)
	}
	x.stillHolds(b, g, "repeated attempts")
	if err := a.Release(x.ctx, g); err != nil {
		x.failf("Release after repeated attempts gave %q", err)
	}
	x.isFree(b, key, "repeated attempts and one Release")
	// a claim that was released is not the holder any more
	if again, err := x.attempt(a, key, c); err == nil && again.Token <= g.Token {
		x.failf("an attempt by a claim that was released got its old token %d back as %d", g.Token, again.Token)
	}
}

func acquireRepeatRestarts(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	c := x.claim(x.ttl())
	asked := time.Now()
	g := x.acquireAs(a, key, c)
	for range 4 {
		x.sleep(time.Until(asked.Add(g.TTL / 2)))
		begun := time.Now()
		again, err := x.attempt(a, key, c)
		if took := time.Since(asked); (err != nil || again.Token != g.Token) && took >= g.TTL {
			x.unlessStalled(asked, g.TTL/8)
			x.latef("a repeated attempt was answered %v after the one before, whose TTL is %v, with token %d, %v", backend.Round(took), g.TTL, again.Token, err)
		}
		if err != nil {
			x.unlessStalled(asked, g.TTL/8)
			x.restf("acquire-repeatable", "a repeated attempt gave %q", err)
		}
		if again.Token != g.Token {
			x.unlessStalled(asked, g.TTL/8)
			x.restf("acquire-repeatable", "a repeated attempt got token %d, and the first %d", again.Token, g.Token)
		}
		asked = begun
		if got, err := x.attempt(b, key, x.claim(x.long())); err == nil && time.Since(asked) < g.TTL {
			x.failf("a stranger got token %d %v after the holder repeated its attempt, with a TTL of %v", got.Token, backend.Round(time.Since(asked)), g.TTL)
		}
	}
}

func grantWithoutState(x *trial) {
	a, b := x.client(), x.client()
	for _, by := range []backend.Backend{a, b} {
		g := x.acquire(a, x.key(), x.long())
		token := g.Token
		for _, bare := range []backend.Grant{
			{Key: g.Key, ID: g.ID, Holder: g.Holder, Token: g.Token, TTL: g.TTL},
			{Key: g.Key, ID: g.ID, Token: g.Token, TTL: g.TTL},
		} {
			next, err := by.Renew(x.ctx, bare)
			if err != nil {
				x.failf("Renew of a grant without State gave %q", err)
			}
			if next.Token != token {
				x.failf("Renew of a grant without State turned token %d into %d", token, next.Token)
			}
		}
		if err := by.Release(x.ctx, backend.Grant{Key: g.Key, ID: g.ID, Token: token, TTL: g.TTL}); err != nil {
			x.failf("Release of a grant without State gave %q", err)
		}
		x.isFree(b, g.Key, "Release of a grant without State")
	}
}

func acquireRepeatAfterTakeover(x *trial) {
	a, b := x.client(), x.client()
	c := x.claim(x.ttl())
	first := silent{asked: time.Now()}
	first.Grant = x.acquireAs(a, x.key(), c)
	first.answered = time.Now()
	g, _ := x.takeover(b, first, x.long())
	for _, by := range []backend.Backend{a, b} {
		again, err := x.attempt(by, g.Key, c)
		if err == nil {
			x.failf("an attempt that was repeated after another had taken the key over with token %d got token %d", g.Token, again.Token)
		}
		if !errors.Is(err, backend.ErrHeld) {
			x.failf("an attempt that was repeated after another had taken the key over gave %q, not a *HeldError", err)
		}
		x.stillHolds(b, g, "the former holder's repeated attempt")
	}
	x.release(b, g)
	again, err := x.attempt(a, g.Key, c)
	if err != nil {
		x.failf("an attempt that was repeated after another had taken the key over and released it gave %q", err)
	}
	if again.Token <= g.Token {
		x.failf("an attempt that was repeated after another had taken the key over and released it got token %d, and that one had %d", again.Token, g.Token)
	}
}
