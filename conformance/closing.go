package conformance

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
)

var closingRules = []Rule{
	{ID: "closed", Statement: "every call after Close gives ErrClosed, and other clients are not disturbed", run: closed},
	{ID: "close-twice", Statement: "a second Close does nothing, and is no error", run: closeTwice},
	{ID: "close-keeps-locks", Statement: "Close does not release locks: what its client held is held until its TTL, and then taken over", run: closeKeepsLocks},
}

func closed(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	other := x.acquire(b, x.key(), x.long())
	x.cleanup(func(ctx context.Context) { _ = b.Release(ctx, g) })
	if err := a.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	check := func(what string, err error) {
		if !errors.Is(err, backend.ErrClosed) {
			x.failf("%s after Close gave %v and not ErrClosed", what, err)
		}
	}
	_, err := a.Acquire(x.ctx, x.key(), x.claim(x.ttl()))
	check("Acquire", err)
	_, err = a.Renew(x.ctx, g)
	check("Renew", err)
	check("Release", a.Release(x.ctx, g))
	_, err = a.Inspect(x.ctx, key)
	check("Inspect", err)
	if backend.Has(a, backend.CapBreak) {
		check("Break", backend.Break(x.ctx, a, key, g.Token))
	}
	if backend.Has(a, backend.CapList) {
		_, err := backend.List(x.ctx, a, x.prefix())
		check("List", err)
	}
	if backend.Has(a, backend.CapRaiseToken) {
		check("RaiseToken", backend.RaiseToken(x.ctx, a, key, 1))
	}
	if w, ok := backend.AsWatcher(a); ok {
		_, _, err := w.Watch(x.ctx, key, x.claim(x.ttl()))
		check("Watch", err)
	}
	if r, ok := backend.AsBatchRenewer(a); ok {
		for _, one := range r.RenewAll(x.ctx, []backend.Grant{g}) {
			check("RenewAll", one.Err)
		}
	}
	if _, err := b.Renew(x.ctx, other); err != nil {
		x.failf("after another client's Close Renew gave %q", err)
	}
	x.stillHolds(b, other, "another client's Close")
}

func closeTwice(x *trial) {
	a, b := x.client(), x.client()
	other := x.acquire(b, x.key(), x.long())
	if err := a.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			x.failf("another Close gave %q", err)
		}
	}
	x.stillHolds(b, other, "another client's second Close")
}

func closeKeepsLocks(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	if err := a.Close(); err != nil {
		x.failf("Close gave %q", err)
	}
	x.early(b, s, s.TTL)
	x.takeover(b, s, x.long())
}
