package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hasplock/hasp/backend"
)

// Status is what an operator wants to know before a step.
type Status struct {
	Name string
	// Stores are the old and the new one.
	Stores [2]StoreStatus
	// Consistent is nil if both records are those of this migration and of the same
	// stage or of neighbouring ones, else a *RefusedError with what to do.
	Consistent error
	// Advance and Back tell of the next steps, whether they would be taken now.
	Advance, Back Next
	// Seen is who was last heard of, the latest first. Each host and phase is in it once.
	Seen []Seen
}

// StoreStatus is what one store says.
type StoreStatus struct {
	Side Side
	Name string
	// Record is the migration's record there; HasRecord tells whether there is one.
	Record    Record
	HasRecord bool
	// Holders are the locks that are held, or stale, and of which phase their holders
	// are.
	Holders []Holding
	// Err is why the store cannot be asked, or nil.
	Err error
}

// Holding is one lock that is held.
type Holding struct {
	Record backend.Record // with the holder's name as it was given
	// Phase is the holder's; "" of one that does not take part in the migration, and
	// does not look at its record.
	Phase Phase
}

// Next is a step that could be taken.
type Next struct {
	From, To Stage // equal if there is none
	// Err is why not, or nil.
	Err error
}

// Status asks both stores. It needs no lock and changes nothing. A store that does not
// answer is told in its Err; Status itself fails only when ctx ends.
func (b *Backend) Status(ctx context.Context) (Status, error) {
	st := Status{Name: b.name}
	var seens [2][]Seen
	var recs [2]Record
	each(b.sides[:], func(i int, s *store) {
		x := &st.Stores[i]
		x.Side, x.Name = s.side, s.name
		var listed []backend.Record
		recs[i], x.Err = readRecord(ctx, s.b)
		x.Record, x.HasRecord = recs[i], recs[i].exists()
		if x.Err == nil {
			listed, x.Err = backend.List(ctx, s.b, "")
		}
		if x.Err == nil {
			seens[i], x.Err = readSeen(ctx, s.b)
		}
		for _, r := range listed {
			if isReserved(r.Key) {
				continue
			}
			h := Holding{Record: r}
			if h.Phase = phaseOf(r.Holder, b.name); h.Phase != "" {
				h.Record.Holder, _, _ = unmarked(r.Holder)
			}
			x.Holders = append(x.Holders, h)
		}
	})
	if err := ctx.Err(); err != nil {
		return st, fmt.Errorf("migrate: status: %w", context.Cause(ctx))
	}
	st.Seen = latest(append(seens[0], seens[1]...))
	if err := errors.Join(sided(SideOld, st.Stores[0].Err), sided(SideNew, st.Stores[1].Err)); err != nil {
		st.Consistent = err
	} else {
		st.Consistent = b.pair("status", recs)
	}
	for dir, n := range map[int]*Next{+1: &st.Advance, -1: &st.Back} {
		if n.Err = st.Consistent; n.Err != nil {
			continue
		}
		op := map[int]string{+1: "advance", -1: "back"}[dir]
		var done Step
		n.Err = b.tryStep(ctx, op, dir, StepOptions{DryRun: true}, &done)
		n.From, n.To = done.From, done.To
	}
	return st, nil
}

// latest keeps what was told last of each host and phase.
func latest(all []Seen) []Seen {
	slices.SortStableFunc(all, func(x, y Seen) int { return y.At.Compare(x.At) })
	var out []Seen
	for _, s := range all {
		if !slices.ContainsFunc(out, func(o Seen) bool { return o.Host == s.Host && o.Phase == s.Phase }) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(x, y Seen) int { return cmp.Or(y.At.Compare(x.At), cmp.Compare(x.Host, y.Host)) })
	return out
}
