package torture

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// wrong says what a run has shown that must not be; empty if nothing.
func (r result) wrong() string {
	var out []string
	few := func(what string, of []string) {
		if len(of) > 0 {
			out = append(out, fmt.Sprintf("%d %s:\n\t%s", len(of), what, strings.Join(of[:min(len(of), 5)], "\n\t")))
		}
	}
	var overlaps []string
	for _, o := range r.overlaps {
		overlaps = append(overlaps, o.String())
	}
	few("overlaps", overlaps)
	var disorder []string
	for _, d := range r.disorder {
		disorder = append(disorder, d.String())
	}
	few("tokens out of order", disorder)
	few("errors that no fault explains", r.strange)
	few("keys that could not be had after the faults", r.slow)
	few("things left", r.left)
	if r.entries == 0 {
		out = append(out, "nobody got in")
	}
	return strings.Join(out, "\n")
}

// printTable writes a table, a column a store.
func printTable(out io.Writer, rs []result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	table(rs, func(cells []string) { fmt.Fprintln(w, strings.Join(cells, "\t")) })
	w.Flush()
}

// report puts the table into a page in Markdown, between its marks.
func report(file string, rs []result) error {
	const begin, end = "<!-- torture -->\n", "<!-- end of torture -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for it, between %q and %q", file, begin, end)
	}
	var out strings.Builder
	first := true
	table(rs, func(cells []string) {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
		if first {
			fmt.Fprintln(&out, strings.Repeat("| --- ", len(cells))+"|")
			first = false
		}
	})
	return os.WriteFile(file, []byte(before+begin+"\n"+out.String()+"\n"+end+after), 0o644)
}

// table makes the rows.
func table(rs []result, write func(cells []string)) {
	row := func(name string, cell func(result) any) {
		cells := []string{name}
		for _, r := range rs {
			cells = append(cells, fmt.Sprint(cell(r)))
		}
		write(cells)
	}
	row("", func(r result) any { return r.store })
	row("seed", func(r result) any { return r.seed })
	row("faults for", func(r result) any { return r.spell })
	row("acquisitions", func(r result) any { return r.entries })
	row("of these by hasp run", func(r result) any { return r.commands })
	row("takeovers", func(r result) any { return r.takeovers })
	for _, f := range weights {
		row("fault: "+string(f.kind), func(r result) any { return r.faults[f.kind] })
	}
	row("grants and renewals by a primary that had a successor", func(r result) any { return r.rebels })
	row("overlaps", func(r result) any { return len(r.overlaps) })
	row("overlaps after a failover that lost what one of the two had", func(r result) any { return len(r.excused) })
	row("tokens out of order", func(r result) any { return len(r.disorder) })
	row("tokens refused, of one of two after such a failover", func(r result) any { return len(r.beaten) })
	row("tokens refused, of holders too late", func(r result) any { return r.late })
	kinds := map[string]bool{}
	for _, r := range rs {
		for k := range r.errors {
			kinds[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		row("errors: "+k, func(r result) any { return r.errors[k] })
	}
	row("longest wait", func(r result) any { return r.slowest.Round(time.Millisecond) })
	row("worst time to acquire after the faults", func(r result) any { return r.worst[0].Round(time.Millisecond) })
	row("the same when nobody else wants it", func(r result) any { return r.worst[1].Round(time.Millisecond) })
	row("left behind", func(r result) any { return len(r.left) })
}
