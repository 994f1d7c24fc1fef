package migrate_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// longest is what the suite's longest TTL needs.
const longest = 1000 * 24 * time.Hour

var mu sync.Mutex // of the maps of clients

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		phase migrate.Phase
		stage migrate.Stage
	}{
		{migrate.PhaseOld, migrate.StageOld}, {migrate.PhaseOld, migrate.StageOldBoth},
		{migrate.PhaseBoth, migrate.StageOldBoth}, {migrate.PhaseBoth, migrate.StageBoth}, {migrate.PhaseBoth, migrate.StageBothNew},
		{migrate.PhaseNew, migrate.StageBothNew}, {migrate.PhaseNew, migrate.StageNew},
	} {
		t.Run(string(c.phase)+" at "+string(c.stage), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if err := l.begin(c.stage, longest); err != nil {
				t.Fatal(err)
			}
			type clients struct{ old, new *memlock.Client }
			inner := map[backend.Backend]clients{}
			conformance.Run(t, conformance.Config{
				Name: "migrate, " + string(c.phase),
				Open: func(context.Context) (backend.Backend, error) {
					cs := clients{l.old.Client(), l.new.Client()}
					b, err := migrate.New(cs.old, cs.new, &migrate.Options{Name: "sweeps", Phase: c.phase})
					mu.Lock()
					defer mu.Unlock()
					inner[b] = cs
					return b, err
				},
				MinTTL: 500 * time.Millisecond,
				Lacks:  map[string]string{conformance.Processes: "memory of one process"},
				Partition: func(_ context.Context, b backend.Backend) (func() error, error) {
					mu.Lock()
					defer mu.Unlock()
					cut := func(on bool) { inner[b].old.Partition(on); inner[b].new.Partition(on) }
					cut(true)
					return func() error { mu.Lock(); defer mu.Unlock(); cut(false); return nil }, nil
				},
				// whoever wipes both stores has to begin again
				Wipe: func(context.Context) error { l.old.Wipe(); l.new.Wipe(); return l.begin(c.stage, longest) },
			})
		})
	}
}
