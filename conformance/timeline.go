package conformance

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hasplock/hasp/backend"
)

// timeline is the picture of one rule's history: a lane for each holder, a bar
// for each hold, a mark for each fault.
type timeline struct {
	Rule, Caption string
	Width, Height int
	Ticks         []tick
	Lanes         []lane
	Bars          []bar
	Marks         []mark
}

type tick struct {
	X, Y, TextY int
	Text        string
}

type lane struct {
	Who             string
	X, X2, Y, TextY int
}

type bar struct {
	Class, Title string
	X, W         float64
	Y            int
}

type mark struct {
	X, TextX          float64
	Y, Y2, TextY      int
	What, Title, Path string
}

const (
	plotLeft  = 130
	plotWidth = 1000
	laneStep  = 30
)

// timelines draws the rules that have a history, in the order of the rules.
func (r Report) timelines() []timeline {
	var ts []timeline
	for _, res := range r.Results {
		var hs []Hold
		var fs []Fault
		for _, h := range r.Holds {
			if h.Rule == res.Rule {
				hs = append(hs, h)
			}
		}
		for _, f := range r.Faults {
			if f.Rule == res.Rule {
				fs = append(fs, f)
			}
		}
		if len(hs) > 0 {
			ts = append(ts, draw(res.Rule, hs, fs))
		}
	}
	return ts
}

func draw(rule string, hs []Hold, fs []Fault) timeline {
	first, end := int64(math.MaxInt64), int64(math.MinInt64)
	begin := map[string]int64{} // lanes are in the order of their first event
	see := func(who string, from, until int64) {
		first, end = min(first, from), max(end, until)
		if b, ok := begin[who]; !ok || from < b {
			begin[who] = from
		}
	}
	for _, h := range hs {
		see(h.Who, h.From, h.Until)
	}
	for _, f := range fs {
		see(f.Who, f.At, f.At)
	}
	end = max(end, first+int64(time.Millisecond))
	var whos []string
	for who := range begin {
		whos = append(whos, who)
	}
	slices.SortFunc(whos, func(a, b string) int { return int(min(max(begin[a]-begin[b], -1), 1)) })

	x := func(at int64) float64 {
		return math.Round((plotLeft+float64(at-first)/float64(end-first)*plotWidth)*10) / 10
	}
	bottom := laneStep*len(whos) + 14
	t := timeline{Rule: rule, Width: plotLeft + plotWidth + 60, Height: bottom + 24}
	t.Caption = fmt.Sprintf("%d holds in %s", len(hs), backend.Round(time.Duration(end-first)))
	if len(fs) > 0 {
		t.Caption += fmt.Sprintf(", %d faults", len(fs))
	}
	if wrong := CheckHistory(hs); len(wrong) > 0 {
		t.Caption += "; wrong: " + plain(wrong[0]) // with the key quoted
	}
	step := tickStep(time.Duration(end - first))
	for at := time.Duration(0); at <= time.Duration(end-first); at += step {
		t.Ticks = append(t.Ticks, tick{int(x(first + int64(at))), bottom, bottom + 16, at.String()})
	}
	row := map[string]int{}
	for i, who := range whos {
		row[who] = laneStep*i + 14
		t.Lanes = append(t.Lanes, lane{who, plotLeft, plotLeft + plotWidth, row[who] + 7, row[who] + 11})
	}
	for i, h := range hs {
		class := "hold"
		switch {
		case h.End == "killed" || h.End == "stopped":
			class = "killed"
		case h.End == "lost" || h.End == "left to expire":
			class = "lost"
		case i%2 == 1:
			class = "odd"
		}
		t.Bars = append(t.Bars, bar{
			Class: class, X: x(h.From), Y: row[h.Who], W: max(x(h.Until)-x(h.From), 1),
			Title: fmt.Sprintf("%s, token %d, %s to %s, %s", h.Who, h.Token,
				backend.Round(time.Duration(h.From-first)), backend.Round(time.Duration(h.Until-first)), h.End),
		})
	}
	labelled := map[string]float64{} // where each lane's last label begins
	for _, f := range fs {
		fx, y := x(f.At), row[f.Who]
		what := f.What
		if at, ok := labelled[f.Who]; ok && fx-at < 60 {
			what = "" // no room: the mark's tooltip says it
		} else {
			labelled[f.Who] = fx
		}
		t.Marks = append(t.Marks, mark{
			X: fx, TextX: fx + 5, Y: y - 4, Y2: y + 18, TextY: y - 1, What: what,
			Title: fmt.Sprintf("%s %s at %s", f.Who, f.What, backend.Round(time.Duration(f.At-first))),
			Path:  fmt.Sprintf("M%.1f %d l4 -6 l-8 0 z", fx, y),
		})
	}
	return t
}

// tickStep is a round duration that fits about ten times.
func tickStep(d time.Duration) time.Duration {
	step := time.Microsecond
	for i := 0; step < d/10; i++ {
		step = step * time.Duration([]int{2, 5, 10}[i%3]) / time.Duration([]int{1, 2, 5}[i%3])
	}
	return step
}
