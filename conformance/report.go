package conformance

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/hasplock/hasp/backend"
)

// Outcome of a rule.
type Outcome string

// The outcomes. Lacking and NotJudged always come with a reason.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Lacking Outcome = "lacking" // the backend, or the Config, has not what the rule is about
	// NotJudged is what fails, or cannot be tried, for a reason that is another rule's.
	NotJudged Outcome = "not judged"
)

// Result is what became of one rule.
type Result struct {
	Rule      string        `json:"rule"`
	Statement string        `json:"statement"`
	Outcome   Outcome       `json:"outcome"`
	Reason    string        `json:"reason,omitempty"` // lacking and not judged: why
	Seen      []string      `json:"seen,omitempty"`   // failed: what was seen
	Notes     []string      `json:"notes,omitempty"`  // what was measured
	Duration  time.Duration `json:"duration_ns"`
	Dump      string        `json:"dump,omitempty"` // the rule's goroutines, if it hung

	restsOn string // the rule that seems to be what failed
	untried bool   // because it was
	settled bool
}

// String is one line: `token-rises: got 3 after 5: tokens never ...`.
func (r Result) String() string {
	switch r.Outcome {
	case Failed:
		return fmt.Sprintf("%s: %s: %s", r.Rule, backend.Printable(strings.Join(r.Seen, "; ")), r.Statement)
	case Lacking, NotJudged:
		return fmt.Sprintf("%s: %s: %s", r.Rule, r.Outcome, backend.Printable(r.Reason))
	}
	return r.Rule + ": passed"
}

// Report is the outcome of a run. It marshals to JSON.
type Report struct {
	Name         string               `json:"name"`
	Started      time.Time            `json:"started"`
	Duration     time.Duration        `json:"duration_ns"`
	MinTTL       time.Duration        `json:"min_ttl_ns"`
	Slack        time.Duration        `json:"slack_ns"`
	Capabilities []backend.Capability `json:"capabilities"`
	Results      []Result             `json:"results"`
	// Origin is the clock's reading, in nanoseconds, when the run began; those in
	// Holds and Faults are of the same clock.
	Origin int64   `json:"origin_ns"`
	Holds  []Hold  `json:"holds"`
	Faults []Fault `json:"faults"`
}

// Count returns how many rules had that outcome.
func (r Report) Count(o Outcome) int {
	n := 0
	for _, res := range r.Results {
		if res.Outcome == o {
			n++
		}
	}
	return n
}

// Err joins the failures, or is nil.
func (r Report) Err() error {
	var errs *multierror.Error
	for _, res := range r.Results {
		if res.Outcome == Failed {
			errs = multierror.Append(errs, fmt.Errorf("%s", res))
		}
	}
	return errs.ErrorOrNil()
}

// printable is r with everything that a store, or whoever named it, may have said
// fit to be shown. JSON has it as it was.
func (r Report) printable() Report {
	each := func(ss []string) []string {
		out := make([]string, len(ss))
		for i, s := range ss {
			out[i] = backend.Printable(strings.ReplaceAll(s, "\n", " "))
		}
		return out
	}
	r.Name = backend.Printable(r.Name)
	r.Results, r.Holds, r.Faults = slices.Clone(r.Results), slices.Clone(r.Holds), slices.Clone(r.Faults)
	for i := range r.Results {
		res := &r.Results[i]
		res.Reason, res.Seen, res.Notes = backend.Printable(res.Reason), each(res.Seen), each(res.Notes)
		res.Dump = strings.Join(each(strings.Split(res.Dump, "\n")), "\n")
	}
	for i := range r.Holds {
		h := &r.Holds[i]
		h.Who, h.End = backend.Printable(h.Who), backend.Printable(h.End)
	}
	for i := range r.Faults {
		f := &r.Faults[i]
		f.Who, f.What = backend.Printable(f.Who), backend.Printable(f.What)
	}
	return r
}

// Summary is one line of counts.
func (r Report) Summary() string {
	unjudged := ""
	if n := r.Count(NotJudged); n > 0 {
		unjudged = fmt.Sprintf("%d not judged, ", n)
	}
	return fmt.Sprintf("%s: %d rules: %d passed, %d failed, %s%d lacking, in %s",
		backend.Printable(r.Name), len(r.Results), r.Count(Passed), r.Count(Failed), unjudged, r.Count(Lacking), backend.Round(r.Duration))
}

// WriteTable writes one line a rule and a line of counts.
func (r Report) WriteTable(w io.Writer) error {
	r = r.printable()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "RULE\tOUTCOME\tTIME\tWHAT")
	for _, res := range r.Results {
		what := strings.Join(res.Notes, "; ")
		switch res.Outcome {
		case Failed:
			what = strings.Join(res.Seen, "; ")
		case Lacking, NotJudged:
			what = res.Reason
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", res.Rule, res.Outcome, backend.Round(res.Duration), oneLine(what))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

// WriteMatrix writes the rules against several backends, and below it the
// reason of everything that is lacking.
func WriteMatrix(w io.Writer, reports ...Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{"RULE"}
	outcomes := map[string][]Outcome{}
	reasons := map[string][]string{}
	for i, r := range reports {
		r = r.printable()
		head = append(head, r.Name)
		for _, res := range r.Results {
			row := outcomes[res.Rule]
			if row == nil {
				row = make([]Outcome, len(reports))
			}
			row[i] = res.Outcome
			outcomes[res.Rule] = row
			if res.Outcome == Lacking {
				line := r.Name + ": " + res.Reason
				reasons[line] = append(reasons[line], res.Rule)
			}
		}
	}
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, rule := range Rules() {
		row, ok := outcomes[rule.ID]
		if !ok {
			continue
		}
		cells := []string{rule.ID}
		for _, o := range row {
			cells = append(cells, string(cmp.Or(o, "not run")))
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	lines := make([]string, 0, len(reasons))
	for line := range reasons {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "lacking: %s (%s)\n", line, strings.Join(reasons[line], ", ")); err != nil {
			return err
		}
	}
	return nil
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 160 {
		s = string(r[:159]) + "…"
	}
	return s
}
