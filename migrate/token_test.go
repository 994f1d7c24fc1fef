package migrate_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// skewed is a client of a store whose clock is wrong by that much: tokens show it.
type skewed struct {
	*memlock.Client
	by time.Duration
}

func (s skewed) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	c.TokenFloor = max(c.TokenFloor, uint64(time.Now().Add(s.by).UnixMicro()-1))
	return s.Client.Acquire(ctx, key, c)
}

// apart is a process of phase p whose stores' clocks are that far ahead.
func (l *lab) apart(p migrate.Phase, old, new time.Duration) *migrate.Backend {
	l.t.Helper()
	b, err := migrate.New(skewed{l.old.Client(), old}, skewed{l.new.Client(), new}, &migrate.Options{Name: "sweeps", Phase: p})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = b.Close() })
	return b
}

// Tokens rise through every phase, there and back, with clocks half an hour apart: for
// keys that everybody uses, for those that no process of phase both ever takes, and for
// those that are taken at some stages only.
func TestTokensRise(t *testing.T) {
	for _, skew := range []time.Duration{-30 * time.Minute, 0, 30 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			op := l.apart("", 0, skew)
			if _, err := op.Start(t.Context(), &migrate.StartOptions{MaxTTL: time.Minute}); err != nil {
				t.Fatal(err)
			}
			bs := map[migrate.Phase]*migrate.Backend{}
			for _, p := range phases {
				bs[p] = l.apart(p, 0, skew)
			}
			last := map[string]uint64{}
			n := 0
			use := func(stage migrate.Stage, key string, p migrate.Phase) {
				if !stage.Admits(p) {
					return
				}
				for range 3 {
					n++
					time.Sleep(time.Duration(n%7) * time.Millisecond)
					g := mustTake(t, bs[p], key, string(p))
					if g.Token <= last[key] {
						t.Fatalf("skew %v, %s, phase %s: token %d of %q after %d", skew, stage, p, g.Token, key, last[key])
					}
					last[key] = g.Token
					mustRelease(t, bs[p], g)
				}
			}
			at := func(stage migrate.Stage) {
				for _, p := range []migrate.Phase{migrate.PhaseBoth, migrate.PhaseOld, migrate.PhaseNew, migrate.PhaseBoth, migrate.PhaseOld} {
					use(stage, "all", p)
				}
				use(stage, "ends", migrate.PhaseOld)
				use(stage, "ends", migrate.PhaseNew)
				if stage == migrate.StageBoth {
					use(stage, "middle", migrate.PhaseBoth)
				} else {
					use(stage, "middle", migrate.PhaseOld)
					use(stage, "middle", migrate.PhaseNew)
				}
				if stage == migrate.StageOld || stage == migrate.StageNew || stage == migrate.StageBothNew {
					use(stage, "some", migrate.PhaseOld)
					use(stage, "some", migrate.PhaseBoth)
					use(stage, "some", migrate.PhaseNew)
				}
			}
			for range 2 {
				for i, stage := range stages {
					if i > 0 {
						mustStep(t, op.Advance, stage)
					}
					at(stage)
				}
				for i := len(stages) - 2; i >= 0; i-- {
					mustStep(t, op.Back, stages[i])
					at(stages[i])
				}
			}
		})
	}
}

// One of phase both, which has learned nothing yet of the new store's clock, and then one
// of phase old.
func TestOldAfterOneOfBoth(t *testing.T) {
	l := begun(t, migrate.StageOldBoth)
	both, old := l.apart(migrate.PhaseBoth, 0, 30*time.Minute), l.apart(migrate.PhaseOld, 0, 0)
	g := mustTake(t, both, "k", "both")
	mustRelease(t, both, g)
	if next := mustTake(t, old, "k", "old"); next.Token <= g.Token {
		t.Errorf("token %d after %d", next.Token, g.Token)
	}
}

// A token that was raised by hand counts from before a step to after it.
func TestRaisedTokens(t *testing.T) {
	l := begun(t, migrate.StageOld)
	op := l.operator()
	high := uint64(time.Now().Add(365 * 24 * time.Hour).UnixMicro())
	if err := l.client(migrate.PhaseOld).RaiseToken(t.Context(), "k", high); err != nil {
		t.Fatal(err)
	}
	for _, to := range stages[1:] {
		mustStep(t, op.Advance, to)
		for _, p := range phases {
			if to.Admits(p) {
				g := mustTake(t, l.client(p), "k", "a")
				if g.Token <= high {
					t.Errorf("%s at %s: token %d after %d", p, to, g.Token, high)
				}
				high = g.Token
				mustRelease(t, l.client(p), backend.Grant{Key: "k", ID: g.ID, Holder: g.Holder})
			}
		}
	}
}

// Who is overtaken between the old store's grant and the raise hands out nothing: its
// token would exceed that of the one who overtook it.
func TestRaiseThatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageOldBoth)
		slow, fast := l.apart(migrate.PhaseBoth, 0, 30*time.Minute), l.apart(migrate.PhaseOld, 0, 0)
		l.old.Inject(memlock.OpRaiseToken, "k", memlock.Fault{Delay: 11 * time.Second}) // its TTL is 10 s
		done := make(chan error)
		go func() {
			_, err := slow.Acquire(context.Background(), "k", claim("slow"))
			done <- err
		}()
		time.Sleep(10500 * time.Millisecond)
		g := mustTake(t, fast, "k", "fast")
		if err := <-done; !isUnknown(err) {
			t.Errorf("the one that was overtaken got %v", err)
		}
		if _, err := fast.Renew(t.Context(), g); err != nil {
			t.Error(err)
		}
		mustState(t, l.new, "k", backend.Free)
	})
}

// Only the first Acquire raises, wherever the clocks are.
func TestRaisesAreRare(t *testing.T) {
	for _, skew := range []time.Duration{-30 * time.Minute, 0, 30 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			l := begun(t, migrate.StageBoth)
			b := l.apart(migrate.PhaseBoth, 0, skew)
			for range 100 {
				g := mustTake(t, b, "k", "a")
				synctest.Wait() // for what it learns beside
				mustRelease(t, b, g)
				time.Sleep(time.Second)
			}
			if n := l.old.Count(memlock.OpRaiseToken) + l.new.Count(memlock.OpRaiseToken); n > 1 {
				t.Errorf("skew %v: %d raises in 100 acquisitions", skew, n)
			}
		})
	}
}
