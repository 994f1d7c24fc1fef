//go:build unix

package conformance

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A mutant is a store with one defect, and the rule that names the defect.
type mutant struct {
	name string
	rule string
	// on is set where the defect would otherwise make nearly everything fail: it
	// shows only with keys of that rule then.
	on string
	// also are other rules that cannot but notice the same defect.
	also []string
	// file is the name of a defect of the store that processes share.
	file string
}

func (m mutant) config(t *testing.T) Config {
	if m.file != "" {
		cfg := fileConfig(t.TempDir(), m.file)
		cfg.Name, cfg.brief = m.name, true
		for _, r := range Rules() {
			if !r.procs {
				cfg.Lacks[r.ID] = "the defect is between processes"
			}
		}
		return cfg
	}
	cfg := labConfig(newLab(m.name, m.on))
	if strings.HasPrefix(m.rule, "value-") {
		for _, r := range Rules() {
			if !strings.HasPrefix(r.ID, "value-") {
				cfg.Lacks[r.ID] = "the defect is in the verbs about values, which no other rule uses"
			}
		}
	}
	return cfg
}

func labConfig(s *lab) Config {
	return Config{
		Name: s.mut, MinTTL: 250 * time.Millisecond, Slack: 700 * time.Millisecond, Fair: true, brief: true,
		Open:  func(context.Context) (backend.Backend, error) { return s.client(), nil },
		Lacks: map[string]string{Processes: "memory of one process"},
		Skew: func(_ context.Context, by time.Duration) (backend.Backend, error) {
			c := s.client()
			c.skew = by
			return c, nil
		},
		Partition: func(_ context.Context, b backend.Backend) (func() error, error) { return b.(*labClient).cut(), nil },
		Restart:   func(context.Context) error { s.restart(); return nil },
		Wipe:      func(context.Context) error { s.wipe(); return nil },
		Leftovers: func(context.Context) ([]string, error) { return s.leftovers(), nil },
	}
}

// surprises tells whether other rules failed than should.
func (m mutant) surprises(rep Report) bool {
	expected := false
	for _, res := range rep.Results {
		if res.Outcome != Failed {
			continue
		}
		if res.Rule != m.rule && !slices.Contains(m.also, res.Rule) {
			return true
		}
		expected = expected || res.Rule == m.rule
	}
	return !expected
}

// What the mutants are made of keeps every rule.
func TestLab(t *testing.T) { Run(t, labConfig(newLab("", ""))) }

// A store may grant less at first to those who waited.
func TestLabWithShortGrants(t *testing.T) {
	s := newLab("", "")
	s.shorts = true
	Run(t, labConfig(s))
}

// A store may know nothing any more of a holder whose TTL is over.
func TestLabThatForgets(t *testing.T) {
	t.Parallel()
	s := newLab("", "")
	s.forgets = true
	Run(t, labConfig(s))
}

// A store may find out at intervals who is stale, within its slack.
func TestLabThatSweeps(t *testing.T) {
	t.Parallel()
	s := newLab("", "")
	s.sweeps = true
	go s.sweep(t.Context())
	Run(t, labConfig(s))
}

// Each mutant fails the rule that names its defect, and none but those that are
// known to notice it too. Each rule is failed by a mutant: one that nothing can
// fail would prove nothing.
func TestMutants(t *testing.T) {
	reports := make([]Report, len(mutants))
	limit := make(chan struct{}, 96) // they wait nearly all the time
	var wg sync.WaitGroup
	only := os.Getenv("HASP_MUTANT") // an expression for names or rules, to look at some alone
	wanted, err := regexp.Compile(only)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range mutants {
		if !wanted.MatchString(m.name) && !wanted.MatchString(m.rule) {
			continue
		}
		limit <- struct{}{}
		cfg := m.config(t)
		wg.Go(func() {
			defer func() { <-limit }()
			var err error
			if reports[i], err = Check(t.Context(), cfg); len(reports[i].Results) == 0 {
				t.Errorf("%s: %v", m.name, err)
			}
		})
	}
	wg.Wait()
	// A defect shows each time; what a machine does that stands still while so
	// many suites run on it does not. So a mutant with a surprise is looked at
	// again, with few beside it.
	few := make(chan struct{}, 8)
	for i, m := range mutants {
		wg.Go(func() {
			few <- struct{}{}
			defer func() { <-few }()
			for try := 0; try < 2 && len(reports[i].Results) > 0 && m.surprises(reports[i]); try++ {
				var err error
				if reports[i], err = Check(t.Context(), m.config(t)); err != nil && len(reports[i].Results) == 0 {
					t.Errorf("%s: %v", m.name, err)
				}
			}
		})
	}
	wg.Wait()
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "MUTANT\tRULE EXPECTED\tRULES FAILED\tTIME")
	caught := map[string]bool{}
	for i, m := range mutants {
		rep := reports[i]
		if len(rep.Results) == 0 {
			continue
		}
		var failed []string
		for _, res := range rep.Results {
			if res.Outcome != Failed {
				continue
			}
			failed = append(failed, res.Rule)
			caught[res.Rule] = true
			if res.Rule != m.rule && !slices.Contains(m.also, res.Rule) {
				t.Errorf("mutant %q also failed %s", m.name, res)
			}
		}
		if !slices.Contains(failed, m.rule) {
			t.Errorf("mutant %q did not fail %s", m.name, m.rule)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", m.name, m.rule, strings.Join(failed, ", "), backend.Round(rep.Duration))
	}
	if err := tw.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
	if only != "" {
		return
	}
	for _, r := range Rules() {
		// One that only comes along with another may have been undecided.
		for i := 0; i < len(mutants) && !caught[r.ID]; i++ {
			if !slices.Contains(mutants[i].also, r.ID) {
				continue
			}
			rep, _ := Check(t.Context(), mutants[i].config(t)) // its error is that rules fail
			for _, res := range rep.Results {
				caught[res.Rule] = caught[res.Rule] || res.Outcome == Failed
			}
		}
		if !caught[r.ID] {
			t.Errorf("no mutant fails %s", r.ID)
		}
	}
}
