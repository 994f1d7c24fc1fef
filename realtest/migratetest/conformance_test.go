package migratetest

import (
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/migrate"
)

// The suite on every ordered pair of stores in phase both, and in phases old and new,
// where one store does most of it, on the pair that most fleets have. HASP_MIGRATE=all
// runs it on every pair in every phase.
func TestConformance(t *testing.T) {
	l := start(t)
	all := os.Getenv("HASP_MIGRATE") == "all"
	t.Run("pairs", func(t *testing.T) {
		for _, old := range kinds {
			for _, new := range kinds {
				if old == new {
					continue
				}
				for _, c := range []struct {
					phase migrate.Phase
					stage migrate.Stage
				}{{migrate.PhaseOld, migrate.StageOldBoth}, {migrate.PhaseBoth, migrate.StageBoth}, {migrate.PhaseNew, migrate.StageBothNew}} {
					if !all && c.phase != migrate.PhaseBoth && (old.name != "efs" || new.name != "redis") {
						continue
					}
					t.Run(fmt.Sprintf("%s to %s, %s", old.name, new.name, c.phase), func(t *testing.T) {
						t.Parallel()
						conform(t, l, old, new, c.phase, c.stage)
					})
				}
			}
		}
	})
}

func conform(t *testing.T, l *lab, old, new *kind, phase migrate.Phase, stage migrate.Stage) {
	part := fmt.Sprintf("%s-%s-%s", old.name, new.name, phase)
	o, n := l.store(t, old, part+"-old"), l.store(t, new, part+"-new")
	const longest = 1000 * 24 * time.Hour
	if err := begin(o.url, n.url, stage, longest); err != nil {
		t.Fatal(err)
	}
	takes := map[migrate.Phase][]*kind{migrate.PhaseOld: {old}, migrate.PhaseBoth: {old, new}, migrate.PhaseNew: {new}}[phase]
	cfg := conformance.Config{
		Name:  "migrate " + part,
		URL:   migrate.URL("sweeps", phase, o.url, n.url),
		Lacks: map[string]string{},
	}
	if phase == migrate.PhaseBoth { // up to seven requests, and each store's TTL begins with its own
		cfg.MinTTL, cfg.Slack = 2*time.Second, 3*time.Second
	}
	for _, k := range takes {
		cfg.MinTTL, cfg.Slack = max(cfg.MinTTL, k.minTTL), max(cfg.Slack, k.slack)
		maps.Copy(cfg.Lacks, k.lacks)
	}
	for _, k := range []*kind{old, new} { // other processes look into both
		if why, ok := k.lacks[conformance.Processes]; ok {
			cfg.Lacks[conformance.Processes] = why
		}
	}
	conformance.Run(t, cfg)
}
