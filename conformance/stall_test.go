//go:build unix

package conformance

import (
	"testing"
	"time"
)

// Who is the first to run after a stall knows of it, though it has not been noted yet.
func TestStallGoingOn(t *testing.T) {
	now := time.Now()
	s := &stalls{prev: now.Add(-time.Second)}
	if got := s.since(now.Add(-time.Minute)); got < 900*time.Millisecond {
		t.Errorf("nothing has run for a second, and stalls are %v", got)
	}
	if got := s.since(now.Add(time.Minute)); got != 0 {
		t.Errorf("from a minute from now on stalls are %v", got)
	}
	s.over = true
	if got := s.since(now.Add(-time.Minute)); got != 0 {
		t.Errorf("after the run stalls are %v", got)
	}
}

func stalledTrial(t *testing.T, long time.Duration) *trial {
	cfg := labConfig(newLab("", ""))
	cfg.Slack = 50 * time.Millisecond
	s := &suite{ctx: t.Context(), cfg: cfg, stalls: &stalls{prev: time.Now(), over: true}}
	if long > 0 {
		s.stalls.seen = []stall{{time.Now().Add(time.Hour), long}} // whenever one asks
	}
	now := time.Now()
	return &trial{s: s, cfg: &s.cfg, ctx: t.Context(), scale: 1, start: now, wall: now.Round(0)}
}

// A single attempt after the TTL and the slack comes later by what the machine stood still.
func TestOutliveAddsStalls(t *testing.T) {
	for _, long := range []time.Duration{0, 100 * time.Millisecond} {
		x := stalledTrial(t, long)
		begun := time.Now()
		x.outlive(silent{asked: begun, answered: begun})
		if took, want := time.Since(begun), x.cfg.Slack+2*long; took < want {
			t.Errorf("with a stall of %v it took %v, and the store may take %v", long, took, want)
		}
	}
}

// What is ready when the time is up was in time, and a stall adds to the time.
func TestAwait(t *testing.T) {
	ready := make(chan struct{})
	close(ready)
	for range 100 {
		if _, ok := await(stalledTrial(t, 0), ready, 0); !ok {
			t.Fatal("what was ready was not taken")
		}
	}
	begun := time.Now()
	if _, ok := await(stalledTrial(t, 100*time.Millisecond), make(chan struct{}), 0); ok || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("%v, after %v", ok, time.Since(begun))
	}
	x := stalledTrial(t, 100*time.Millisecond)
	begun = time.Now()
	ctx, cancel := x.within(0)
	defer cancel()
	<-ctx.Done()
	if took := time.Since(begun); took < 200*time.Millisecond {
		t.Errorf("the context ended after %v", took)
	}
}

// Where this host's clock was set, what rests on another rule is tried again; and what a rule
// itself says stands.
func TestRestsOnAClockThatWasSet(t *testing.T) {
	for _, set := range []time.Duration{0, 61 * time.Millisecond, -time.Hour} {
		for _, own := range []bool{false, true} {
			x := stalledTrial(t, 0)
			x.wall = x.wall.Add(-set)
			x.rule = &Rule{ID: "renew-after-stale-successor"}
			on := "stale-again"
			if own {
				on = x.rule.ID
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				x.restf(on, "it is held")
			}()
			<-done
			if again := x.undecided != ""; again != (set != 0 && !own) || len(x.seen) > 0 != own || x.blockedBy != "" != (set == 0 && !own) {
				t.Errorf("set by %v, own %v: undecided %q, seen %q, blocked by %q", set, own, x.undecided, x.seen, x.blockedBy)
			}
		}
	}
}
