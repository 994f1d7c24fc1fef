package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hasplock/hasp/backend"
)

// shown is a store's record as this backend shows it.
func (b *Backend) shown(s Side, r backend.Record) backend.Record {
	if r.State == backend.Held || r.State == backend.Stale {
		r.Holder, _, _ = unmarked(r.Holder)
		if r.ID != "" {
			r.ID = b.claims.outer(s, r.ID)
		}
		if strings.HasPrefix(r.ID, again) {
			r.ID = "" // another process's claim, and only that one knows which
		}
	}
	return r
}

// Inspect implements backend.Backend.
func (b *Backend) Inspect(ctx context.Context, key string) (backend.Record, error) {
	if err := b.begin(key); err != nil {
		return backend.Record{}, err
	}
	recs, err := b.inspect(ctx, key)
	if err != nil {
		return backend.Record{}, err
	}
	if len(recs) == 1 {
		return b.shown(b.legs[0].side, recs[0]), nil
	}
	return b.combined(recs[0], recs[1]), nil
}

// inspect asks each of the phase's stores.
func (b *Backend) inspect(ctx context.Context, key string) ([]backend.Record, error) {
	recs, errs := make([]backend.Record, len(b.legs)), make([]error, len(b.legs))
	each(b.legs, func(i int, s *store) {
		recs[i], errs[i] = s.b.Inspect(ctx, key)
		errs[i] = sided(s.side, errs[i])
	})
	return recs, joined(errs...)
}

func isHeld(r backend.Record) bool { return r.State == backend.Held || r.State == backend.Stale }

// oneClaim tells whether the two stores are held by the same claim of phase both. Their
// IDs differ if it has given back and come again.
func (b *Backend) oneClaim(o, n backend.Record) bool {
	return isHeld(o) && isHeld(n) && o.Holder == n.Holder && phaseOf(o.Holder, b.name) == PhaseBoth &&
		(o.ID == n.ID || strings.HasPrefix(o.ID, again) || strings.HasPrefix(n.ID, again))
}

// combined is what phase both knows of a key from the records in the two stores.
func (b *Backend) combined(o, n backend.Record) backend.Record {
	switch {
	case o.State == backend.Unknown || n.State == backend.Unknown:
		if n.State == backend.Unknown {
			o = n
		}
		return o
	case o.State == backend.Sealed:
		// Of phase both it is the new store that tells, since the old one keeps out others only.
		r := b.shown(SideNew, n)
		r.Token = max(o.Token, n.Token)
		return r
	case !isHeld(o) && !isHeld(n):
		o.Token = max(o.Token, n.Token)
		return o
	case b.oneClaim(o, n):
		r := b.shown(SideNew, n)
		if r.ID == "" {
			r.ID = b.shown(SideOld, o).ID
		}
		r.Token = max(o.Token, n.Token)
		r.TTL = min(o.TTL, n.TTL)
		r.HeldFor, r.Remaining = min(o.HeldFor, n.HeldFor), min(o.Remaining, n.Remaining)
		if o.State == backend.Stale {
			r.State, r.Remaining = backend.Stale, 0
		}
		r.Note = strings.Trim(o.Note+"; "+n.Note, "; ")
		return r
	}
	// Held in one store, or by two: phase old or new, or both on its way in or out, or
	// when it has lost one of them. A process of phase both that asks for its own lease
	// must not take that for holding.
	side, r, where := SideNew, n, "in the new store"
	if isHeld(o) && (!isHeld(n) || phaseOf(o.Holder, b.name) != PhaseBoth) {
		side, r, where = SideOld, o, "in the old store"
	}
	half := phaseOf(r.Holder, b.name) == PhaseBoth
	r = b.shown(side, r)
	if half {
		r.ID += " in one store"
		r.Note = strings.Trim(r.Note+"; only "+where, "; ")
	}
	return r
}

// List implements backend.Lister.
func (b *Backend) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	if err := b.begin("list"); err != nil {
		return nil, err
	}
	all, errs := make([][]backend.Record, len(b.legs)), make([]error, len(b.legs))
	each(b.legs, func(i int, s *store) {
		all[i], errs[i] = backend.List(ctx, s.b, prefix)
		errs[i] = sided(s.side, errs[i])
	})
	if err := joined(errs...); err != nil {
		return nil, err
	}
	return b.merged(all), nil
}

// merged makes one list of the stores'.
func (b *Backend) merged(all [][]backend.Record) []backend.Record {
	type pair struct{ rec [2]backend.Record }
	keys := map[string]*pair{}
	for i, recs := range all {
		for _, r := range recs {
			if isReserved(r.Key) {
				continue
			}
			p := keys[r.Key]
			if p == nil {
				p = &pair{}
				for j := range p.rec {
					p.rec[j] = backend.Record{Key: r.Key, State: backend.Free}
				}
				keys[r.Key] = p
			}
			p.rec[i] = r
		}
	}
	var out []backend.Record
	for _, p := range keys {
		if len(b.legs) == 1 {
			out = append(out, b.shown(b.legs[0].side, p.rec[0]))
		} else {
			out = append(out, b.combined(p.rec[0], p.rec[1]))
		}
	}
	slices.SortFunc(out, func(x, y backend.Record) int { return cmp.Compare(x.Key, y.Key) })
	return out
}

// halfOf tells whether o is what is left in the old store of a holder of phase both with
// this token, which the new store has forgotten. A later holder's token there is greater,
// since the old store's was raised to it. Where the new store does not tell the last token,
// only what is stale is taken for that: anybody may take it over.
func (b *Backend) halfOf(o, n backend.Record, token uint64) bool {
	return isHeld(o) && !isHeld(n) && phaseOf(o.Holder, b.name) == PhaseBoth && o.Token < token && (n.Token == token || n.Token == 0 && o.State == backend.Stale)
}

// Break implements backend.Breaker: in each store in which the holder with this token
// has the key, the new one first.
func (b *Backend) Break(ctx context.Context, key string, token uint64) error {
	if err := b.begin(key); err != nil {
		return err
	}
	recs, err := b.inspect(ctx, key)
	if err != nil {
		return err
	}
	one := b.shown(b.legs[0].side, recs[0])
	if len(recs) == 2 {
		one = b.combined(recs[0], recs[1])
	}
	switch {
	case !isHeld(one):
		return backend.ErrNotHeld
	case one.Token != token && !(len(recs) == 2 && b.halfOf(recs[0], recs[1], token)):
		return &backend.HeldError{Record: one}
	}
	whole := len(recs) == 2 && b.oneClaim(recs[0], recs[1])
	var errs []error
	for i := len(recs) - 1; i >= 0; i-- {
		// A holder of phase both may have a lesser token in one of them.
		if r := recs[i]; isHeld(r) && (whole || r.Token == token || i == 0 && len(recs) == 2 && b.halfOf(recs[0], recs[1], token)) {
			err := backend.Break(ctx, b.legs[i].b, key, r.Token)
			if whole && (errors.Is(err, backend.ErrNotHeld) || errors.Is(err, backend.ErrHeld)) {
				continue // it is lost there already
			}
			errs = append(errs, sided(b.legs[i].side, err))
		}
	}
	return joined(errs...)
}

// Clear implements backend.Clearer, in each store that can.
func (b *Backend) Clear(ctx context.Context, prefix string, stale bool) ([]backend.Record, error) {
	if err := b.begin("clear"); err != nil {
		return nil, err
	}
	var all []backend.Record
	var errs []error
	can := false
	for _, s := range b.legs {
		if !backend.Has(s.b, backend.CapClear) {
			continue
		}
		can = true
		recs, err := backend.Clear(ctx, s.b, prefix, stale)
		if err != nil {
			errs = append(errs, sided(s.side, err))
		}
		for _, r := range recs {
			if !isReserved(r.Key) {
				all = append(all, b.shown(s.side, r))
			}
		}
	}
	if !can {
		return nil, fmt.Errorf("clearing is %w", backend.ErrUnsupported)
	}
	return all, joined(errs...)
}
