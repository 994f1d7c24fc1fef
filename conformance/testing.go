package conformance

import (
	"flag"
	"regexp"
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
	s.start(selected(t))
	for _, r := range s.rules {
		t.Run(r.ID, func(t *testing.T) {
			select {
			case <-s.done[r.ID]:
			case <-s.ended:
			}
			s.mu.Lock()
			res := s.res[r.ID]
			s.mu.Unlock()
			if res == nil {
				t.Skip("not selected by -run")
			}
			for _, n := range res.Notes {
				t.Log(n)
			}
			if res.Outcome == Failed { // or only rests on one that did, which the end shows
				<-s.ended
				s.mu.Lock()
				s.settle(res)
				s.mu.Unlock()
			}
			switch res.Outcome {
			case Failed:
				t.Error(res.String())
				if res.Dump != "" {
					t.Log(res.Dump)
				}
			case Lacking:
				t.Skip("lacking: " + res.Reason)
			}
		})
	}
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

// selected returns which rules -run asks for, nil for all of them.
func selected(t *testing.T) func(Rule) bool {
	f := flag.Lookup("test.run")
	if f == nil {
		return nil
	}
	parts := strings.Split(f.Value.String(), "/")
	depth := strings.Count(t.Name(), "/") + 1
	if len(parts) <= depth {
		return nil
	}
	re, err := regexp.Compile(parts[depth])
	if err != nil {
		return nil
	}
	return func(r Rule) bool { return re.MatchString(r.ID) }
}
