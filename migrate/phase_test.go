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

var phases = []migrate.Phase{migrate.PhaseOld, migrate.PhaseBoth, migrate.PhaseNew}

var stages = []migrate.Stage{migrate.StageOld, migrate.StageOldBoth, migrate.StageBoth, migrate.StageBothNew, migrate.StageNew}

// refusedByPhase finds out that b gets nothing, and nothing is left in either store.
func refusedByPhase(t *testing.T, l *lab, b backend.Backend, key string) *migrate.PhaseError {
	t.Helper()
	g, err := b.Acquire(context.Background(), key, claim("refused"))
	var pe *migrate.PhaseError
	if !errors.Is(err, migrate.ErrPhase) || !errors.As(err, &pe) {
		t.Fatalf("got %v, %v and not ErrPhase", g, err)
	}
	if pe.Do == "" || pe.Why == "" || !strings.Contains(err.Error(), `"sweeps"`) {
		t.Errorf("it does not say what to do: %v", err)
	}
	mustState(t, l.old, key, backend.Free)
	mustState(t, l.new, key, backend.Free)
	return pe
}

func TestEveryPhaseAtEveryStage(t *testing.T) {
	for _, stage := range stages {
		l := begun(t, stage)
		for _, p := range phases {
			b := l.client(p)
			key := fmt.Sprintf("%s at %s", p, stage)
			if !stage.Admits(p) {
				refusedByPhase(t, l, b, key)
				continue
			}
			g := mustTake(t, b, key, "taker")
			old, new := backend.Free, backend.Free
			if p != migrate.PhaseNew {
				old = backend.Held
			}
			if p != migrate.PhaseOld {
				new = backend.Held
			}
			mustState(t, l.old, key, old)
			r := mustState(t, l.new, key, new)
			if p == migrate.PhaseBoth && r.Holder.Host != "sweeps/both@host-taker" {
				t.Errorf("recorded as %s", r.Holder)
			}
			mustRelease(t, b, g)
			mustState(t, l.old, key, backend.Free)
			mustState(t, l.new, key, backend.Free)
		}
	}
}

// Old against new, and the other way round: whoever was forgotten in the roll-out is
// refused.
func TestOldAgainstNew(t *testing.T) {
	l := begun(t, migrate.StageBothNew)
	g := mustTake(t, l.client(migrate.PhaseNew), "k", "new")
	_, err := l.client(migrate.PhaseOld).Acquire(t.Context(), "k", claim("old"))
	if !errors.Is(err, migrate.ErrPhase) {
		t.Errorf("old beside new: %v", err)
	}
	mustState(t, l.old, "k", backend.Free)
	if r := mustState(t, l.new, "k", backend.Held); r.Token != g.Token {
		t.Errorf("now %s", r)
	}
	l = begun(t, migrate.StageOldBoth)
	mustTake(t, l.client(migrate.PhaseOld), "k", "old")
	if _, err := l.client(migrate.PhaseNew).Acquire(t.Context(), "k", claim("new")); !errors.Is(err, migrate.ErrPhase) {
		t.Errorf("new beside old: %v", err)
	}
	mustState(t, l.new, "k", backend.Free)
}

func TestNothingBegun(t *testing.T) {
	l := newLab(t)
	for _, p := range phases {
		refusedByPhase(t, l, l.client(p), "k")
	}
	if _, err := l.operator().Acquire(t.Context(), "k", claim("nobody")); !errors.Is(err, migrate.ErrPhase) {
		t.Errorf("without a phase: %v", err)
	}
}

// A missing record is never a permission.
func TestWipedStore(t *testing.T) {
	for _, stage := range stages {
		for _, wiped := range []string{"old", "new", "old and new"} {
			l := begun(t, stage)
			var bs []*migrate.Backend
			for _, p := range phases {
				bs = append(bs, l.client(p))
				if stage.Admits(p) { // so that it knows what there was
					g := mustTake(t, bs[len(bs)-1], "k", "before")
					mustRelease(t, bs[len(bs)-1], g)
				}
			}
			if strings.Contains(wiped, "old") {
				l.old.Wipe()
			}
			if strings.Contains(wiped, "new") {
				l.new.Wipe()
			}
			for i, p := range phases {
				takesWiped := p == migrate.PhaseBoth || strings.Contains(wiped, string(p))
				if takesWiped {
					refusedByPhase(t, l, bs[i], "k")
				}
			}
			for name, step := range map[string]func(context.Context, *migrate.StepOptions) (migrate.Step, error){"advance": l.operator().Advance, "back": l.operator().Back} {
				if _, err := step(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) {
					t.Errorf("%s at %s with %s wiped: %v", name, stage, wiped, err)
				}
			}
		}
	}
}

func TestTwoPairsUnderOneName(t *testing.T) {
	for _, c := range []struct {
		phase migrate.Phase
		stage migrate.Stage
	}{{migrate.PhaseOld, migrate.StageOld}, {migrate.PhaseBoth, migrate.StageBoth}, {migrate.PhaseNew, migrate.StageNew}} {
		one, two := begun(t, c.stage), begun(t, c.stage)
		mixed := &lab{t, one.old, two.new}
		pe := refusedByPhase(t, mixed, mixed.client(c.phase), "k")
		if !strings.Contains(pe.Why, "two migrations") {
			t.Errorf("%s: %v", c.phase, pe)
		}
		if _, err := mixed.operator().Advance(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) {
			t.Errorf("a step: %v", err)
		}
		// the two stores exchanged
		swapped := &lab{t, one.new, one.old}
		refusedByPhase(t, swapped, swapped.client(c.phase), "k")
		if c.phase == migrate.PhaseBoth {
			if _, err := swapped.client(c.phase).Value(t.Context(), "k"); !errors.Is(err, migrate.ErrPhase) {
				t.Errorf("a value of exchanged stores: %v", err)
			}
		}
		// another name
		b, err := migrate.New(one.old.Client(), one.new.Client(), &migrate.Options{Name: "jobs", Phase: c.phase})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, err := b.Acquire(t.Context(), "k", claim("stranger")); !errors.Is(err, migrate.ErrPhase) {
			t.Errorf("under another name: %v", err)
		}
	}
}

// An Acquire that is delayed by any time looks later still.
func TestRecordIsReadAfterAcquiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageOldBoth)
		late := l.client(migrate.PhaseOld)
		mustRelease(t, late, mustTake(t, late, "other", "late"))
		done := make(chan error)
		l.old.Inject(memlock.OpAcquire, "k", memlock.Fault{Delay: time.Hour})
		go func() {
			_, err := late.Acquire(context.Background(), "k", claim("late"))
			done <- err
		}()
		synctest.Wait()
		op := l.operator()
		mustStep(t, op.Advance, migrate.StageBoth)
		mustStep(t, op.Advance, migrate.StageBothNew)
		mustTake(t, l.client(migrate.PhaseNew), "k", "new")
		if err := <-done; !errors.Is(err, migrate.ErrPhase) {
			t.Errorf("an Acquire that began at old+both and was executed at both+new: %v", err)
		}
		mustState(t, l.old, "k", backend.Free)
	})
}

func TestTTLIsBounded(t *testing.T) {
	for i, p := range phases {
		l := begun(t, stages[2*i])
		c := claim("long")
		c.TTL = time.Minute + 1
		if _, err := l.client(p).Acquire(t.Context(), "k", c); err == nil || isUnknown(err) || !strings.Contains(err.Error(), "1m0s") {
			t.Errorf("phase %s: %v", p, err)
		}
		mustState(t, l.old, "k", backend.Free)
		mustState(t, l.new, "k", backend.Free)
		c.TTL = time.Minute
		if _, err := l.client(p).Acquire(t.Context(), "k", c); err != nil {
			t.Error(err)
		}
	}
}

func isUnknown(err error) bool { return errors.Is(err, backend.ErrUnavailable) }

func TestReservedKeys(t *testing.T) {
	l := begun(t, migrate.StageBoth)
	b := l.client(migrate.PhaseBoth)
	for _, key := range []string{migrate.RecordKey, migrate.RecordKey + ".seen", migrate.RecordKey + "/x"} {
		if _, err := b.Acquire(t.Context(), key, claim("a")); !errors.Is(err, backend.ErrInvalidKey) {
			t.Errorf("%q: %v", key, err)
		}
	}
	mustTake(t, b, "k", "a")
	rs, err := b.List(t.Context(), "")
	if err != nil || len(rs) != 1 || rs[0].Key != "k" || rs[0].Holder.Host != "host-a" {
		t.Errorf("listed %v, %v", rs, err)
	}
	kvs, err := b.ListValues(t.Context(), "")
	if err != nil || len(kvs) != 0 {
		t.Errorf("values %v, %v", kvs, err)
	}
}

// What a store lacks is not claimed.
func TestCapabilitiesOfTheStores(t *testing.T) {
	type bare struct {
		backend.Backend
		backend.Lister
		backend.TokenRaiser
		backend.ValueStore
	}
	full := memlock.New().Client()
	some := bare{full, full, full, full}
	for p, want := range map[migrate.Phase]int{migrate.PhaseOld: 3, migrate.PhaseBoth: 3, migrate.PhaseNew: 7} {
		b, err := migrate.New(some, memlock.New().Client(), &migrate.Options{Name: "sweeps", Phase: p})
		if err != nil {
			t.Fatal(err)
		}
		if caps := backend.Capabilities(b); len(caps) != want {
			t.Errorf("phase %s: %v", p, caps)
		}
	}
	if _, err := migrate.New(struct{ backend.Backend }{full}, full, &migrate.Options{Name: "x", Phase: migrate.PhaseOld}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("a store that cannot take part: %v", err)
	}
	for _, name := range []string{"", "a b", "a/b", strings.Repeat("n", 25)} {
		if _, err := migrate.New(full, full, &migrate.Options{Name: name}); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

// A TTL that is longer than the migration admits is refused for good, and nothing is held.
func TestLongTTL(t *testing.T) {
	l := begun(t, migrate.StageBoth) // of a minute
	c := claim("slow")
	c.TTL = time.Minute + time.Millisecond
	_, err := l.client(migrate.PhaseBoth).Acquire(t.Context(), "k", c)
	if !errors.Is(err, migrate.ErrPhase) || errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "1m0.001s") || !strings.Contains(err.Error(), "--max-ttl") {
		t.Fatalf("got %v", err)
	}
	c.ID, c.TTL = claim("").ID, time.Minute
	g, err := l.client(migrate.PhaseBoth).Acquire(t.Context(), "k", c)
	if err != nil {
		t.Fatal(err)
	}
	mustRelease(t, l.client(migrate.PhaseBoth), g)
}
