//go:build unix

package conformance

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// crowded panics when many attempts are made at a time.
type crowded struct {
	*memlock.Client
	now  *atomic.Int64
	most int64
}

func (c crowded) Acquire(ctx context.Context, key string, cl backend.Claim) (backend.Grant, error) {
	defer c.now.Add(-1)
	if c.now.Add(1) >= c.most {
		panic("too many")
	}
	time.Sleep(time.Millisecond)
	return c.Client.Acquire(ctx, key, cl)
}

// A panic in a goroutine of a rule's, or of the engine's, fails the rule, and the suite
// goes on.
func TestPanicOfMany(t *testing.T) {
	store, now := memlock.New(), &atomic.Int64{}
	cfg := Config{
		Name: "crowded", MinTTL: 250 * time.Millisecond, brief: true,
		Open:  func(context.Context) (backend.Backend, error) { return crowded{store.Client(), now, 3}, nil },
		Lacks: map[string]string{Processes: "memory of one process"},
	}
	tried := map[string]bool{"answers": true, "error-definite": true, "no-lost-update": true, "client-concurrent": true, "inspect-fresh": true}
	for _, r := range Rules() {
		if !tried[r.ID] {
			cfg.Lacks[r.ID] = "the others say it"
		}
	}
	rep, err := Check(t.Context(), cfg)
	if err == nil {
		t.Error("nothing failed")
	}
	for _, res := range rep.Results {
		switch res.Rule {
		case "no-lost-update", "client-concurrent":
			if res.Outcome != Failed || !strings.Contains(strings.Join(res.Seen, "\n"), "panicked: too many, in conformance.crowded.Acquire") {
				t.Errorf("%s: %v, %q", res.Rule, res.Outcome, res.Seen)
			}
		case "inspect-fresh":
			if res.Outcome != Passed {
				t.Errorf("%s: %v, %q", res.Rule, res.Outcome, res.Seen)
			}
		}
	}
}
