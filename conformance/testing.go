package conformance

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Run tries every rule on a backend, each as a subtest of t named by its id, and
// prints the table of results. The report is for those who want to show several
// backends side by side (WriteMatrix).
//
// Rules run beside each other as far as they do not disturb each other, however
// many processors there are: most of them wait for something to expire. With
// -run t/rule only that rule runs.
func Run(t *testing.T, cfg Config) Report {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = t.Name()
	}
	s, err := newSuite(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Each in a subtest of its own while it runs, so that its time is its own and what
	// failed is told then. They do not call t.Parallel: how many may is not a question
	// of processors.
	s.start(func(r *Rule, try func()) {
		t.Run(r.ID, func(t *testing.T) {
			try()
			s.mu.Lock()
			res := *s.res[r.ID]
			s.mu.Unlock()
			for _, n := range res.Notes {
				t.Log(n)
			}
			switch res.Outcome {
			case Failed:
				if !testing.Verbose() { // else it is shown now
					fmt.Fprintf(os.Stderr, "%s/%s\n", cfg.Name, res)
				}
				t.Error(res.String())
				if res.Dump != "" {
					t.Log(res.Dump)
				}
			case Lacking, NotJudged:
				t.Skip(string(res.Outcome) + ": " + res.Reason)
			}
		})
	})
	rep := s.finish()
	var b strings.Builder
	if err := rep.WriteTable(&b); err != nil {
		t.Error(err)
	}
	t.Log("\n" + b.String())
	if err := rep.save(); err != nil {
		t.Error(err)
	}
	return rep
}
