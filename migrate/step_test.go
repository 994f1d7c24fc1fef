package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

var errFault = backend.Unavailable(errors.New("injected"))

// recorded returns the stages in the two stores.
func recorded(t testing.TB, l *lab) [2]migrate.Stage {
	t.Helper()
	st, err := l.operator().Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return [2]migrate.Stage{st.Stores[0].Record.Stage, st.Stores[1].Record.Stage}
}

func mustRecord(t testing.TB, l *lab, old, new migrate.Stage) {
	t.Helper()
	if got := recorded(t, l); got != [2]migrate.Stage{old, new} {
		t.Fatalf("recorded %q, want %q and %q", got, old, new)
	}
}

func mustRefuse(t testing.TB, err error, words ...string) *migrate.RefusedError {
	t.Helper()
	var r *migrate.RefusedError
	if !errors.Is(err, migrate.ErrRefused) || !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	for _, w := range append(words, r.Do) {
		if w == "" || !strings.Contains(err.Error(), w) {
			t.Errorf("it does not say %q: %v", w, err)
		}
	}
	return r
}

func TestThereAndBack(t *testing.T) {
	l := begun(t, migrate.StageOld)
	op := l.operator()
	for _, to := range stages[1:] {
		s := mustStep(t, op.Advance, to)
		mustRecord(t, l, to, to)
		if s.Settled != (to == migrate.StageNew) {
			t.Errorf("settled %v at %s", s.Settled, to)
		}
	}
	if s := mustStep(t, op.Advance, migrate.StageNew); !s.Settled || s.From != s.To {
		t.Errorf("at the end %+v", s)
	}
	for _, to := range []migrate.Stage{migrate.StageBothNew, migrate.StageBoth, migrate.StageOldBoth, migrate.StageOld} {
		mustStep(t, op.Back, to)
		mustRecord(t, l, to, to)
	}
	if _, err := op.Finish(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustRecord(t, l, migrate.StageFinished, migrate.StageFinished)
	pe := refusedByPhase(t, l, l.client(migrate.PhaseOld), "k")
	if !strings.Contains(pe.Why, "finished") {
		t.Error(pe)
	}
	_, err := op.Advance(t.Context(), nil)
	mustRefuse(t, err, "finished")
	if _, err := op.Start(t.Context(), nil); err != nil {
		t.Errorf("another migration: %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	l := begun(t, migrate.StageBoth)
	_, err := l.operator().Start(t.Context(), nil)
	mustRefuse(t, err, "has a record")
	third := &lab{t, l.new, memlock.New()} // A -> B -> C must not overlap
	_, err = third.operator().Start(t.Context(), nil)
	mustRefuse(t, err, "one migration at a time")
	l = newLab(t)
	if _, err := l.new.Client().Acquire(t.Context(), "k", claim("somebody")); err != nil {
		t.Fatal(err)
	}
	_, err = l.operator().Start(t.Context(), nil)
	mustRefuse(t, err, "somebody")
	mustRecord(t, l, "", "")
}

// Who holds in the store of a phase that is on its way out is in the way, and the
// refusal says who it is.
func TestStepIsRefusedWhileSomebodyHolds(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			l := begun(t, migrate.StageOldBoth)
			var b backend.Backend = l.client(migrate.PhaseOld)
			if plain {
				b = l.old.Client() // a hasp process that knows nothing of the migration
			}
			g := mustTake(t, b, "k", "holder")
			both := l.client(migrate.PhaseBoth)
			mustTake(t, both, "other", "both")
			op := l.operator()
			mustStep(t, op.Advance, migrate.StageBoth)
			_, err := op.Advance(t.Context(), nil)
			if r := mustRefuse(t, err, "holder", `"k"`); !r.Passes || len(r.Holders) != 1 {
				t.Errorf("%+v", r)
			}
			_, err = op.Advance(t.Context(), &migrate.StepOptions{DryRun: true})
			mustRefuse(t, err, "holder")
			mustRecord(t, l, migrate.StageBoth, migrate.StageBoth)
			mustRelease(t, b, g)
			if s, err := op.Advance(t.Context(), &migrate.StepOptions{DryRun: true}); err != nil || s.To != migrate.StageBothNew {
				t.Errorf("dry run %+v, %v", s, err)
			}
			mustRecord(t, l, migrate.StageBoth, migrate.StageBoth)
			mustStep(t, op.Advance, migrate.StageBothNew)
		})
	}
	l := begun(t, migrate.StageBothNew)
	g := mustTake(t, l.client(migrate.PhaseNew), "k", "holder")
	op := l.operator()
	mustStep(t, op.Back, migrate.StageBoth)
	_, err := op.Back(t.Context(), nil)
	mustRefuse(t, err, "holder")
	mustRelease(t, l.client(migrate.PhaseBoth), backend.Grant{Key: "k", ID: g.ID, Holder: g.Holder}) // whoever is asked
	mustStep(t, op.Back, migrate.StageOldBoth)
}

// The listing that counts is made after both was recorded: who was admitted while the
// record was being written is in it.
func TestListingComesAfterWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageOldBoth)
		op := l.operator()
		l.old.Inject(memlock.OpSetValue, migrate.RecordKey, memlock.Fault{Delay: time.Second})
		done := make(chan error)
		go func() {
			_, err := op.Advance(context.Background(), nil)
			done <- err
		}()
		synctest.Wait()
		mustTake(t, l.client(migrate.PhaseOld), "k", "meanwhile")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		mustRecord(t, l, migrate.StageBoth, migrate.StageBoth)
		_, err := op.Advance(t.Context(), nil)
		mustRefuse(t, err, "meanwhile")
	})
}

// clearable is a store that programs use that do not look at the record.
type clearable struct{ *memlock.Client }

func (clearable) Clear(context.Context, string, bool) ([]backend.Record, error) { return nil, nil }

// Whether those are gone only the operator can say.
func TestLegacyGone(t *testing.T) {
	l := begun(t, migrate.StageBoth)
	op, err := migrate.New(clearable{l.old.Client()}, l.new.Client(), &migrate.Options{Name: "sweeps"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = op.Advance(t.Context(), nil)
	if r := mustRefuse(t, err, "EfsLock", "--legacy-gone"); r.Passes {
		t.Error("it does not pass by itself")
	}
	mustRecord(t, l, migrate.StageBoth, migrate.StageBoth)
	if _, err := op.Advance(t.Context(), &migrate.StepOptions{LegacyGone: true}); err != nil {
		t.Error(err)
	}
	mustRecord(t, l, migrate.StageBothNew, migrate.StageBothNew)
}

// A dead holder is not in the way for ever: the step takes its lock over.
func TestStaleHoldersAreTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageOldBoth)
		dead := l.client(migrate.PhaseOld)
		g := mustTake(t, dead, "k", "dead")
		op := l.operator()
		mustStep(t, op.Advance, migrate.StageBoth)
		s, err := op.Advance(t.Context(), &migrate.StepOptions{Wait: true})
		if err != nil || s.To != migrate.StageBothNew {
			t.Fatalf("%+v, %v", s, err)
		}
		mustState(t, l.old, "k", backend.Free)
		if _, err := dead.Renew(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("the dead one's renewal: %v", err)
		}
	})
}

// Both stores' records count, whichever store is listed.
func TestHalfAStep(t *testing.T) {
	half := func(t *testing.T, from migrate.Stage, step func(*migrate.Backend) func(context.Context, *migrate.StepOptions) (migrate.Step, error)) *lab {
		l := begun(t, from)
		remove := l.new.Inject(memlock.OpSetValue, migrate.RecordKey, memlock.Fault{Err: errFault, Times: -1})
		if _, err := step(l.operator())(t.Context(), nil); err == nil {
			t.Fatal("the step was taken although the new store's record cannot be written")
		}
		remove()
		return l
	}
	advance := func(b *migrate.Backend) func(context.Context, *migrate.StepOptions) (migrate.Step, error) {
		return b.Advance
	}
	back := func(b *migrate.Backend) func(context.Context, *migrate.StepOptions) (migrate.Step, error) {
		return b.Back
	}

	// half a step back from both: the old store admits phase old again, so that a
	// listing of it is worth nothing
	l := half(t, migrate.StageBoth, back)
	mustRecord(t, l, migrate.StageOldBoth, migrate.StageBoth)
	mustStep(t, l.operator().Advance, migrate.StageBoth)
	mustRecord(t, l, migrate.StageBoth, migrate.StageBoth)

	// half a step forward from both: whoever finishes it has to look again
	l = half(t, migrate.StageBoth, advance)
	mustRecord(t, l, migrate.StageBothNew, migrate.StageBoth)
	g := mustTake(t, l.old.Client(), "k", "plain")
	_, err := l.operator().Advance(t.Context(), nil)
	mustRefuse(t, err, "plain")
	mustRelease(t, l.old.Client(), g)
	mustStep(t, l.operator().Advance, migrate.StageBothNew)

	// and back from there, and from half a step back
	l = half(t, migrate.StageBoth, advance)
	mustStep(t, l.operator().Back, migrate.StageBoth)
	l = half(t, migrate.StageBoth, back)
	g = mustTake(t, l.new.Client(), "k", "plain")
	_, err = l.operator().Back(t.Context(), nil)
	mustRefuse(t, err, "plain")
	mustRelease(t, l.new.Client(), g)
	mustStep(t, l.operator().Back, migrate.StageOldBoth)

	// unconditional ones
	l = half(t, migrate.StageOld, advance)
	mustRecord(t, l, migrate.StageOldBoth, migrate.StageOld)
	mustStep(t, l.operator().Advance, migrate.StageOldBoth)
	l = half(t, migrate.StageNew, back)
	mustRecord(t, l, migrate.StageBothNew, migrate.StageNew)
	mustStep(t, l.operator().Advance, migrate.StageNew)
	l = half(t, migrate.StageOldBoth, advance)
	mustRecord(t, l, migrate.StageBoth, migrate.StageOldBoth)
	mustStep(t, l.operator().Back, migrate.StageOldBoth)
}

// A step that says where it should lead can be repeated: it is taken once.
func TestStepIsTakenOnce(t *testing.T) {
	to := func(s migrate.Stage) *migrate.StepOptions { return &migrate.StepOptions{To: s, LegacyGone: true} }
	l := begun(t, migrate.StageOld)
	op := l.operator()
	for i, next := range stages[1:] {
		for range 3 {
			s, err := op.Advance(t.Context(), to(next))
			if err != nil || s.To != next {
				t.Fatalf("the step to %s led to %s: %v", next, s.To, err)
			}
			mustRecord(t, l, next, next)
			if s.Settled != (next == migrate.StageNew) {
				t.Errorf("settled %v at %s", s.Settled, next)
			}
		}
		_, err := op.Advance(t.Context(), to(stages[i])) // which is passed
		mustRefuse(t, err, "at stage "+string(next), "not to "+string(stages[i]))
		mustRecord(t, l, next, next)
	}
	for i := len(stages) - 2; i >= 0; i-- {
		o := to(stages[i])
		o.DryRun = true
		if s, err := op.Back(t.Context(), o); err != nil || s.To != stages[i] || s.From != stages[i+1] {
			t.Errorf("looking at the step back to %s: from %s to %s, %v", stages[i], s.From, s.To, err)
		}
		for range 2 {
			if s, err := op.Back(t.Context(), to(stages[i])); err != nil || s.To != stages[i] {
				t.Fatalf("the step back to %s led to %s: %v", stages[i], s.To, err)
			}
			mustRecord(t, l, stages[i], stages[i])
		}
		o.To = stages[i]
		if s, err := op.Back(t.Context(), o); err != nil || s.To != stages[i] || s.From != s.To {
			t.Errorf("looking at the step back to %s once more: from %s to %s, %v", stages[i], s.From, s.To, err)
		}
	}
	_, err := op.Advance(t.Context(), to(migrate.StageBoth))
	mustRefuse(t, err, "advance leads to old+both from there", "not to both")
	if _, err := op.Advance(t.Context(), to("sideways")); err == nil || !strings.Contains(err.Error(), "want old, old+both") {
		t.Errorf("to no stage: %v", err)
	}
	mustRecord(t, l, migrate.StageOld, migrate.StageOld)

	// one that was interrupted is finished, or undone if that is what is asked for
	for _, want := range []migrate.Stage{migrate.StageBothNew, migrate.StageBoth} {
		l := begun(t, migrate.StageBoth)
		remove := l.new.Inject(memlock.OpSetValue, migrate.RecordKey, memlock.Fault{Err: errFault, Times: -1})
		if _, err := l.operator().Advance(t.Context(), to(migrate.StageBothNew)); err == nil {
			t.Fatal("the step was taken although the new store's record cannot be written")
		}
		remove()
		_, err := l.operator().Advance(t.Context(), to(migrate.StageNew))
		mustRefuse(t, err, "between stages both+new and both", "not to new")
		if s, err := l.operator().Advance(t.Context(), to(want)); err != nil || s.To != want {
			t.Errorf("to %s after an interruption: led to %s, %v", want, s.To, err)
		}
		mustRecord(t, l, want, want)
	}
}

// The old store's record is written first in both directions, and if that fails nothing
// is written.
func TestOrderOfWrites(t *testing.T) {
	for i, from := range stages {
		for _, dir := range []int{-1, +1} {
			if i+dir < 0 || i+dir >= len(stages) {
				continue
			}
			l := begun(t, from)
			l.old.Inject(memlock.OpSetValue, migrate.RecordKey, memlock.Fault{Err: errFault, Times: -1})
			op := l.operator()
			step := op.Advance
			if dir < 0 {
				step = op.Back
			}
			if _, err := step(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "repeat it") {
				t.Errorf("from %s by %d: %v", from, dir, err)
			}
			mustRecord(t, l, from, from)
		}
	}
}

// A store that is wiped between the first look at the records and the listing lists nobody.
func TestRecordsAreReadAgainAfterTheListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageBothNew)
		mustTake(t, l.client(migrate.PhaseNew), "k", "holder")
		op := l.operator()
		mustStep(t, op.Back, migrate.StageBoth)
		l.new.Inject(memlock.OpList, "", memlock.Fault{Delay: time.Second})
		done := make(chan error)
		go func() {
			_, err := op.Back(context.Background(), nil)
			done <- err
		}()
		synctest.Wait()
		l.new.Wipe()
		mustRefuse(t, <-done, "changed")
		mustRecord(t, l, migrate.StageBoth, "")
		refusedByPhase(t, l, l.client(migrate.PhaseOld), "k")
	})
}

// An operator that was overtaken writes nothing any more.
func TestOvertakenOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageOldBoth)
		go_ := make(chan struct{})
		l.old.Inject(memlock.OpSetValue, migrate.RecordKey, memlock.Fault{Hang: go_})
		done := make(chan error)
		go func() {
			_, err := l.operator().Advance(context.Background(), nil)
			done <- err
		}()
		synctest.Wait()
		_, err := l.operator().Back(t.Context(), nil)
		mustRefuse(t, err, "another operator")
		if _, err := l.operator().Back(t.Context(), &migrate.StepOptions{Wait: true}); err != nil { // its hold ends by itself
			t.Fatal(err)
		}
		mustRecord(t, l, migrate.StageOld, migrate.StageOld)
		close(go_)
		mustRefuse(t, <-done, "lost")
		mustRecord(t, l, migrate.StageOld, migrate.StageOld)
	})
}

func TestRepair(t *testing.T) {
	for _, lost := range []string{"old", "new"} {
		for i, stage := range stages {
			synctest.Test(t, func(t *testing.T) {
				l := begun(t, stage)
				store := l.old
				if lost == "new" {
					store = l.new
				}
				op := l.operator()
				_, err := op.Repair(t.Context(), nil)
				mustRefuse(t, err, "nothing has to be repaired")
				store.Wipe()
				_, err = op.Repair(t.Context(), nil)
				mustRefuse(t, err, "1m0s", "--wait")
				begun := time.Now()
				if _, err := op.Repair(t.Context(), &migrate.StepOptions{Wait: true}); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(begun); d < time.Minute {
					t.Errorf("repaired after %v: a holder may believe for a minute", d)
				}
				mustRecord(t, l, stage, stage)
				if i+1 < len(stages) {
					mustStep(t, op.Advance, stages[i+1])
				}
			})
		}
	}
}

func TestRepairNeedsTheOtherRecord(t *testing.T) {
	l := begun(t, migrate.StageBoth)
	l.old.Wipe()
	l.new.Wipe()
	_, err := l.operator().Repair(t.Context(), &migrate.StepOptions{Wait: true})
	mustRefuse(t, err, "neither")
}

// An operator is killed after each of its requests in turn: whatever it was, the same
// step can be taken again, and leads to where it was to lead.
func TestOperatorKilledAtEveryRequest(t *testing.T) {
	type action struct {
		name string
		from migrate.Stage
		to   migrate.Stage
		do   func(b *migrate.Backend) error
	}
	advance := func(b *migrate.Backend) error {
		_, err := b.Advance(context.Background(), &migrate.StepOptions{Wait: true})
		return err
	}
	back := func(b *migrate.Backend) error {
		_, err := b.Back(context.Background(), &migrate.StepOptions{Wait: true})
		return err
	}
	actions := []action{{"start", "", migrate.StageOld, func(b *migrate.Backend) error {
		_, err := b.Start(context.Background(), &migrate.StartOptions{StepOptions: migrate.StepOptions{Wait: true}, MaxTTL: time.Minute})
		return err
	}}}
	for i := range stages[1:] {
		actions = append(actions, action{"advance", stages[i], stages[i+1], advance}, action{"back", stages[i+1], stages[i], back})
	}
	for _, a := range actions {
		for _, reply := range []bool{false, true} {
			for n := 1; ; n++ {
				over := false
				synctest.Test(t, func(t *testing.T) {
					l := newLab(t)
					if a.from != "" {
						if err := l.begin(a.from, time.Minute); err != nil {
							t.Fatal(err)
						}
					}
					killed := newMortal(l, n, reply)
					op, err := migrate.New(killed.old, killed.new, &migrate.Options{Name: "sweeps"})
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(context.Background())
					killed.die = cancel
					switch a.name {
					case "start":
						_, err = op.Start(ctx, &migrate.StartOptions{MaxTTL: time.Minute})
					case "advance":
						_, err = op.Advance(ctx, nil)
					case "back":
						_, err = op.Back(ctx, nil)
					}
					cancel()
					if err == nil && !killed.dead() {
						over = true // there is no n-th request
						return
					}
					at := recorded(t, l)
					if at == [2]migrate.Stage{a.to, a.to} {
						return // it was done
					}
					if err := a.do(l.operator()); err != nil {
						t.Fatalf("%s from %q, killed at request %d (executed: %v), with %q recorded, again: %v", a.name, a.from, n, reply, at, err)
					}
					mustRecord(t, l, a.to, a.to)
				})
				if over || t.Failed() {
					if n < 8 {
						t.Errorf("%s from %q takes %d requests only", a.name, a.from, n-1)
					}
					break
				}
			}
		}
	}
}
