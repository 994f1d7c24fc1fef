//go:build unix

package conformance

import (
	"testing"
	"time"
)

// A failure is settled when all is known that it may come of, also what only the trial
// of a rule between has found that it rests on.
func TestSettledWhenAllIsKnown(t *testing.T) {
	settled := make(chan struct{})
	cfg := labConfig(newLab("", ""))
	cfg.Progress = func(_, _ int, res Result) {
		if res.Rule == "above" {
			close(settled)
		}
	}
	s, err := newSuite(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	fails := func(x *trial) { x.failf("it does not hold") }
	s.rules = []Rule{
		{ID: "answers", phase: first, run: func(*trial) {}},
		{ID: "error-definite", phase: first, run: func(*trial) {}},
		{ID: "above", phase: quiet, rests: []string{"between"}, run: fails},
		{ID: "between", phase: quiet, run: func(x *trial) { x.restf("below", "it does not hold") }},
		{ID: "below", phase: last, run: func(x *trial) {
			select {
			case <-settled: // too early
			case <-time.After(100 * time.Millisecond): // is enough to fail, at times
			}
			fails(x)
		}},
	}
	s.done = map[string]chan struct{}{}
	for _, r := range s.rules {
		s.done[r.ID] = make(chan struct{})
	}
	s.start(nil)
	want := map[string]Outcome{"answers": Passed, "error-definite": Passed, "above": NotJudged, "between": NotJudged, "below": Failed}
	for _, res := range s.finish().Results {
		if res.Outcome != want[res.Rule] {
			t.Errorf("%s: %v and not %v", res.Rule, res.Outcome, want[res.Rule])
		}
	}
}
