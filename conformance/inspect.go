package conformance

import (
	"errors"
	"sort"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var inspectRules = []Rule{
	{ID: "inspect-fresh", Statement: "Inspect shows what the store knows now, whoever changed it, and a key never locked as free", run: inspectFresh},
	{ID: "inspect-remaining", Statement: "how long Inspect says is left falls with time and rises again with a renewal", rests: []string{"renew-extends"}, run: inspectRemaining},
	{ID: "inspect-held-for", Statement: "how long a holder is said to have had the key, if that is known, is counted from when it got the key and not from a former holder's time, nor from its own last renewal", rests: []string{"stale-after-ttl", "renew-extends"}, run: inspectHeldFor},
	{ID: "list-exact", Statement: "List returns the held keys that start with the prefix, in byte order, as Inspect shows them, and no others", needs: []backend.Capability{backend.CapList}, rests: []string{"keys-exact", "holder-named"}, run: listExact},
	{ID: "verify-asks", Statement: "Verify asks the store: nil while the lease holds the key, ErrLost once another does", run: verifyAsks},
}

func inspectFresh(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	look := func(want backend.State, token uint64, after string) {
		for _, c := range []backend.Backend{a, b} {
			r, err := c.Inspect(x.ctx, key)
			if err != nil {
				x.failf("Inspect after %s gave %q", after, err)
			}
			if r.State != want || want == backend.Held && r.Token != token {
				x.failf("after %s the key is shown as %s", after, r)
			}
			if r.State == backend.Free && (r.ID != "" || r.Holder != backend.Holder{}) {
				x.failf("after %s the free key is shown with holder %s, claim %q", after, r.Holder, r.ID)
			}
		}
	}
	look(backend.Free, 0, "nothing")
	for range 3 {
		g := x.acquire(a, key, x.long())
		look(backend.Held, g.Token, "Acquire")
		x.release(a, g)
		look(backend.Free, 0, "Release")
		g = x.acquire(b, key, x.long())
		look(backend.Held, g.Token, "Acquire by another")
		x.release(b, g)
		look(backend.Free, 0, "another's Release")
	}
}

func inspectRemaining(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.long())
	first := x.inspect(b, s.Key)
	if first.Remaining == 0 {
		x.lackf("it does not know how long is left (Remaining is 0)")
	}
	if gone := time.Since(s.asked); first.Remaining < s.TTL-gone-x.cfg.Slack-time.Second {
		x.failf("%v of a TTL of %v are left, %v after it began", first.Remaining, s.TTL, backend.Round(gone))
	}
	x.sleep(max(1200*time.Millisecond, x.cfg.Slack+200*time.Millisecond)) // a store's clock may have steps that are as long as that
	second := x.inspect(b, s.Key)
	if second.Remaining >= first.Remaining {
		x.failf("first %v were left, and over a second later %v", first.Remaining, second.Remaining)
	}
	asked := time.Now()
	if _, err := a.Renew(x.ctx, s.Grant); err != nil {
		x.restf("renew-extends", "Renew gave %q", err)
	}
	if third := x.inspect(b, s.Key); third.Remaining <= second.Remaining {
		x.unlessStalled(asked, 100*time.Millisecond)
		if took := time.Since(asked); took > time.Second {
			x.latef("%v were left before a renewal, and %v when it and Inspect had taken %v", second.Remaining, third.Remaining, backend.Round(took))
		}
		x.failf("%v were left before a renewal and %v after it", second.Remaining, third.Remaining)
	}
}

// The engine tells by HeldFor whether a next holder came before a Release or after it.
func inspectHeldFor(x *trial) {
	a, b := x.client(), x.client()
	left := x.holdSilently(a, x.key(), x.ttl())
	released := x.acquire(a, x.key(), x.long())
	got := time.Now()
	x.sleep(x.cfg.Slack + time.Second)
	if _, err := a.Renew(x.ctx, released); err != nil {
		x.restf("renew-extends", "Renew gave %q", err)
	}
	passed := time.Since(got)
	if r := x.inspect(b, released.Key); r.HeldFor > 0 && r.HeldFor < (passed-x.cfg.Slack)/2 {
		x.failf("%v after its holder got the key it is said to have had it for %v: it has renewed just now", backend.Round(passed), backend.Round(r.HeldFor))
	}
	x.release(a, released)
	check := func(key, after string, asked time.Time) {
		r := x.inspect(b, key)
		if passed := time.Since(asked); r.HeldFor > passed+x.cfg.Slack {
			x.failf("%v after a claim was made, %s, its holder is said to have had the key for %v", backend.Round(passed), after, backend.Round(r.HeldFor))
		}
	}
	asked := time.Now()
	check(x.acquire(b, released.Key, x.long()).Key, "when the key had been released", asked)
	asked = time.Now()
	taken, _ := x.takeover(b, left, x.long())
	check(taken.Key, "at a stale key", asked)
}

func listExact(x *trial) {
	a, b := x.client(), x.client()
	base := x.key() + "/"
	held := map[string]backend.Grant{}
	for _, name := range []string{"b/2", "a/1", "a/10", "a/2", "A/1", "a1", "\u00e9", "a/1 x", "aa/1", "z{1}", "a/%41", "a_2", "a%", "%"} {
		held[base+name] = x.acquire(a, base+name, x.long())
	}
	freed := x.acquire(a, base+"a/free", x.long())
	x.release(a, freed)
	x.inspect(b, base+"a/looked-at")

	for _, prefix := range []string{base, base + "a", base + "a/", base + "a/1", base + "A", base + "nothing", base + "a/*", base + "z{", base + "a_", base + "a%", base + "%"} {
		var want []string
		for key := range held {
			if len(key) >= len(prefix) && key[:len(prefix)] == prefix {
				want = append(want, key)
			}
		}
		sort.Strings(want)
		rs, err := backend.List(x.ctx, b, prefix)
		if err != nil {
			x.failf("List(%q) gave %q", prefix, err)
		}
		if len(rs) != len(want) {
			x.failf("List(%q) has %d keys and %d are held: %v", prefix, len(rs), len(want), rs)
		}
		for i, r := range rs {
			if r.Key != want[i] {
				x.failf("List(%q) has key %q in place %d, where %q belongs", prefix, r.Key, i+1, want[i])
			}
			one := x.inspect(b, r.Key)
			if r.State != one.State || r.Token != one.Token || r.ID != one.ID || r.Holder != one.Holder || r.TTL != one.TTL {
				x.failf("List shows %q as %s and Inspect as %s", r.Key, r, one)
			}
		}
	}
	for _, g := range held {
		x.release(a, g)
	}
	if rs, err := backend.List(x.ctx, b, base); err != nil || len(rs) != 0 {
		x.failf("with everything released List has %d keys, error %v", len(rs), err)
	}
}

func verifyAsks(x *trial) {
	l, a := x.locker(func(o *hasp.Options) { o.TTL = x.long() }), x.client()
	lease := x.lease(l, x.key())
	if err := lease.Verify(x.ctx); err != nil {
		x.failf("Verify of a lease that is held gave %q", err)
	}
	// freed behind its back, and taken
	x.release(a, backend.Grant{Key: lease.Key(), ID: lease.Grant().ID, Token: lease.Token()})
	g := x.acquire(a, lease.Key(), x.long())
	if err := lease.Verify(x.ctx); !errors.Is(err, hasp.ErrLost) {
		x.failf("Verify of a lease whose key another holds gave %v and not ErrLost", err)
	}
	x.stillHolds(a, g, "another's Verify")
}
