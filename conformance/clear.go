package conformance

import "github.com/hasplock/hasp/backend"

// Only a backend that is for it can clear, and the others do not have to say so.
var clearRules = []Rule{
	{ID: "clear-spares-live", Statement: "Clear leaves live holders alone, with stale too, and does nothing to keys beyond its prefix", run: clearSparesLive},
}

func clearSparesLive(x *trial) {
	a, b := x.client(), x.client()
	if !backend.Has(b, backend.CapClear) {
		x.lackf("the backend has no capability %s", backend.CapClear)
	}
	base, beyond := x.key()+"/", x.key()+"/"
	s := []silent{x.holdSilently(a, base+"stale", x.ttl()), x.holdSilently(a, beyond+"stale", x.ttl())}
	live := []backend.Grant{x.acquire(a, base+"live", x.long()), x.acquire(b, base+"own", x.long()), x.acquire(a, beyond+"live", x.long())}
	freed := x.acquire(a, base+"free", x.long())
	x.release(a, freed)
	x.outlive(s[1])
	outside := x.inspect(b, s[1].Key)
	for _, stale := range []bool{false, true} {
		rs, err := backend.Clear(x.ctx, b, base, stale)
		if err != nil {
			x.failf("Clear gave %q", err)
		}
		for _, r := range rs {
			for _, g := range live {
				if r.Key == g.Key {
					x.failf("Clear says that it took away %s, which is held", r)
				}
			}
		}
		for _, g := range live {
			x.stillHolds(b, g, "Clear")
		}
	}
	for _, g := range live {
		if _, err := a.Renew(x.ctx, g); err != nil {
			x.failf("Renew after Clear gave %q", err)
		}
	}
	// what was stale or free can be had, by one
	for _, key := range []string{s[0].Key, freed.Key} {
		g, err := x.attempt(b, key, x.claim(x.long()))
		if err != nil {
			x.failf("a claim of a key that was cleared gave %q", err)
		}
		if last := s[0].Token; key == s[0].Key && g.Token <= last {
			x.failf("after Clear a claim got token %d, and the last one was %d", g.Token, last)
		}
		x.stillHolds(a, g, "Clear")
	}
	if r := x.inspect(b, s[1].Key); r.State != outside.State || r.Token != outside.Token || r.ID != outside.ID {
		x.failf("a key beyond the prefix was %s before Clear, and is %s after it", outside, r)
	}
}
