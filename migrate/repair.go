package migrate

import (
	"context"
	"fmt"
	"time"
)

// Repair writes the record of a store that has none any more, from the other store's, and
// never from what anybody says. Before that it waits for the longest TTL that the
// migration admits, with both records locked: who held a lock in the store that was wiped
// may believe so until then, and no step may lead past them. Nothing but the wait is
// in the way of a repair: with DryRun, or without Wait, it is refused with how long it
// would take.
func (b *Backend) Repair(ctx context.Context, o *StepOptions) (Step, error) {
	opt := o.get()
	var step Step
	find := func(recs [2]Record) (lost int, err error) {
		refuse := func(why, do string) error { return &RefusedError{Op: "repair", Why: why, Do: do} }
		switch o, n := recs[0].exists(), recs[1].exists(); {
		case !o && !n:
			return 0, refuse("neither store has a record to copy", "if no process of the fleet runs, and none has for the longest TTL, hasp migrate start begins anew")
		case !o:
			lost = 0
		case !n:
			lost = 1
		default:
			if err := b.pair("repair", recs); err != nil {
				return 0, err
			}
			return 0, refuse("both stores have their record", "nothing has to be repaired")
		}
		r := recs[1-lost]
		switch {
		case r.Name != b.name:
			return 0, refuse(fmt.Sprintf("the %s store is part of migration %q", b.sides[1-lost].side, r.Name), "correct the name or the stores in the URL")
		case r.Side != b.sides[1-lost].side:
			return 0, refuse(fmt.Sprintf("what is given as the %s store is the migration's %s one", b.sides[1-lost].side, r.Side), "exchange old and new in the URL")
		case r.Stage == StageFinished:
			return 0, refuse("the migration is finished", "nothing has to be repaired")
		case r.Starting:
			return 0, refuse("the migration has been begun half", "repeat hasp migrate start")
		}
		step.From, step.To = r.Stage, r.Stage
		return lost, nil
	}
	if opt.DryRun || !opt.Wait {
		recs, err := b.records(ctx)
		if err != nil {
			return step, err
		}
		lost, err := find(recs)
		if err != nil || opt.DryRun {
			return step, err
		}
		return step, &RefusedError{Op: "repair", Why: fmt.Sprintf("the %s store's record can be written when the longest TTL, %v, has passed", b.sides[lost].side, recs[1-lost].MaxTTL),
			Do: "repeat it with --wait, which waits for that", Passes: true}
	}
	_, err := waiting(ctx, opt, func() (struct{}, error) {
		notes, err := b.operate(ctx, "repair", opt.By, func(s *session) error {
			lost, err := find(s.recs)
			if err != nil {
				return err
			}
			other := s.recs[1-lost]
			if err := s.outlast(ctx, other.MaxTTL+other.MaxTTL/10); err != nil {
				return err
			}
			if err := s.unchanged(ctx); err != nil {
				return err
			}
			floor, err := s.newFloor() // the store has forgotten how far its tokens had come
			if err != nil {
				return err
			}
			r := other
			r.Floor = floor
			r.Side, r.Complete, r.value = b.sides[lost].side, false, s.recs[lost].value
			if lost == 0 && r.Sealed {
				// Its seals went with it, and so does the word that stands for them.
				r.Sealed = false
				s.notes = append(s.notes, "the old store's seals were lost with it: run hasp migrate seal again, and see that no program of the EfsLock protocol makes new locks there")
			}
			return s.put(ctx, lost, r)
		})
		step.Notes = append(step.Notes, notes...)
		return struct{}{}, err
	})
	if err == nil {
		step.Notes = append(step.Notes, "values that were only in the store that was wiped are lost")
	}
	return step, err
}

// outlast waits for d, with the records' locks held.
func (s *session) outlast(ctx context.Context, d time.Duration) error {
	over := time.Now().Add(d)
	for {
		left := time.Until(over)
		if left <= 0 {
			return nil
		}
		t := time.NewTimer(min(left, stepTTL/4))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("migrate: %s: %w: %v of the longest TTL were left to wait", s.op, context.Cause(ctx), left.Round(time.Second))
		}
		if err := s.renew(ctx); err != nil {
			return err
		}
	}
}
