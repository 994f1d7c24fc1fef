package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hasplock/hasp/backend"
)

// inner is what a store calls g. It copes without State, by the claim's ID.
func (b *Backend) inner(i int, g backend.Grant) backend.Grant {
	if h, ok := g.State.(*held); ok && i < len(h.parts) {
		return h.parts[i].g
	}
	return backend.Grant{Key: g.Key, ID: b.claims.id(b.legs[i].side, g.ID), Holder: marked(g.Holder, b.name, b.phase), Token: g.Token, TTL: g.TTL}
}

// Renew implements backend.Backend: in both stores at once. It is lost if it is lost in
// either, and what the other one still holds is left to Release or to the TTL: until its
// holder has stopped, each store that refuses others does good.
func (b *Backend) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	if err := b.begin(g.Key); err != nil {
		return g, err
	}
	rs := make([]backend.Renewal, len(b.legs))
	each(b.legs, func(i int, s *store) { rs[i].Grant, rs[i].Err = s.renew(ctx, b.inner(i, g)) })
	return b.renewed(g, rs)
}

// renewed makes one renewal of the stores'.
func (b *Backend) renewed(g backend.Grant, rs []backend.Renewal) (backend.Grant, error) {
	h := &held{parts: make([]part, len(rs))}
	var lost, others []error
	for i, r := range rs {
		switch err := sided(b.legs[i].side, r.Err); {
		case err == nil:
			h.parts[i].g = r.Grant
		case errors.Is(err, backend.ErrLost):
			lost = append(lost, err)
		default:
			others = append(others, err)
		}
	}
	switch {
	case len(lost) > 0: // that is definite, whatever the other store says or does not
		return g, joined(append(lost, asText(others)...)...)
	case len(others) > 0:
		err := joined(others...)
		if !isUnknown(err) {
			err = backend.Unavailable(err)
		}
		return g, err
	}
	g.TTL, g.State = h.parts[0].g.TTL, h
	for i := range h.parts {
		g.TTL = min(g.TTL, h.parts[i].g.TTL)
	}
	return g, nil
}

// RenewAll implements backend.BatchRenewer.
func (b *Backend) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	all := make([][]backend.Renewal, len(b.legs))
	each(b.legs, func(i int, s *store) {
		inner := make([]backend.Grant, len(gs))
		for j, g := range gs {
			inner[j] = b.inner(i, g)
		}
		if br, ok := backend.AsBatchRenewer(s.b); ok && !slices.ContainsFunc(inner, isSealed) {
			all[i] = br.RenewAll(ctx, inner)
		}
		for len(all[i]) < len(gs) {
			g, err := s.renew(ctx, inner[len(all[i])])
			all[i] = append(all[i], backend.Renewal{Grant: g, Err: err})
		}
	})
	out := make([]backend.Renewal, len(gs))
	for j, g := range gs {
		if err := b.begin(g.Key); err != nil {
			out[j] = backend.Renewal{Grant: g, Err: err}
			continue
		}
		rs := make([]backend.Renewal, len(b.legs))
		for i := range rs {
			rs[i] = all[i][j]
		}
		out[j].Grant, out[j].Err = b.renewed(g, rs)
	}
	return out
}

// Release implements backend.Backend: in the new store first and in the old one last,
// so that the next process of phase both, which takes the old one first, finds the new
// one free. If one does not answer the other is freed all the same, and a
// repetition asks only where it is not known to be free.
func (b *Backend) Release(ctx context.Context, g backend.Grant) error {
	if err := b.begin(g.Key); err != nil {
		return err
	}
	h, _ := g.State.(*held)
	half := h.half()
	var lost, unknown []error
	freed := 0
	for i := len(b.legs) - 1; i >= 0; i-- {
		s := b.legs[i]
		var err error
		switch {
		case h == nil:
			err = b.withdraw(ctx, s, i, g)
		case half && h.parts[i].freed.Load():
			continue
		default:
			err = s.release(ctx, h.parts[i].g)
			if errors.Is(err, backend.ErrLost) && h.parts[i].freed.Load() {
				// A store may not know any more whose a key was that was raised while it was held.
				if rec, ierr := s.b.Inspect(ctx, g.Key); ierr == nil && rec.State == backend.Free {
					err = nil
				}
			}
			if err == nil {
				h.parts[i].freed.Store(true)
			}
		}
		switch err := sided(s.side, err); {
		case err == nil:
			freed++
		case errors.Is(err, backend.ErrLost):
			lost = append(lost, err)
		default:
			unknown = append(unknown, err)
		}
	}
	if len(unknown) == 0 {
		var inner []string
		for i := range b.legs {
			inner = append(inner, b.inner(i, g).ID)
		}
		b.claims.ended(g.ID, inner...)
	}
	switch {
	case len(unknown) > 0: // to be asked again, so it is not ErrLost as well, which is definite
		return joined(append(unknown, asText(lost)...)...)
	case h == nil && g.Token == 0 && freed > 0:
		return nil // a claim that was granted in one store only, and withdrawn
	}
	return joined(lost...)
}

// asText makes errors that are only told, and match nothing.
func asText(errs []error) []error {
	texts := make([]error, len(errs))
	for i, err := range errs {
		texts[i] = errors.New(backend.Text(err))
	}
	return texts
}

// half tells whether a Release has freed some of it, and not all.
func (h *held) half() bool {
	n := 0
	if h != nil {
		for i := range h.parts {
			if h.parts[i].freed.Load() {
				n++
			}
		}
	}
	return h != nil && n > 0 && n < len(h.parts)
}

// withdraw frees whatever a claim holds in one store.
func (b *Backend) withdraw(ctx context.Context, s *store, i int, g backend.Grant) error {
	own := b.inner(i, g)
	var errs []error
	freed := false
	for _, id := range b.claims.ids(s.side, g.ID) {
		x := own
		if x.ID = id; id != own.ID {
			x.Token = 0
		}
		switch err := s.b.Release(ctx, x); {
		case err == nil:
			freed = true
			b.claims.paid(s.side, g.ID, id)
		case errors.Is(err, backend.ErrLost):
			b.claims.paid(s.side, g.ID, id)
		default:
			errs = append(errs, err)
		}
	}
	switch {
	case len(errs) > 0:
		return joined(errs...)
	case freed:
		return nil
	}
	return backend.ErrLost
}

// OnLoss implements backend.LossNotifier.
func (b *Backend) OnLoss(f func(key, id string)) (cancel func()) {
	var cancels []func()
	for _, s := range b.legs {
		if n, ok := backend.AsLossNotifier(s.b); ok {
			cancels = append(cancels, n.OnLoss(func(key, id string) {
				if !isReserved(key) {
					f(key, b.claims.outer(s.side, id))
				}
			}))
		}
	}
	return func() {
		for _, c := range cancels {
			c()
		}
	}
}

// Watch implements backend.Watcher. The claim waits where it was refused: in the old
// store as a rule, in the new one if a process of phase new was in the way. Its waiter is
// ended when the claim has taken the lock there and given it back, since a
// store's queue knows it no more, and the engine registers it anew.
func (b *Backend) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	if err := b.begin(key); err != nil {
		return nil, nil, err
	}
	side := b.legs[0].side
	if len(b.legs) > 1 {
		side = b.claims.refuser(c.ID, side)
	}
	s := b.store(side)
	wt, ok := backend.AsWatcher(s.b)
	if !ok {
		return nil, nil, fmt.Errorf("%s store: watching is %w", side, backend.ErrUnsupported)
	}
	ic := c
	ic.ID, ic.Holder = b.claims.id(side, c.ID), marked(c.Holder, b.name, b.phase)
	inner, stop, err := wt.Watch(ctx, key, ic)
	if err != nil {
		return nil, nil, sided(side, err)
	}
	w := newWatch(side, inner)
	b.claims.watching(c.ID, w)
	return w.wake, func(ctx context.Context, granted bool) error {
		w.end()
		b.claims.watching(c.ID, nil)
		return sided(side, stop(ctx, granted && !w.isSpent()))
	}, nil
}
