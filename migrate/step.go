package migrate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hasplock/hasp/backend"
)

// StepOptions are for an operator's actions. nil is the same as none.
type StepOptions struct {
	// By is who takes the step, for the record and for other operators.
	By string
	// Wait tries again until what is in the way has passed, or ctx ends.
	Wait bool
	// DryRun looks and changes nothing.
	DryRun bool
	// LegacyGone is the operator's word that no process of the EfsLock protocol uses the
	// old store any more. They do not look at the record, and nobody can see whether
	// they are gone. Only the step to both+new asks for it, and only if the old store
	// is one that such processes can use: a backend.Clearer.
	LegacyGone bool
	// To is the stage that the action is meant to lead to; the zero Stage is whichever
	// comes next. Whoever repeats a step because its answer was lost says where it should
	// lead: one that was taken is then not followed by another. At To already nothing is
	// done but settle, and what would not lead there is refused. Advance and Back heed it.
	To Stage
}

func (o *StepOptions) get() StepOptions {
	if o == nil {
		return StepOptions{}
	}
	return *o
}

// Step is what an action has done, or with DryRun would do.
type Step struct {
	From, To Stage
	// Settled tells, of a step to old or new, that nobody of phase both is left and that
	// all values have been copied: the other store may go.
	Settled bool
	// Copied is how many values were.
	Copied int
	// Pending is why a step to old or new is not settled yet, or nil. Repeating the step
	// settles it.
	Pending *RefusedError
	// Notes are what an operator should know besides, one sentence each.
	Notes []string
}

// pollEvery is how often Wait tries again.
const pollEvery = time.Second

// waiting repeats f while it is refused for what passes.
func waiting[T any](ctx context.Context, o StepOptions, f func() (T, error)) (T, error) {
	for {
		v, err := f()
		var r *RefusedError
		if !o.Wait || o.DryRun || err == nil || !errors.As(err, &r) && !isUnknown(err) || r != nil && !r.Passes {
			return v, err
		}
		t := time.NewTimer(pollEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return v, fmt.Errorf("%w: it was waited for in vain: %w", context.Cause(ctx), err)
		}
	}
}

// Advance takes the step to the next stage, towards new, or finishes one that was
// interrupted. At the last stage it settles: see Step.Settled.
func (b *Backend) Advance(ctx context.Context, o *StepOptions) (Step, error) {
	return b.step(ctx, "advance", +1, o.get())
}

// Back takes the step to the stage before, towards old.
func (b *Backend) Back(ctx context.Context, o *StepOptions) (Step, error) {
	return b.step(ctx, "back", -1, o.get())
}

func (b *Backend) step(ctx context.Context, op string, dir int, o StepOptions) (Step, error) {
	var done Step
	if o.To != "" {
		if _, err := ParseStage(string(o.To)); err != nil {
			return done, fmt.Errorf("migrate: %s: %w", op, err)
		}
	}
	_, err := waiting(ctx, o, func() (Step, error) { return done, b.tryStep(ctx, op, dir, o, &done) })
	if err != nil {
		return done, err
	}
	if done.To != end(dir) || o.DryRun {
		return done, nil
	}
	copied, notes, err := b.settle(ctx, op, dir, o)
	done.Copied, done.Notes = copied, append(done.Notes, notes...)
	var r *RefusedError
	if errors.As(err, &r) && r.Passes {
		done.Pending = r
		return done, nil
	}
	done.Settled = err == nil
	return done, err
}

// end is the last stage in a direction.
func end(dir int) Stage {
	if dir > 0 {
		return StageNew
	}
	return StageOld
}

// plan finds out what a step leads from and to. Records that differ are of a step that
// was interrupted: it is finished. A conditional one cannot be, because what it had found
// is out of date: it is first undone, to both, which asks for nothing.
func plan(recs [2]Record, dir int) (from, to Stage, undo bool) {
	lo, hi := recs[0].Stage.number(), recs[1].Stage.number()
	if lo > hi {
		lo, hi = hi, lo
	}
	at := func(n int) Stage { return stages[min(max(n, 1), len(stages))-1] }
	if dir < 0 {
		lo, hi = hi, lo // lo is the one further from the end
	}
	switch {
	case lo == hi:
		return at(lo), at(lo + dir), false
	case at(lo) == StageBoth: // both -> both+new, or both -> old+both
		return at(hi), StageBoth, true
	}
	return at(lo), at(hi), false
}

// meant finds out whether the step is the one that is asked for, or has been taken.
func (o StepOptions) meant(op string, recs [2]Record, dir int) (taken bool, err error) {
	from, to, undo := plan(recs, dir)
	whole := recs[0].Stage == recs[1].Stage
	switch {
	case o.To == "":
		return false, nil
	case whole && from == o.To:
		return true, nil
	case to == o.To && from != to, undo && from == o.To:
		return false, nil
	}
	at := fmt.Sprintf("at stage %s", from)
	if !whole {
		at = fmt.Sprintf("between stages %s and %s", recs[0].Stage, recs[1].Stage)
	}
	leads := fmt.Sprintf("%s leads to %s from there", op, to)
	if whole && from == to {
		leads = fmt.Sprintf("%s leads no further", op)
	}
	return false, &RefusedError{Op: op, Why: fmt.Sprintf("the migration is %s, and %s, not to %s", at, leads, o.To),
		Do: "a step leads to a neighbour only: see hasp migrate status"}
}

// tryStep takes one step, or is refused.
func (b *Backend) tryStep(ctx context.Context, op string, dir int, o StepOptions, done *Step) error {
	if o.DryRun {
		recs, err := b.records(ctx)
		if err != nil {
			return err
		}
		if err := b.pair(op, recs); err != nil {
			return err
		}
		if taken, err := o.meant(op, recs, dir); taken || err != nil {
			done.From, done.To = o.To, o.To
			return err
		}
		var undo bool
		if done.From, done.To, undo = plan(recs, dir); undo {
			done.From, done.To = done.To, done.From
		}
		return b.mayStep(ctx, op, done.From, done.To, o, nil)
	}
	for {
		again := false
		notes, err := b.operate(ctx, op, o.By, func(s *session) error {
			if err := b.pair(op, s.recs); err != nil {
				return err
			}
			if taken, err := o.meant(op, s.recs, dir); taken || err != nil {
				again, done.To = false, o.To
				if done.From == "" {
					done.From = o.To
				}
				return err
			}
			from, to, undo := plan(s.recs, dir)
			if again = undo; !undo {
				done.From, done.To = from, to
			}
			if from == to {
				return nil // at the end; there may be something to settle
			}
			floor := max(s.recs[0].Floor, s.recs[1].Floor)
			if conditional(from, to) {
				if err := b.mayStep(ctx, op, from, to, o, s); err != nil {
					return err
				}
				if err := s.unchanged(ctx); err != nil {
					return err
				}
				var err error
				if floor, err = s.newFloor(); err != nil {
					return err
				}
			}
			return s.putBoth(ctx, func(r *Record) { r.Stage, r.Floor = to, floor })
		})
		done.Notes = append(done.Notes, notes...)
		if err != nil || !again {
			return err
		}
	}
}

// conditional tells whether a step admits a phase that must not run beside one that was
// admitted before.
func conditional(from, to Stage) bool {
	return from == StageBoth && (to == StageBothNew || to == StageOldBoth)
}

// newFloor is a token that exceeds every one granted so far in either store. Tokens of
// both grow with a clock or a revision of the store, of which the grants that this step
// is taken under are fresh. The margin is for what is beyond that: the lead that phase
// both asks for, and keys that were lifted by the former floor, and have gone on from there
// by one with each acquisition.
func (s *session) newFloor() (uint64, error) {
	floor := max(s.recs[0].Floor, s.recs[1].Floor)
	least := min(s.grants[0].Token, s.grants[1].Token)
	floor = max(floor, s.grants[0].Token, s.grants[1].Token)
	margin := uint64(floorMargin) + (floor-least)/64
	if floor > math.MaxUint64/2 {
		return 0, &RefusedError{Op: s.op, Why: fmt.Sprintf("a store's tokens have come to %d, and there is no room above", floor), Do: "use stores whose tokens are hasp's"}
	}
	return floor + margin, nil
}

// floorMargin is in tokens, which are about microseconds: a little more than a minute.
const floorMargin = 1 << 26

// mayStep finds out whether a conditional step is safe now: nobody may hold in the store
// of the phase that was admitted before and shall not run beside the next one. It
// is asked after "both" was recorded: who takes a lock later looks, and gives back; who
// looked before had its lock before, and is listed. With a session what is stale is taken
// over first.
func (b *Backend) mayStep(ctx context.Context, op string, from, to Stage, o StepOptions, s *session) error {
	if !conditional(from, to) {
		return nil
	}
	listed := b.sides[0]
	if to == StageOldBoth {
		listed = b.sides[1]
	}
	for try := 0; ; try++ {
		recs, err := backend.List(ctx, listed.b, "")
		if err != nil {
			return fmt.Errorf("migrate: %s: what is held in the %s store cannot be listed: %w", op, listed.side, err)
		}
		hostile, stale, unread := b.hostile(recs)
		switch {
		case len(unread) > 0:
			return &RefusedError{Op: op, Why: fmt.Sprintf("not everything in the %s store can be read", listed.side), Holders: unread, Do: "see to it that it can: what is not seen may be held"}
		case len(hostile) > 0:
			return &RefusedError{Op: op, Why: fmt.Sprintf("locks in the %s store are held by processes that are not of phase both", listed.side), Holders: hostile,
				Do: "wait until they are released, and see that those processes are restarted in phase both", Passes: true}
		case len(stale) == 0 || s == nil:
			if to == StageBothNew {
				return b.legacyGone(ctx, op, o, s)
			}
			return nil
		case try == 3:
			return &RefusedError{Op: op, Why: fmt.Sprintf("locks in the %s store go on becoming stale", listed.side), Holders: stale, Do: "see who takes them", Passes: true}
		}
		if err := b.takeOver(ctx, op, listed, stale); err != nil {
			return err
		}
	}
}

// hostile sorts out who holds in a store and is not of phase both.
func (b *Backend) hostile(recs []backend.Record) (hostile, stale, unread []backend.Record) {
	for _, r := range recs {
		switch {
		case isReserved(r.Key), r.State == backend.Free, r.State == backend.Sealed:
		case r.State == backend.Unknown:
			unread = append(unread, r)
		case phaseOf(r.Holder, b.name) == PhaseBoth:
		case r.State == backend.Stale:
			stale = append(stale, r)
		default:
			hostile = append(hostile, r)
		}
	}
	return hostile, stale, unread
}

// takeOver frees what dead holders have left, as any process that wanted the lock would.
func (b *Backend) takeOver(ctx context.Context, op string, st *store, recs []backend.Record) error {
	for _, r := range recs {
		c := backend.Claim{ID: rand.Text(), Holder: marked(backend.Holder{Owner: "hasp migrate " + op}, b.name, PhaseBoth), TTL: stepTTL}
		g, err := st.b.Acquire(ctx, r.Key, c)
		if errors.Is(err, backend.ErrHeld) && !isUnknown(err) {
			continue // the next listing tells
		}
		if err != nil {
			g = backend.Grant{Key: r.Key, ID: c.ID, Holder: c.Holder, TTL: c.TTL}
		}
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		rerr := st.b.Release(rctx, g)
		cancel()
		if err != nil {
			return sided(st.side, fmt.Errorf("the stale lock %q cannot be taken over: %w", r.Key, err))
		}
		if rerr != nil && !errors.Is(rerr, backend.ErrLost) {
			return sided(st.side, fmt.Errorf("the lock %q was taken over and cannot be released: %w", r.Key, rerr))
		}
	}
	return nil
}
