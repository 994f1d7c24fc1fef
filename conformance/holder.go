package conformance

import (
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hasplock/hasp/backend"
)

var holderRules = []Rule{
	{ID: "grant-complete", Statement: "a grant has its claim's key and ID, a token above zero, and no less than the TTL claimed", run: grantComplete},
	{ID: "holder-named", Statement: "a *HeldError and Inspect name the holder: owner, host, pid, token, TTL and how long is left", run: holderNamed},
	{ID: "holder-odd-names", Statement: "an owner's name may have any characters and any length; one of up to 64 bytes is shown whole, a longer one from its start", run: holderOddNames},
	{ID: "claim-ids", Statement: "a claim's ID may have 1 to 64 of all characters that are allowed, and each of them counts", rests: []string{"renew-by-stranger", "exclusive-in-client"}, run: claimIDs},
	{ID: "retry-after", Statement: "how long a *HeldError says to wait is no longer than the holder's TTL, and is said up to its last moment", run: retryAfter},
	{ID: "ttl-long", Statement: "a TTL of a hundred days is kept as claimed", run: ttlLong},
}

func grantComplete(x *trial) {
	b := x.client()
	for _, ttl := range []time.Duration{x.ttl(), x.ttl() + 1, 5 * time.Minute} {
		c := x.claim(ttl)
		g := x.acquireAs(b, x.key(), c)
		switch {
		case g.ID != c.ID:
			x.failf("the grant's ID is %q and the claim's %q", g.ID, c.ID)
		case !strings.HasPrefix(g.Key, x.prefix()):
			x.failf("the grant's key is %q", g.Key)
		case g.Token == 0:
			x.failf("the grant's token is 0")
		case g.TTL < ttl:
			x.failf("the grant's TTL is %v and the claim's %v", g.TTL, ttl)
		}
	}
}

func holderNamed(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	c := x.claim(x.long())
	c.Holder = backend.Holder{Owner: "trainer-7", Host: "ip-10-0-3-4", PID: 4123}
	g := x.acquireAs(a, key, c)
	check := func(who string, r backend.Record) {
		switch {
		case r.Holder != c.Holder:
			x.failf("%s says that the holder is %s, and it is %s", who, r.Holder, c.Holder)
		case r.Key != key || r.State != backend.Held:
			x.failf("%s says that key %q is %s", who, r.Key, r.State)
		case r.Token != g.Token:
			x.failf("%s says that the token is %d, and it is %d", who, r.Token, g.Token)
		case r.ID != "" && r.ID != c.ID:
			x.failf("%s says that the claim is %q, and it is %q", who, r.ID, c.ID)
		case r.TTL != 0 && (r.TTL < c.TTL || r.TTL > g.TTL+time.Second):
			x.failf("%s says that the TTL is %v, and it is %v", who, r.TTL, g.TTL)
		case r.Remaining < 0 || r.Remaining > g.TTL+time.Second:
			x.failf("%s says that %v of a TTL of %v are left", who, r.Remaining, g.TTL)
		case r.HeldFor < 0 || r.HeldFor > time.Since(x.start)+time.Second:
			x.failf("%s says that it has been held for %v, and the trial began %v ago", who, r.HeldFor, time.Since(x.start))
		}
	}
	check("the *HeldError", x.refused(b, key).Record)
	check("Inspect", x.inspect(b, key))
	check("Inspect by the holder's own client", x.inspect(a, key))
}

func holderOddNames(x *trial) {
	a, b := x.client(), x.client()
	long := strings.Repeat("very-long-name-", 100)
	for _, owner := range []string{
		`"quoted" 'single' \back\`, "a/b/../c", "percent %41 %zz %", "{brace} [bracket] <tag> &amp;",
		"tab\tand\nnewline", "naïve ключ 鍵 🔑", " spaces ", ".", "a:b|c;d,e=f", "$HOME `id` $(id)", "*?~#!",
		strings.Repeat("x", 64), long,
	} {
		key := x.key()
		c := x.claim(x.long())
		c.Holder.Owner = owner
		g := x.acquireAs(a, key, c)
		for _, got := range []backend.Holder{x.inspect(b, key).Holder, x.refused(b, key).Record.Holder} {
			whole := got.Owner == owner
			if len(owner) > 64 {
				// cut somewhere, and possibly marked as cut
				whole = len(got.Owner) >= 32 && strings.HasPrefix(got.Owner, owner[:32]) && utf8.ValidString(got.Owner)
			}
			if !whole {
				x.failf("the owner %q is shown as %q", owner, got.Owner)
			}
			if got.Host != c.Holder.Host || got.PID != c.Holder.PID {
				x.restf("holder-named", "with the owner %q, host %q and pid %d are shown as %q and %d", owner, c.Holder.Host, c.Holder.PID, got.Host, got.PID)
			}
		}
		x.release(a, g)
	}
}

func claimIDs(x *trial) {
	b, d := x.client(), x.client()
	const all = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, id := range []string{"x", all, "-" + rand.Text(), "_" + rand.Text() + "-", rand.Text() + rand.Text()} {
		key := x.key()
		c := x.claim(x.long())
		c.ID = id
		g := x.acquireAs(b, key, c)
		for _, other := range similar(id) {
			if _, err := b.Renew(x.ctx, backend.Grant{Key: key, ID: other, Token: g.Token, TTL: g.TTL}); err == nil {
				x.failf("the claim %q could be renewed as %q", id, other)
			}
			c.ID = other
			for _, by := range []backend.Backend{b, d} {
				if got, err := x.attempt(by, key, c); err == nil {
					x.failf("while the claim %q holds the key, the claim %q got it, with token %d", id, other, got.Token)
				}
			}
			if err := d.Release(x.ctx, backend.Grant{Key: key, ID: other}); err == nil {
				x.failf("the claim %q could be withdrawn as %q", id, other)
			}
		}
		if _, err := b.Renew(x.ctx, g); err != nil {
			x.failf("the claim %q could not be renewed: %v", id, err)
		}
		if err := b.Release(x.ctx, g); err != nil {
			x.failf("the claim %q could not be released: %v", id, err)
		}
	}
}

// similar are other claims' IDs that a store takes for id if it folds case, cuts
// what is long, or compares only as much as the shorter one has.
func similar(id string) []string {
	ids := []string{swapCase(id), id + "0", "0" + id}
	for _, n := range []int{8, 16, 20, 24, 32, 36, 40, 48, 60, 63} {
		if n < len(id) {
			ids = append(ids, id[:n], id[:n]+swapCase(id[n:]), id[:n]+strings.Repeat("x", len(id)-n), strings.Repeat("x", n)+id[n:])
		}
	}
	var others []string
	for _, other := range ids {
		if len(other) <= backend.MaxIDLen && other != id {
			others = append(others, other)
		}
	}
	return others
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 32
		case r >= 'A' && r <= 'Z':
			return r + 32
		}
		return r
	}, s)
}

func retryAfter(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	h := x.refused(b, key)
	if h.RetryAfter < 0 || h.RetryAfter > g.TTL+x.cfg.Slack {
		x.failf("a *HeldError says to wait %v for a holder whose TTL is %v", h.RetryAfter, g.TTL)
	}
	if h.RetryAfter == 0 {
		x.notef("*HeldError does not say how long to wait")
		return
	}
	if h.RetryAfter < g.TTL/2 && time.Since(x.start) < g.TTL/4 {
		x.failf("a *HeldError says to wait %v, much less than the TTL of %v that has just begun", h.RetryAfter, g.TTL)
	}
	lastMoments(x, a, b)
}

// lastMoments looks at holders until their TTL has run out. A clock that counts in
// milliseconds has one in which nothing is left and the key is held: a *HeldError that
// says 0 then says that it is not known, and the engine waits for its own retry.
func lastMoments(x *trial, a, b backend.Backend) {
	const keys = 8
	var wg sync.WaitGroup
	for i := range time.Duration(keys) {
		// not all at once: the machine may stand still in any moment
		ttl := x.ttl() + i*x.ttl()/keys
		s := x.holdSilently(a, x.key(), ttl)
		x.spawn(&wg, func() {
			c := x.claim(x.long())
			x.sleep(time.Until(s.asked.Add(ttl / 2)))
			for {
				_, err := x.attempt(b, s.Key, c)
				left := ttl - time.Since(s.asked) // at least, by the store's clock
				var h *backend.HeldError
				if !errors.As(err, &h) || left <= 0 {
					return // it has the key, or other rules say what is wrong
				}
				if h.RetryAfter <= 0 {
					x.errorf("%v before the holder's TTL of %v was over a *HeldError says to wait %v, which is that nobody knows: a waiter waits for its whole retry interval then",
						backend.Round(left), ttl, h.RetryAfter)
					return
				}
				if left > 10*time.Millisecond {
					x.sleep(time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

func ttlLong(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	const ttl = 100 * 24 * time.Hour
	g := x.acquire(a, key, ttl)
	if g.TTL < ttl || g.TTL > 2*ttl {
		x.failf("claimed %v and got %v", ttl, g.TTL)
	}
	g, err := a.Renew(x.ctx, g)
	if err != nil {
		x.failf("Renew gave %v", err)
	}
	if r := x.inspect(b, key); r.State != backend.Held || r.Remaining > 2*ttl || r.Remaining < ttl/2 && r.Remaining != 0 {
		x.failf("with a TTL of %v, %v are said to be left, and the key is %s", ttl, r.Remaining, r)
	}
	x.release(a, g)
}
