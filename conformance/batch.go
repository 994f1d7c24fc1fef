package conformance

import (
	"crypto/rand"
	"errors"
	"sort"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What is asked for many keys at once has no limit that nobody was told of.
var batchRules = []Rule{
	{ID: "renew-batch-order", Statement: "the answers of a batch are in the order of its grants, whatever became of each", needs: []backend.Capability{backend.CapBatchRenew}, rests: []string{"renew-batch", "renew-after-release"}, run: renewBatchOrder},
	{ID: "renew-batch-many", Statement: "a batch of hundreds renews every one of them", needs: []backend.Capability{backend.CapBatchRenew}, phase: busy, rests: []string{"renew-batch", "renew-extends"}, run: renewBatchMany},
	{ID: "renew-batch-ttls", Statement: "a batch gives each of its grants its own TTL, in whatever order they come", needs: []backend.Capability{backend.CapBatchRenew}, rests: []string{"renew-batch", "renew-extends", "stale-not-before-ttl", "stale-after-ttl", "stale-waiter-long"}, run: renewBatchTTLs},
	{ID: "list-many", Statement: "List returns every one of hundreds of held keys, in byte order", needs: []backend.Capability{backend.CapList}, phase: busy, rests: []string{"list-exact"}, run: listMany},
}

func renewBatchOrder(x *trial) {
	a := x.client()
	const n = 24
	gs := make([]backend.Grant, n)
	lost := make([]bool, n)
	for i := range gs {
		gs[i] = x.acquire(a, x.key(), x.long())
		if lost[i] = i%3 == 1 || i%7 == 2; lost[i] { // no pattern that another order has too
			x.release(a, gs[i])
		}
	}
	for range 3 {
		rs := a.(backend.BatchRenewer).RenewAll(x.ctx, gs)
		if len(rs) != n {
			x.failf("a batch of %d has %d answers", n, len(rs))
		}
		for i, r := range rs {
			switch {
			case lost[i] && !errors.Is(r.Err, backend.ErrLost):
				x.failf("the %d. grant of a batch was released, and the %d. answer says %v", i+1, i+1, r.Err)
			case !lost[i] && r.Err != nil:
				x.failf("the %d. grant of a batch is live, and the %d. answer says %q", i+1, i+1, r.Err)
			case !lost[i] && (r.Grant.Key != gs[i].Key || r.Grant.Token != gs[i].Token || r.Grant.ID != gs[i].ID):
				x.failf("the %d. grant of a batch has token %d of %q, and the %d. answer token %d of %q", i+1, gs[i].Token, gs[i].Key, i+1, r.Grant.Token, r.Grant.Key)
			}
			if !lost[i] {
				gs[i] = r.Grant
			}
		}
	}
}

// many locks n keys at once and returns their grants.
func (x *trial) many(b backend.Backend, base string, n int, ttl time.Duration) []backend.Grant {
	names := make([]string, n)
	for i := range names {
		names[i] = rand.Text()
	}
	return x.locked(b, base+"/", names, ttl)
}

// locked locks the keys that are called base and a name, some at once: there are stores
// on which a key that is new takes a second.
func (x *trial) locked(b backend.Backend, base string, names []string, ttl time.Duration) []backend.Grant {
	gs := make([]backend.Grant, len(names))
	x.each(len(names), func(i int) {
		var err error
		if gs[i], err = x.attempt(b, base+names[i], x.claim(ttl)); err != nil {
			x.errorf("a free key was refused: %v", err)
		}
	})
	if x.failed() {
		x.failf("so no more can be said")
	}
	return gs
}

func renewBatchMany(x *trial) {
	const n = 300
	a, b := x.client(), x.client()
	asked := time.Now()
	ttl := 2 * x.steady()
	gs := x.many(a, x.key(), n, ttl)
	x.sleep(time.Until(asked.Add(ttl / 2)))
	begun := time.Now()
	rs := a.(backend.BatchRenewer).RenewAll(x.ctx, gs)
	if len(rs) != n {
		x.failf("a batch of %d has %d answers", n, len(rs))
	}
	for i, r := range rs {
		if r.Err != nil {
			x.unlessStalled(asked, ttl/8)
			x.latef("the %d. answer of a batch of %d, %v after the first claim and with a TTL of %v, is %q", i+1, n, backend.Round(begun.Sub(asked)), ttl, r.Err)
		}
	}
	// when what was claimed at first has run out
	x.sleep(time.Until(begun.Add(ttl * 3 / 4)))
	x.each(n, func(i int) {
		_, err := x.attempt(b, gs[i].Key, x.claim(ttl))
		if gone := time.Since(begun); err == nil && gone < ttl {
			x.errorf("%v after a batch of %d was renewed, with a TTL of %v, a stranger got the %d. key", backend.Round(gone), n, ttl, i+1)
		}
	})
}

func listMany(x *trial) {
	const n = 300
	a, b := x.client(), x.client()
	base := x.key()
	gs := x.many(a, base, n, x.long())
	want := make([]string, n)
	for i, g := range gs {
		want[i] = g.Key
	}
	sort.Strings(want)
	rs, err := backend.List(x.ctx, b, base+"/")
	if err != nil {
		x.failf("List gave %q", err)
	}
	if len(rs) != n {
		x.failf("%d keys are held, and List has %d", n, len(rs))
	}
	for i, r := range rs {
		if r.Key != want[i] {
			x.failf("List has key %q in place %d, where %q belongs", r.Key, i+1, want[i])
		}
	}
	x.each(n, func(i int) { _ = a.Release(x.ctx, gs[i]) })
}

func renewBatchTTLs(x *trial) {
	a, b := x.client(), x.client()
	ttl := x.ttl()
	var all []silent
	for _, ttls := range [][]time.Duration{{ttl, 2 * ttl, x.long()}, {x.long(), 2 * ttl, ttl}} {
		gs := make([]backend.Grant, len(ttls))
		first := time.Now()
		for i, d := range ttls {
			gs[i] = x.acquire(a, x.key(), d)
		}
		asked := time.Now()
		rs := a.(backend.BatchRenewer).RenewAll(x.ctx, gs)
		answered := time.Now()
		if len(rs) != len(gs) {
			x.failf("a batch of %d has %d answers", len(gs), len(rs))
		}
		for i, r := range rs {
			switch {
			case r.Err != nil && answered.Sub(first) >= ttl:
				x.unlessStalled(first, ttl/8)
				x.latef("a batch was answered %v after the first of its claims, whose TTL is %v, with %q", backend.Round(answered.Sub(first)), ttl, r.Err)
			case r.Err != nil:
				x.failf("in a batch, a live grant with a TTL of %v gave %q", gs[i].TTL, r.Err)
			case r.Grant.TTL < gs[i].TTL:
				x.failf("in a batch, a grant with a TTL of %v was renewed for %v", gs[i].TTL, r.Grant.TTL)
			}
			all = append(all, silent{r.Grant, asked, answered})
		}
	}
	x.sleep(time.Until(all[len(all)-1].asked.Add(ttl * 3 / 2)))
	for i, s := range all {
		if s.TTL < 2*ttl {
			continue
		}
		g, err := x.attempt(b, s.Key, x.claim(x.long()))
		if gone := time.Since(s.asked); err == nil && gone < s.TTL {
			x.failf("another got token %d of the %d. key of a batch %v after it was renewed, and its TTL is %v", g.Token, i%3+1, backend.Round(gone), s.TTL)
		}
	}
	for i, s := range all {
		if s.TTL >= 2*ttl {
			continue
		}
		for {
			begun := time.Now()
			_, err := x.attempt(b, s.Key, x.claim(x.long()))
			if err == nil {
				break
			}
			if late := begun.Sub(s.end()); late > x.slack(s.end()) {
				x.failf("%v after the TTL of %v of the %d. key of a batch had run out it was still %q", backend.Round(late), s.TTL, i%3+1, err)
			}
			x.sleep(x.poll())
		}
	}
}
