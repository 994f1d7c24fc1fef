//go:build unix

package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"slices"
	"time"
)

//go:embed report.html
var reportPage string

// picture is the page: an overview of the whole run, and a close look at each step.
type picture struct {
	Sentence string
	Width    int
	Height   int
	Stages   []band
	Lives    []bar
	Rate     []bar
	Faults   []bar
	Ticks    []text
	Labels   []text
	Close    []closeUp
}

type band struct {
	X, W  float64
	Class string
	Text  string
}

type bar struct {
	X, Y, W, H   float64
	Class, Title string
}

type text struct {
	X, Y float64
	S    string
}

// closeUp is who held what around a step.
type closeUp struct {
	Title  string
	Height int
	Bars   []bar
	Labels []text
	At     float64
}

const (
	left   = 110.0
	width  = 1000.0
	lane   = 16.0
	around = 250 * time.Millisecond // of a step, in a closeUp
)

// draw makes the picture of a run that began and ended then.
func draw(sentence string, f *fleet, begun, ended time.Time) picture {
	span := ended.Sub(begun)
	x := func(t time.Time) float64 { return left + width*float64(t.Sub(begun))/float64(span) }
	p := picture{Sentence: sentence, Width: int(left+width) + 20}
	w := f.witness
	w.mu.Lock()
	defer w.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()

	var stages []mark
	for _, m := range f.log.marks {
		if m.Kind == "stage" {
			stages = append(stages, m)
		}
	}
	for i, m := range stages {
		to := ended
		if i+1 < len(stages) {
			to = stages[i+1].At
		}
		p.Stages = append(p.Stages, band{x(m.At), x(to) - x(m.At), fmt.Sprintf("s%d", i%2), m.Stage})
	}
	y := 40.0
	for n := range f.number() {
		p.Labels = append(p.Labels, text{0, y + 11, fmt.Sprintf("worker %d", n+1)})
		for _, l := range f.lives {
			if l.Worker == n+1 {
				p.Lives = append(p.Lives, bar{x(l.From), y, max(x(l.To)-x(l.From)-0.5, 0.5), lane - 4, l.Phase, fmt.Sprintf("worker %d, phase %s, %s", l.Worker, l.Phase, l.Ended)})
			}
		}
		y += lane
	}
	y += 10
	p.rates(w.holds, x, begun, span, y)
	y += rateHeight + 10
	p.Labels = append(p.Labels, text{0, y + 9, "faults"})
	for _, m := range f.log.marks {
		if m.Kind == "fault" {
			p.Faults = append(p.Faults, bar{x(m.At), y, 1, 12, "fault", m.Text})
		}
	}
	y += 30
	for i := range 11 {
		at := begun.Add(span * time.Duration(i) / 10)
		p.Ticks = append(p.Ticks, text{x(at), y, fmt.Sprintf("%.0f s", at.Sub(begun).Seconds())})
	}
	p.Height = int(y) + 10
	for _, m := range stages[1:] {
		p.Close = append(p.Close, closeTo(m, w.holds))
	}
	return p
}

// number is how many workers there were.
func (f *fleet) number() int {
	n := 0
	for _, l := range f.lives {
		n = max(n, l.Worker)
	}
	return n
}

const rateHeight = 90.0

// rates draws how many locks were acquired in which phase, in columns.
func (p *picture) rates(holds []hold, x func(time.Time) float64, begun time.Time, span time.Duration, y float64) {
	const columns = 250
	phases := []string{"old", "both", "new", legacyPhase}
	var counts [columns]map[string]int
	most := 1
	for _, h := range holds {
		i := min(int(columns*h.From.Sub(begun)/span), columns-1)
		if i < 0 {
			continue
		}
		if counts[i] == nil {
			counts[i] = map[string]int{}
		}
		counts[i][h.Phase]++
		sum := 0
		for _, n := range counts[i] {
			sum += n
		}
		most = max(most, sum)
	}
	p.Labels = append(p.Labels, text{0, y + 11, fmt.Sprintf("%.0f a second", float64(most)*columns/span.Seconds())}, text{0, y + rateHeight, "0"})
	for i, c := range counts {
		bottom := y + rateHeight
		for _, phase := range phases {
			if n := c[phase]; n > 0 {
				h := rateHeight * float64(n) / float64(most)
				bottom -= h
				p.Rate = append(p.Rate, bar{x(begun.Add(span * time.Duration(i) / columns)), bottom, width / columns, h, phase, fmt.Sprintf("%d in phase %s", n, phase)})
			}
		}
	}
}

// closeTo draws who held which key around a step.
func closeTo(m mark, holds []hold) closeUp {
	from, to := m.At.Add(-around), m.At.Add(around)
	x := func(t time.Time) float64 { return left + width*float64(t.Sub(from))/float64(to.Sub(from)) }
	c := closeUp{Title: m.Text, At: x(m.At)}
	var keys []string
	for _, h := range holds {
		if !slices.Contains(keys, h.Key) {
			keys = append(keys, h.Key)
		}
	}
	slices.Sort(keys)
	for i, k := range keys {
		c.Labels = append(c.Labels, text{0, float64(i)*lane + 21, k})
	}
	for _, h := range holds {
		end := h.To
		if end.IsZero() {
			end = to
		}
		if end.Before(from) || h.From.After(to) {
			continue
		}
		a, b := max(x(h.From), left), min(x(end), left+width)
		c.Bars = append(c.Bars, bar{a, float64(slices.Index(keys, h.Key))*lane + 10, max(b-a, 0.7), lane - 4, h.Phase,
			fmt.Sprintf("%s: worker %d, phase %s, token %d, for %v, %s", h.Key, h.Worker, h.Phase, h.Token, end.Sub(h.From).Round(time.Microsecond), h.Ended)})
	}
	c.Height = len(keys)*int(lane) + 20
	return c
}

// write writes the page.
func (p picture) write(path string) error {
	t, err := template.New("report").Parse(reportPage)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := t.Execute(f, p); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
