package conformance

import (
	"errors"
	"math"
	"time"

	"github.com/hasplock/hasp/backend"
)

var tokenRules = []Rule{
	{ID: "token-rises", Statement: "tokens rise from one acquisition to the next, across releases, whichever client acquires", run: tokenRises},
	{ID: "token-after-expiry", Statement: "tokens rise across an expiry", run: tokenAfterExpiry},
	{ID: "token-after-break", Statement: "tokens never repeat or fall, even after a break", needs: []backend.Capability{backend.CapBreak}, run: tokenAfterBreak},
	{ID: "token-after-reopen", Statement: "tokens rise when every client is closed and opened again", run: tokenAfterReopen},
	{ID: "token-floor", Statement: "a token exceeds its claim's TokenFloor, however great, and later ones exceed it too", rests: []string{"token-rises"}, run: tokenFloor},
	{ID: "token-floor-takeover", Statement: "a claim that takes a stale key over gets a token that exceeds its TokenFloor, and what RaiseToken asked for", rests: []string{"token-after-expiry", "stale-after-ttl", "token-floor", "token-raised"}, run: tokenFloorTakeover},
	{ID: "token-ahead", Statement: "tokens that are ahead of the store's clock rise all the same, across a takeover, a break, a withdrawal and clients that are closed", rests: []string{"token-floor", "token-after-expiry", "token-after-break", "token-after-reopen"}, run: tokenAhead},
	{ID: "token-exhausted", Statement: "a claim whose TokenFloor is the greatest number there is gets an error and not the key", rests: []string{"token-floor"}, run: tokenExhausted},
	{ID: "token-raised", Statement: "RaiseToken lifts every later token, and touches neither the holder nor, if it is lower, anything", needs: []backend.Capability{backend.CapRaiseToken}, rests: []string{"token-floor"}, run: tokenRaised},
	{ID: "token-shown", Statement: "a free key's last token, where Inspect shows one, is no greater than the next", run: tokenShown},
}

// above checks that a token is greater than the last one.
func (x *trial) above(got, last uint64, when string) {
	if got <= last {
		x.failf("got %d after %d, %s", got, last, when)
	}
}

func tokenRises(x *trial) {
	bs := x.clients(3)
	key := x.key()
	var last uint64
	for i := range 12 {
		b := bs[i%3]
		g := x.acquire(b, key, x.long())
		x.above(g.Token, last, "across a release")
		last = g.Token
		x.release(b, g)
	}
}

func tokenAfterExpiry(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	g, _ := x.takeover(b, s, x.long())
	x.above(g.Token, s.Token, "across a takeover")
	x.release(b, g)
	x.above(x.acquire(a, s.Key, x.long()).Token, g.Token, "across a takeover and a release")

	// and where nobody took over, but the store may have forgotten
	s = x.holdSilently(a, x.key(), x.ttl())
	x.outlive(s)
	_ = a.Release(x.ctx, s.Grant)
	g, err := x.attempt(b, s.Key, x.claim(x.long()))
	if err != nil {
		x.restf("release-after-expiry", "a claim after Release of a stale grant gave %q", err)
	}
	x.above(g.Token, s.Token, "across an expiry")
}

func tokenAfterBreak(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	var last uint64
	for range 3 {
		g := x.acquire(a, key, x.long())
		x.above(g.Token, last, "across a break")
		last = g.Token
		x.breakKey(b, g)
	}
}

func tokenAfterReopen(x *trial) {
	key := x.key()
	var last uint64
	for range 3 {
		b := x.client()
		g := x.acquire(b, key, x.long())
		x.above(g.Token, last, "with every client closed and opened again in between")
		last = g.Token
		x.release(b, g)
		if err := b.Close(); err != nil {
			x.failf("Close gave %q", err)
		}
	}
}

func tokenFloor(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	c := x.claim(x.long())
	g := x.acquireAs(a, key, c)
	last := g.Token
	x.release(a, g)
	// beyond 2^53 a store that keeps numbers as floating point loses digits
	floors := []uint64{0, 1, last - 1, last, last + 1000, 1<<53 + 1, 1<<60 + 1, 1<<62 + 12345}
	for _, floor := range floors {
		c := x.claim(x.long())
		c.TokenFloor = floor
		g := x.acquireAs(a, key, c)
		if g.Token <= floor {
			x.failf("got %d with a TokenFloor of %d", g.Token, floor)
		}
		if g.Token <= last {
			x.failf("got %d after %d, with a TokenFloor of %d", g.Token, last, floor)
		}
		if r := x.inspect(b, key); r.Token != g.Token {
			x.failf("the token granted is %d, and Inspect shows %d", g.Token, r.Token)
		}
		last = g.Token
		x.release(a, g)
		g = x.acquire(b, key, x.long())
		if g.Token <= last {
			x.failf("got %d after %d, which had been lifted by a TokenFloor of %d", g.Token, last, floor)
		}
		last = g.Token
		x.release(b, g)
	}
}

func tokenFloorTakeover(x *trial) {
	a, b := x.client(), x.client()
	claimed, raised := x.holdSilently(a, x.key(), x.ttl()), x.holdSilently(a, x.key(), x.ttl())
	const ahead = 1 << 59
	raises := false
	if backend.Has(b, backend.CapRaiseToken) {
		raises = true
		if err := backend.RaiseToken(x.ctx, b, raised.Key, ahead); err != nil {
			x.restf("token-raised", "RaiseToken gave %q", err)
		}
	}
	x.outlive(raised)
	c := x.claim(x.long())
	c.TokenFloor = ahead
	g, err := x.attempt(b, claimed.Key, c)
	if err != nil {
		x.restf("stale-after-ttl", "an attempt at a stale key gave %q", err)
	}
	if g.Token <= ahead {
		x.failf("got %d with a TokenFloor of %d, at a takeover", g.Token, c.TokenFloor)
	}
	if !raises {
		return
	}
	if g, err = x.attempt(b, raised.Key, x.claim(x.long())); err != nil {
		x.restf("stale-after-ttl", "an attempt at a stale key gave %q", err)
	}
	if g.Token <= ahead {
		x.failf("got %d after RaiseToken to %d, at a takeover", g.Token, uint64(ahead))
	}
}

func tokenAhead(x *trial) {
	a, b := x.client(), x.client()
	const ahead = 1 << 59
	first := func(key string, ttl time.Duration) silent {
		c := x.claim(ttl)
		c.TokenFloor = ahead
		s := silent{asked: time.Now()}
		s.Grant = x.acquireAs(a, key, c)
		s.answered = time.Now()
		if s.Token <= ahead {
			x.restf("token-floor", "got %d with a TokenFloor of %d", s.Token, c.TokenFloor)
		}
		return s
	}
	next := func(key string, last uint64, across string) uint64 {
		g := x.acquire(b, key, x.long())
		x.above(g.Token, last, across+", ahead of the store's clock")
		return g.Token
	}
	stale := first(x.key(), x.ttl())

	g := first(x.key(), x.long()).Grant
	if err := b.Release(x.ctx, backend.Grant{Key: g.Key, ID: g.ID}); err != nil {
		x.restf("withdraw", "withdrawing a claim gave %q", err)
	}
	next(g.Key, g.Token, "across a withdrawal")

	if backend.Has(b, backend.CapBreak) {
		g := first(x.key(), x.long()).Grant
		last := g.Token
		for range 3 {
			x.breakKey(b, g)
			g = x.acquire(b, g.Key, x.long())
			x.above(g.Token, last, "across a break, ahead of the store's clock")
			last = g.Token
		}
	}

	d := x.client()
	c := x.claim(x.long())
	c.TokenFloor = ahead
	g = x.acquireAs(d, x.key(), c)
	x.release(d, g)
	if err := d.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	next(g.Key, g.Token, "when its client had been closed")

	x.outlive(stale)
	taken, err := x.attempt(b, stale.Key, x.claim(x.long()))
	if err != nil {
		x.restf("stale-after-ttl", "an attempt at a stale key gave %q", err)
	}
	x.above(taken.Token, stale.Token, "across a takeover, ahead of the store's clock")
}

func tokenExhausted(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	c := x.claim(x.long())
	c.TokenFloor = math.MaxUint64
	if g, err := x.attempt(a, key, c); err == nil {
		x.failf("got %d with a TokenFloor of %d", g.Token, c.TokenFloor)
	} else if errors.Is(err, backend.ErrHeld) || errors.Is(err, backend.ErrUnavailable) {
		x.failf("got %q, which does not say that tokens are used up", err)
	}
	x.isFree(b, key, "a claim that was refused for its TokenFloor")
	if _, err := x.attempt(b, key, x.claim(x.long())); err != nil {
		x.failf("after a claim that was refused for its TokenFloor the next one gave %q", err)
	}
}

func tokenRaised(x *trial) {
	a, b := x.client(), x.client()
	raise := func(key string, floor uint64) {
		if err := backend.RaiseToken(x.ctx, b, key, floor); err != nil {
			x.failf("RaiseToken to %d gave %q", floor, err)
		}
	}
	never := x.key() // never locked before
	raise(never, 1<<54+1)
	if g := x.acquire(a, never, x.long()); g.Token <= 1<<54+1 {
		x.failf("got %d after RaiseToken to %d", g.Token, uint64(1<<54+1))
	}

	key := x.key()
	g := x.acquire(a, key, x.long())
	raise(key, g.Token+1_000_000)
	x.stillHolds(b, g, "RaiseToken")
	if _, err := a.Renew(x.ctx, g); err != nil {
		x.failf("Renew after RaiseToken gave %q", err)
	}
	if err := a.Release(x.ctx, g); err != nil {
		x.failf("Release after RaiseToken gave %q", err)
	}
	raise(key, 5) // lower: nothing changes
	x.isFree(b, key, "RaiseToken")
	next := x.acquire(b, key, x.long())
	if next.Token <= g.Token+1_000_000 {
		x.failf("got %d after RaiseToken to %d", next.Token, g.Token+1_000_000)
	}
	raise(key, next.Token-1)
	x.stillHolds(a, next, "RaiseToken to less than was granted")
	x.release(b, next)
	x.above(x.acquire(a, key, x.long()).Token, next.Token, "after RaiseToken to less than was granted")
}

func tokenShown(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	for range 3 {
		r := x.inspect(b, key)
		g := x.acquire(a, key, x.long())
		if r.Token >= g.Token {
			x.failf("the free key was shown with last token %d, and the next one was %d", r.Token, g.Token)
		}
		x.release(a, g)
	}
}
