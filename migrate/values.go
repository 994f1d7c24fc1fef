package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hasplock/hasp/backend"
)

// Value implements backend.ValueStore. In every phase it is the newest of both stores:
// one that looked into its own store alone would not see what was decided in the other.
// Only when the migration has come to an end, and all values have been copied, the
// store of that end is enough.
func (b *Backend) Value(ctx context.Context, key string) (backend.Value, error) {
	if err := b.begin(key); err != nil {
		return backend.Value{}, err
	}
	if v, ok, err := fromComplete(ctx, b, func(ctx context.Context, s backend.Backend) (backend.Value, error) {
		return backend.ReadValue(ctx, s, key)
	}); ok || err != nil {
		return v, err
	}
	vs, err := fromBoth(ctx, b, func(ctx context.Context, s backend.Backend) (backend.Value, error) {
		return backend.ReadValue(ctx, s, key)
	})
	if err != nil {
		return backend.Value{}, err
	}
	if vs[0].Compare(vs[1]) > 0 {
		return vs[0], nil
	}
	return vs[1], nil
}

// fromComplete reads from the phase's own store, if its record says that everything is
// there before as well as after.
func fromComplete[T any](ctx context.Context, b *Backend, read func(context.Context, backend.Backend) (T, error)) (v T, ok bool, err error) {
	if len(b.legs) != 1 {
		return v, false, nil
	}
	own := b.legs[0]
	rec, err := readRecord(ctx, own.b)
	if err == nil && rec.Complete && rec.Name == b.name && rec.Side == own.side {
		if v, err = read(ctx, own.b); err == nil {
			var after Record
			if after, err = readRecord(ctx, own.b); err == nil && after.same(rec) && after.Complete {
				return v, true, nil
			}
		}
	}
	return v, false, sided(own.side, err)
}

// fromBoth reads from both stores, which have to be a pair of this migration.
func fromBoth[T any](ctx context.Context, b *Backend, read func(context.Context, backend.Backend) (T, error)) (vs [2]T, err error) {
	var errs [2]error
	var recs [2]Record
	each(b.sides[:], func(i int, s *store) {
		get := func(ctx context.Context) (T, error) {
			v, err := read(ctx, s.b)
			if err == nil {
				recs[i], err = readRecord(ctx, s.b)
			}
			return v, err
		}
		if slices.Contains(b.legs, s) {
			vs[i], errs[i] = get(ctx)
		} else {
			vs[i], errs[i] = beside(ctx, b, get)
		}
		errs[i] = sided(s.side, errs[i])
	})
	if err := joined(errs[:]...); err != nil {
		if isUnknown(err) {
			err = fmt.Errorf("%w: a value may be in either store until the migration has come to its end", err)
		}
		return vs, err
	}
	for i, s := range b.sides {
		r := recs[i]
		if r.exists() && (r.Name != b.name || r.Side != s.side) {
			return vs, b.admits(s, r)
		}
	}
	if recs[0].exists() && recs[1].exists() && recs[0].ID != recs[1].ID {
		return vs, b.otherPair(recs[0], recs[1])
	}
	return vs, nil
}

// SetValue implements backend.ValueStore: in every store that the phase takes. What is
// set in one of them only is seen, and its setter is told that the outcome is unknown.
//
// The first one is that in which whoever took this lock over would hold: a setter that
// has lost its lock there sets nothing anywhere. Until processes of phase new are
// admitted that is the old store, and from then on the new one.
func (b *Backend) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	if err := b.begin(g.Key); err != nil {
		return g, err
	}
	if err := v.Validate(); err != nil {
		return g, err
	}
	order := make([]int, 0, len(b.legs))
	for i := range b.legs {
		order = append(order, i)
	}
	if len(order) == 2 {
		rec, err := readRecord(ctx, b.sides[1].b)
		if err != nil {
			return g, backend.Unavailable(sided(SideNew, err))
		}
		if rec.Stage.Admits(PhaseNew) {
			slices.Reverse(order)
		}
	}
	h := &held{parts: make([]part, len(b.legs))}
	for n, i := range order {
		s := b.legs[i]
		ng, err := s.setValue(ctx, b.exact(ctx, i, g), v)
		switch {
		case err == nil:
			h.parts[i].g = ng
		case n > 0 && errors.Is(err, backend.ErrLost):
			return g, backend.Unavailable(fmt.Errorf("%s store: %s; it is set in the other one", s.side, backend.Text(err)))
		default:
			return g, sided(s.side, err)
		}
	}
	g.TTL, g.State = h.parts[0].g.TTL, h
	for i := range h.parts {
		g.TTL = min(g.TTL, h.parts[i].g.TTL)
	}
	return g, nil
}

// exact is inner with the store's own token, which may be less than the one that was handed
// out: a store may compare it. A grant without State does not know it.
func (b *Backend) exact(ctx context.Context, i int, g backend.Grant) backend.Grant {
	own := b.inner(i, g)
	if _, ok := g.State.(*held); ok || len(b.legs) == 1 {
		return own
	}
	if rec, err := b.legs[i].b.Inspect(ctx, g.Key); err == nil && rec.ID == own.ID {
		own.Token = rec.Token
	}
	return own
}

// ListValues implements backend.ValueStore.
func (b *Backend) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	if err := b.begin("list"); err != nil {
		return nil, err
	}
	list := func(ctx context.Context, s backend.Backend) ([]backend.KeyValue, error) {
		return backend.ListValues(ctx, s, prefix)
	}
	kvs, ok, err := fromComplete(ctx, b, list)
	if err != nil {
		return nil, err
	}
	all := [2][]backend.KeyValue{kvs}
	if !ok {
		if all, err = fromBoth(ctx, b, list); err != nil {
			return nil, err
		}
	}
	newest := map[string]backend.Value{}
	for _, kvs := range all {
		for _, kv := range kvs {
			if have, ok := newest[kv.Key]; !isReserved(kv.Key) && (!ok || kv.Value.Compare(have) > 0) {
				newest[kv.Key] = kv.Value
			}
		}
	}
	out := make([]backend.KeyValue, 0, len(newest))
	for key, v := range newest {
		out = append(out, backend.KeyValue{Key: key, Value: v})
	}
	slices.SortFunc(out, func(x, y backend.KeyValue) int { return cmp.Compare(x.Key, y.Key) })
	return out, nil
}
