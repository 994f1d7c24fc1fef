package conformance

import (
	"crypto/rand"
	"errors"

	"github.com/hasplock/hasp/backend"
)

var releaseRules = []Rule{
	{ID: "release-frees", Statement: "after Release the key is free and the next claim gets it at once", run: releaseFrees},
	{ID: "release-idempotent", Statement: "releasing a grant twice is not an error as long as nobody has taken the key in between", run: releaseIdempotent},
	{ID: "release-spares-successor", Statement: "a Release that comes after a takeover or after the key was taken again says that the grant was lost, also if the key is free again, and frees nobody", run: releaseSparesSuccessor},
	{ID: "release-by-stranger", Statement: "a claim that does not hold the key cannot free it", run: releaseByStranger},
	{ID: "release-after-expiry", Statement: "releasing a stale grant that nobody has taken over does no harm", run: releaseAfterExpiry},
	{ID: "withdraw", Statement: "Release with only a key and a claim's ID frees what that claim holds, and says ErrLost if that is nothing", run: withdraw},
}

func releaseFrees(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	for range 3 {
		g := x.acquire(a, key, x.long())
		x.release(a, g)
		x.isFree(b, key, "Release")
		g, err := x.attempt(b, key, x.claim(x.long()))
		if err != nil {
			x.failf("a claim right after Release gave %q", err)
		}
		x.release(b, g)
	}
}

func releaseIdempotent(x *trial) {
	a := x.client()
	g := x.acquire(a, x.key(), x.long())
	x.release(a, g)
	for range 2 {
		if err := a.Release(x.ctx, g); err != nil {
			x.failf("releasing again gave %q", err)
		}
	}
	// without State the store may not know any more whose it was
	bare := g
	bare.State = nil
	if err := a.Release(x.ctx, bare); err != nil && !errors.Is(err, backend.ErrLost) {
		x.failf("releasing again, with a grant that has lost its State, gave %q", err)
	}
}

func releaseSparesSuccessor(x *trial) {
	a, b := x.client(), x.client()
	lateRelease := func(after string, old, now backend.Grant) {
		for _, late := range []backend.Grant{old, {Key: old.Key, ID: old.ID}} {
			if err := a.Release(x.ctx, late); !errors.Is(err, backend.ErrLost) {
				x.failf("a late Release, %s, gave %v and not ErrLost", after, err)
			}
			x.stillHolds(b, now, "a late Release, "+after)
		}
	}
	g := x.acquire(a, x.key(), x.long())
	x.release(a, g)
	lateRelease("after release and another's acquire", g, x.acquire(b, g.Key, x.long()))

	s := x.holdSilently(a, x.key(), x.ttl())
	taken, _ := x.takeover(b, s, x.long())
	lateRelease("after a takeover", s.Grant, taken)
	x.release(b, taken)
	for _, late := range []backend.Grant{s.Grant, {Key: s.Key, ID: s.ID}} {
		if err := a.Release(x.ctx, late); !errors.Is(err, backend.ErrLost) {
			x.failf("a late Release, after a takeover and the successor's Release, gave %v and not ErrLost", err)
		}
	}
}

func releaseByStranger(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	strange := backend.Grant{Key: key, ID: rand.Text(), Holder: g.Holder, Token: g.Token, TTL: g.TTL}
	for _, s := range []backend.Grant{strange, {Key: key, ID: rand.Text()}, {Key: key, ID: rand.Text(), Token: g.Token + 1}} {
		for _, c := range []backend.Backend{a, b} {
			if err := c.Release(x.ctx, s); err == nil {
				x.failf("Release by a claim that never held the key gave no error")
			}
			x.stillHolds(b, g, "Release by a claim that never held the key")
		}
	}
	x.release(a, g)
}

func releaseAfterExpiry(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	x.outlive(s)
	if err := a.Release(x.ctx, s.Grant); err != nil && !errors.Is(err, backend.ErrLost) {
		x.failf("Release of a stale grant gave %q", err)
	}
	x.isFree(b, s.Key, "Release of a stale grant")
	g, err := x.attempt(b, s.Key, x.claim(x.long()))
	if err != nil {
		x.restf("stale-after-ttl", "a claim after Release of a stale grant gave %q", err)
	}
	x.stillHolds(a, g, "all that")
}

func withdraw(x *trial) {
	a, b := x.client(), x.client()
	for _, by := range []backend.Backend{a, b} {
		key := x.key()
		g := x.acquire(a, key, x.long())
		if err := by.Release(x.ctx, backend.Grant{Key: key, ID: g.ID}); err != nil {
			x.failf("withdrawing a claim that holds the key gave %q", err)
		}
		x.isFree(b, key, "a claim was withdrawn")
		if _, err := x.attempt(b, key, x.claim(x.long())); err != nil {
			x.failf("after a claim was withdrawn the next one gave %q", err)
		}
	}
	for _, key := range []string{x.key(), x.key()} {
		if err := a.Release(x.ctx, backend.Grant{Key: key, ID: rand.Text()}); !errors.Is(err, backend.ErrLost) {
			x.failf("withdrawing a claim that holds nothing gave %v and not ErrLost", err)
		}
		x.acquire(b, key, x.long())
	}
}
