package cli

import (
	"fmt"

	"github.com/hasplock/hasp/backend"
)

// diagnosis is what doctor has found. As text a finding is shown when it is known, so that
// one sees where it hangs.
type diagnosis struct {
	a      *app
	shown  diagnosisJSON
	counts map[backend.Level]int
	err    error // of writing
}

type diagnosisJSON struct {
	Store    string        `json:"store"`
	OK       int           `json:"ok"`
	Warnings int           `json:"warnings"`
	Problems int           `json:"problems"`
	Findings []findingJSON `json:"findings"`
}

// findingJSON is a finding as -o json shows it. Every key is always there.
type findingJSON struct {
	Check   string `json:"check"`
	Level   string `json:"level"` // ok, warning or problem
	Subject string `json:"subject"`
	Seen    string `json:"seen"`
	Advice  string `json:"advice"`
}

func newDiagnosis(a *app, store string) *diagnosis {
	return &diagnosis{a: a, shown: diagnosisJSON{Store: store, Findings: []findingJSON{}}, counts: map[backend.Level]int{}}
}

const findingLine = "%-7s  %-16s  %s"

func (d *diagnosis) add(f backend.Finding) {
	d.counts[f.Level]++
	d.shown.Findings = append(d.shown.Findings, findingJSON{f.ID, string(f.Level), f.Subject, f.Seen, f.Advice})
	if d.a.json() {
		return
	}
	if len(d.shown.Findings) == 1 {
		d.line(findingLine, "LEVEL", "CHECK", "SEEN")
	}
	seen := f.Seen
	if f.Subject != "" {
		seen = f.Subject + ": " + seen
	}
	d.line(findingLine, f.Level, f.ID, seen)
	if f.Advice != "" {
		d.line(findingLine, "", "  what to do:", f.Advice)
	}
}

func (d *diagnosis) line(format string, args ...any) {
	if d.err == nil {
		d.err = writeLine(d.a.stdout, fmt.Sprintf(format, args...))
	}
}

// finish shows the whole.
func (d *diagnosis) finish() error {
	s := &d.shown
	s.OK, s.Warnings, s.Problems = d.counts[backend.LevelOK], d.counts[backend.LevelWarning], d.counts[backend.LevelProblem]
	if d.a.json() {
		return writeJSON(d.a.stdout, s)
	}
	d.line("%s: %d ok, %s, %s", s.Store, s.OK, plural(s.Warnings, "warning"), plural(s.Problems, "problem"))
	return d.err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
