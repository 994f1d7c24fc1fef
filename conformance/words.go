package conformance

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/hasplock/hasp/backend"
)

var wordRules = []Rule{
	{ID: "error-words", Statement: "an error does not name the key, which whoever called adds, and is one line fit to be printed, whatever a holder calls itself", rests: []string{"holder-odd-names", "closed"}, run: errorWords},
}

func errorWords(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	c := x.claim(x.long())
	c.Holder.Owner = "jo\nb\x1b[2J\u202e\u2028\u0085"
	g := x.acquireAs(a, key, c)
	x.cleanup(func(ctx context.Context) { _ = b.Release(ctx, g) })
	check := func(what string, err error) {
		switch {
		case err == nil: // other rules say what they think of that
		case strings.TrimSpace(err.Error()) == "":
			x.failf("%s gave an error without words (%T)", what, err)
		case strings.Contains(err.Error(), key):
			x.failf("the error of %s names the key: %q", what, err)
		case backend.Printable(err.Error()) != err.Error():
			x.failf("the error of %s is not fit to be printed: %q", what, err)
		case strings.HasSuffix(strings.TrimSpace(err.Error()), ":"):
			x.failf("the error of %s ends where its cause should be: %q", what, err)
		}
	}
	all := func(by backend.Backend, state string) {
		strange := backend.Grant{Key: key, ID: rand.Text(), Token: g.Token + 1, TTL: g.TTL}
		_, err := by.Acquire(x.ctx, key, x.claim(x.ttl()))
		check("Acquire of a key "+state, err)
		_, err = by.Renew(x.ctx, strange)
		check("Renew of a key "+state, err)
		check("Release of a key "+state, by.Release(x.ctx, strange))
		_, err = by.Inspect(x.ctx, key)
		check("Inspect of a key "+state, err)
		if backend.Has(by, backend.CapBreak) {
			check("Break of a key "+state, backend.Break(x.ctx, by, key, g.Token+1))
		}
		if r, ok := backend.AsBatchRenewer(by); ok {
			for _, one := range r.RenewAll(x.ctx, []backend.Grant{strange}) {
				check("RenewAll of a key "+state, one.Err)
			}
		}
	}
	all(a, "that is held")
	if err := a.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	all(a, "after Close")
}
