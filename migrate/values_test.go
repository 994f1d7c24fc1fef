package migrate_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// set takes key, sets its value and lets go.
func set(t testing.TB, b backend.Backend, key, text string) backend.Value {
	t.Helper()
	g := mustTake(t, b, key, "setter")
	v := backend.Value{Data: []byte(text), Token: g.Token, Seq: 1}
	if text == "" {
		v.Data, v.Deleted = nil, true
	}
	g, err := backend.SetValue(context.Background(), b, g, v)
	if err != nil {
		t.Fatal(err)
	}
	mustRelease(t, b, g)
	return v
}

func mustValue(t testing.TB, b backend.Backend, key, want string) {
	t.Helper()
	v, err := backend.ReadValue(context.Background(), b, key)
	if err != nil || string(v.Data) != want {
		t.Fatalf("the value of %q is %q, %v, want %q", key, v.Data, err, want)
	}
}

// What was decided stays decided, from whichever phase it was set and is read: there and
// back, with every phase at each stage.
func TestValuesThroughEveryPhase(t *testing.T) {
	l := begun(t, migrate.StageOld)
	op := l.operator()
	bs := map[migrate.Phase]*migrate.Backend{}
	for _, p := range phases {
		bs[p] = l.client(p)
	}
	set(t, bs[migrate.PhaseOld], "first", "kept")
	set(t, bs[migrate.PhaseOld], "gone", "soon")
	at := func(stage migrate.Stage) {
		for _, p := range phases {
			if !stage.Admits(p) {
				continue
			}
			text := string(p) + " at " + string(stage)
			set(t, bs[p], "k", text)
			for _, q := range phases {
				if stage.Admits(q) {
					mustValue(t, bs[q], "k", text)
					mustValue(t, bs[q], "first", "kept")
				}
			}
		}
	}
	at(migrate.StageOld)
	for _, to := range stages[1:] {
		mustStep(t, op.Advance, to)
		if to == migrate.StageBothNew {
			set(t, bs[migrate.PhaseNew], "gone", "") // a deletion in one store only
			mustValue(t, bs[migrate.PhaseBoth], "gone", "")
		}
		at(to)
	}
	for _, to := range []migrate.Stage{migrate.StageBothNew, migrate.StageBoth, migrate.StageOldBoth, migrate.StageOld} {
		mustStep(t, op.Back, to)
		at(to)
	}
	mustValue(t, bs[migrate.PhaseOld], "gone", "")
	kvs, err := bs[migrate.PhaseOld].ListValues(t.Context(), "")
	if err != nil || len(kvs) != 3 || kvs[0].Key != "first" || kvs[1].Key != "gone" || !kvs[1].Value.Deleted {
		t.Errorf("listed %v, %v", kvs, err)
	}
}

// At the end everything is in the store that stays, the newer over the older, and the
// other one is not asked any more.
func TestSettledStoreIsEnough(t *testing.T) {
	l := begun(t, migrate.StageOld)
	op := l.operator()
	old := l.client(migrate.PhaseOld)
	set(t, old, "only-old", "a")
	mustStep(t, op.Advance, migrate.StageOldBoth)
	both := l.client(migrate.PhaseBoth)
	set(t, both, "newer-in-old", "stale")
	set(t, old, "newer-in-old", "b")
	mustStep(t, op.Advance, migrate.StageBoth)
	mustStep(t, op.Advance, migrate.StageBothNew)
	new := l.client(migrate.PhaseNew)
	set(t, both, "newer-in-new", "stale")
	set(t, new, "newer-in-new", "c")
	s := mustStep(t, op.Advance, migrate.StageNew)
	if !s.Settled || s.Copied != 2 {
		t.Errorf("%+v", s)
	}
	l.old.Inject(memlock.OpAny, "", memlock.Fault{Err: errors.New("the store is gone"), Times: -1})
	for key, want := range map[string]string{"only-old": "a", "newer-in-old": "b", "newer-in-new": "c"} {
		mustValue(t, l.client(migrate.PhaseNew), key, want)
	}
	kvs, err := l.client(migrate.PhaseNew).ListValues(t.Context(), "")
	if err != nil || len(kvs) != 3 {
		t.Errorf("listed %v, %v", kvs, err)
	}
	mustRelease(t, new, mustTake(t, new, "k", "a"))
}

// Until it is settled a store that is away is not taken for one that has no values.
func TestValueNeedsBothStores(t *testing.T) {
	l := begun(t, migrate.StageBothNew)
	l.old.Inject(memlock.OpAny, "", memlock.Fault{Err: errFault, Times: -1})
	if _, err := l.client(migrate.PhaseNew).Value(t.Context(), "k"); !isUnknown(err) {
		t.Errorf("got %v", err)
	}
}

// A step to the end waits for those of phase both before it copies.
func TestSettlingWaitsForBoth(t *testing.T) {
	l := begun(t, migrate.StageBothNew)
	both := l.client(migrate.PhaseBoth)
	g := mustTake(t, both, "k", "holder")
	s, err := l.operator().Advance(t.Context(), nil)
	if err != nil || s.To != migrate.StageNew || s.Settled || s.Pending == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	mustRefuse(t, s.Pending, "holder")
	g, err = both.SetValue(t.Context(), g, backend.Value{Data: []byte("late"), Token: g.Token, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	mustRelease(t, both, g)
	if s, err = l.operator().Advance(t.Context(), nil); err != nil || !s.Settled {
		t.Fatalf("%+v, %v", s, err)
	}
	mustValue(t, l.client(migrate.PhaseNew), "k", "late")
}

// A setter that has lost its lock, in the store where the next holder may be, sets
// nothing anywhere.
func TestLateSetter(t *testing.T) {
	for _, stage := range []migrate.Stage{migrate.StageOldBoth, migrate.StageBoth, migrate.StageBothNew} {
		synctest.Test(t, func(t *testing.T) {
			l := begun(t, stage)
			b := l.client(migrate.PhaseBoth)
			g := mustTake(t, b, "k", "late")
			store, next := l.old, l.client(migrate.PhaseBoth)
			if stage == migrate.StageBothNew {
				store, next = l.new, l.client(migrate.PhaseNew)
			} else if stage == migrate.StageOldBoth {
				next = l.client(migrate.PhaseOld)
			}
			r := mustState(t, store, "k", backend.Held)
			if err := store.Client().Break(t.Context(), "k", r.Token); err != nil {
				t.Fatal(err)
			}
			if stage == migrate.StageBoth { // the next one needs both
				r = mustState(t, l.new, "k", backend.Held)
				if err := l.new.Client().Break(t.Context(), "k", r.Token); err != nil {
					t.Fatal(err)
				}
			}
			mustTake(t, next, "k", "next")
			_, err := b.SetValue(t.Context(), g, backend.Value{Data: []byte("late"), Token: g.Token, Seq: 1})
			if !errors.Is(err, backend.ErrLost) {
				t.Errorf("%s: got %v", stage, err)
			}
			mustValue(t, next, "k", "")
			time.Sleep(time.Hour)
		})
	}
}
