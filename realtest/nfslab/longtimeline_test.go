//go:build linux

package nfslab_test

import (
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

const (
	timelineSpell = 60 * time.Second
	timelineWidth = 1500.0
	laneHeight    = 22
)

// timeline is a page of its own: the minute of the run with most kinds of faults.
func (r *longResult) timeline() string {
	from := r.busiest()
	to := from + timelineSpell
	x := func(at time.Duration) float64 {
		return 160 + timelineWidth*float64(min(max(at, from), to)-from)/float64(timelineSpell)
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	y := 30
	lane := func(name string) { p("<text x=\"4\" y=\"%d\">%s</text>\n", y+15, html.EscapeString(name)) }
	for _, ch := range allFaults {
		lane(string(ch.kind))
		for _, s := range r.spans {
			if s.kind == ch.kind && s.from < to && s.to > from {
				p("<rect class=\"f\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"14\"><title>%s, %s</title></rect>\n", x(s.from), y+3, max(2, x(s.to)-x(s.from)), html.EscapeString(string(s.kind)), html.EscapeString(s.what))
			}
		}
		y += laneHeight
	}
	y += 10
	colors := map[string]string{"client1": "#3b6fb6", "client2": "#c2772b", "client3": "#4c9a52"}
	for _, key := range []string{"plain/p0", "plain/p1", "plain/p2", "plain/p3", "plain/slow", "admin/a0", "moved/m0", "legacy/e0", "legacy/e1"} {
		lane(key)
		paths := map[string]*strings.Builder{}
		inside := map[string]nfslab.Event{}
		for _, e := range r.events[key] {
			if e.At < from-2*longTTL || e.At > to {
				continue
			}
			switch e.Kind {
			case nfslab.In:
				inside[e.Worker] = e
			case nfslab.Out, nfslab.Lost, nfslab.Died, nfslab.Over:
				in, ok := inside[e.Worker]
				if !ok || e.At < from {
					continue
				}
				delete(inside, e.Worker)
				host, _, _ := strings.Cut(e.Worker, "-")
				if strings.Contains(e.Worker, "efslock") {
					host = "efslock"
				}
				if paths[host] == nil {
					paths[host] = &strings.Builder{}
				}
				fmt.Fprintf(paths[host], "M%.1f %dh%.1f", x(in.At), y+10, max(0.3, x(e.At)-x(in.At)))
				if e.Kind != nfslab.Out {
					p("<circle class=\"%s\" cx=\"%.1f\" cy=\"%d\" r=\"3\"><title>%s: %s</title></circle>\n", e.Kind, x(e.At), y+10, html.EscapeString(e.Worker), e.Kind)
				}
			}
		}
		for host, d := range paths {
			color := colors[host]
			if color == "" {
				color = "#777"
			}
			p("<path d=\"%s\" stroke=\"%s\"/>\n", d, color)
		}
		y += laneHeight
	}
	for s := 0; s <= int(timelineSpell/time.Second); s += 5 {
		p("<line x1=\"%[1]d\" x2=\"%[1]d\" y1=\"20\" y2=\"%[2]d\"/><text x=\"%[1]d\" y=\"14\">%[3]d s</text>\n", 160+int(timelineWidth)*s/int(timelineSpell/time.Second), y, s)
	}
	return fmt.Sprintf(`<!doctype html>
<meta charset="utf-8">
<title>A minute of make nfs-long</title>
<style>
body { font: 13px sans-serif; margin: 1em; background: #fff; color: #222 }
svg text { font-size: 11px; fill: #333 } svg path { stroke-width: 12; fill: none } svg line { stroke: #ddd }
.f { fill: #d66 } .died { fill: #000 } .lost { fill: #fff; stroke: #000 } .over { fill: #fd0; stroke: #000 }
</style>
<h1>A minute of <code>make nfs-long</code></h1>
<p>From %v after the first fault, NFS %s, seed %d. Above: faults, from their begin to their end. Below: who held each key, as the witness was told:
<span style="color:#3b6fb6">client1</span>, <span style="color:#c2772b">client2</span>, <span style="color:#4c9a52">client3</span>, <span style="color:#777">an EfsLock process</span>.
A black dot is a holder that died, a white one a holder that was told of its loss, a yellow one a holder whose lease had run out when another entered: until then its bar goes on.</p>
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d">
%s</svg>
`, (from - r.begun).Round(time.Second), r.version, r.seed, int(timelineWidth)+180, y+10, b.String())
}

// busiest is when the minute with most kinds of faults begins.
func (r *longResult) busiest() (best time.Duration) {
	best, most := r.begun, 0
	for from := r.begun; from+timelineSpell <= r.begun+r.spell; from += 5 * time.Second {
		kinds := map[faultKind]bool{}
		for _, s := range r.spans {
			if s.from < from+timelineSpell && s.to > from {
				kinds[s.kind] = true
			}
		}
		if len(kinds) > most {
			best, most = from, len(kinds)
		}
	}
	return best
}
