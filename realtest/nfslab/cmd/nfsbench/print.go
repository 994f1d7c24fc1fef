//go:build linux

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab/internal/mountstats"
)

func (b *run) print(w io.Writer, took time.Duration) error {
	var p bytes.Buffer
	fmt.Fprintf(&p, "## On NFS\n\nWritten by `make bench-nfs` in one run of %v: a Linux NFSv4.1 server with a `sync` export and a client, each a user-mode kernel, on one machine with %d processors (load average %s at the end). ", took.Round(time.Second), runtime.NumCPU(), load())
	fmt.Fprintf(&p, "The contestants took turns in %d rounds of %d repetitions, after some that were not counted; a time is worth comparing only with the others in its table. Times are over all repetitions, and \"rounds\" is from the lowest to the highest of the rounds' medians. The ratio is the median of the rounds' ratios. Requests are counted by the client.\n", *rounds, *cycles)
	for _, thing := range []string{cycle, beat, fresh, glance} {
		b.table(&p, thing)
	}
	for _, c := range b.all {
		if c.why != "" {
			fmt.Fprintf(&p, "\n%s: not measured: %s\n", c.name, c.why)
		}
	}
	_, err := w.Write(p.Bytes())
	return err
}

func (b *run) table(w io.Writer, thing string) {
	fmt.Fprintf(w, "\n### %s\n\n", strings.ToUpper(thing[:1])+thing[1:])
	timed := thing != glance
	head := []string{"contestant", "requests", "by kind"}
	last := b.all[len(b.all)-1]
	first := b.all[0]
	if timed {
		head = []string{"contestant", "median", "10th to 90th percentile", "rounds", "× " + first.name, "requests", "by kind"}
		if thing == cycle {
			head = slices.Insert(head, 5, "× lock-file protocol")
		}
	}
	row(w, head)
	row(w, slices.Repeat([]string{"---"}, len(head)))
	for _, c := range b.all {
		rs := b.results[id(c, thing)]
		if len(rs) == 0 {
			continue
		}
		cells := []string{c.name}
		if timed {
			var all, medians []time.Duration
			for _, r := range rs {
				all, medians = append(all, r.Times...), append(medians, quantile(r.Times, 0.5))
			}
			cells = append(cells, show(quantile(all, 0.5)), show(quantile(all, 0.1))+" to "+show(quantile(all, 0.9)),
				show(slices.Min(medians))+" to "+show(slices.Max(medians)), ratio(rs, b.results[id(first, thing)]))
			if thing == cycle {
				cells = append(cells, ratio(rs, b.results[id(last, thing)]))
			}
		}
		row(w, append(cells, requests(rs)...))
	}
}

func row(w io.Writer, cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }

// ratio is of a's time to b's, in the middle one of the rounds.
func ratio(a, b []result) string {
	var all []float64
	for i := range min(len(a), len(b)) {
		all = append(all, float64(quantile(a[i].Times, 0.5))/float64(quantile(b[i].Times, 0.5)))
	}
	if len(all) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", quantile(all, 0.5))
}

// requests are those of one repetition, all and by kind.
func requests(rs []result) []string {
	n, sum := 0, mountstats.Counts{}
	for _, r := range rs {
		n += r.N
		for k, v := range r.Requests {
			sum[k] += v
		}
	}
	kinds := slices.SortedFunc(maps.Keys(sum), func(a, b string) int { return cmp.Or(cmp.Compare(sum[b], sum[a]), cmp.Compare(a, b)) })
	for i, k := range kinds {
		kinds[i] = per(sum[k], n) + " " + k
	}
	return []string{per(sum.Sum(), n), strings.Join(kinds, ", ")}
}

func per(v, n int) string {
	f := float64(v) / float64(n)
	if math.Abs(f-math.Round(f)) < 0.005 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

func quantile[T cmp.Ordered](all []T, q float64) T {
	s := slices.Sorted(slices.Values(all))
	return s[int(q*float64(len(s)-1)+0.5)]
}

func show(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(b)); err == nil && len(f) > 0 {
		return f[0]
	}
	return "unknown"
}
