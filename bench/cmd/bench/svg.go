//go:build unix

package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// colours that differ also for those who do not see all of them; the first are ours.
var colours = []string{"#0b6bcb", "#0aa5a5", "#d9480f", "#7048a8", "#5c6773", "#b58900", "#c2255c", "#2b8a3e"}

// canvas collects the elements of an SVG image.
type canvas struct {
	strings.Builder
	w, h float64
}

func (c *canvas) text(x, y float64, anchor, style, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style, html.EscapeString(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
}

func (c *canvas) rect(x, y, w, h float64, style string) {
	fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" %s/>`+"\n", x, y, w, h, style)
}

// image is the whole: its own background, because pages have light and dark ones.
func (c *canvas) image(title string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" font-family="system-ui, sans-serif" font-size="12" fill="#1f2933" role="img">
<title>%s</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
<text x="16" y="26" font-size="16" font-weight="600">%s</text>
%s</svg>
`, c.w, c.h, c.w, c.h, html.EscapeString(title), html.EscapeString(title), c.String())
}

const (
	gridStyle  = `stroke="#e4e7eb"`
	axisStyle  = `stroke="#7b8794"`
	quietStyle = `fill="#52606d"`
)

// scale maps values to positions.
type scale struct {
	low, high float64 // of the values
	from, to  float64 // of the positions
	log       bool
	marks     []float64
}

func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(max(v, s.low))
	}
	return s.from + (v-low)/(high-low)*(s.to-s.from)
}

// newScale chooses round bounds and marks for values.
func newScale(values []float64, log bool, from, to float64) scale {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if !math.IsNaN(v) && (!log || v > 0) {
			low, high = min(low, v), max(high, v)
		}
	}
	if high <= 0 || math.IsInf(high, 0) {
		low, high = 1, 1
	}
	s := scale{from: from, to: to, log: log}
	if log {
		s.low, s.high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
		if s.high <= s.low {
			s.high = 10 * s.low
		}
		for i := 0.0; s.low*math.Pow(10, i) < s.high*1.001; i++ {
			s.marks = append(s.marks, s.low*math.Pow(10, i))
		}
		return s
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, d := range []float64{1, 2, 5, 10} {
		if high/(step/d) >= 4 {
			step /= d
			break
		}
	}
	s.high = math.Ceil(high/step-1e-9) * step
	for i := 0.0; i*step <= s.high*1.001; i++ {
		s.marks = append(s.marks, i*step)
	}
	return s
}

// bar is a value with what it spreads over.
type bar struct {
	label           string
	value, low, top float64
	colour          string
}

// panel is bars that are compared with each other.
type panel struct {
	title string
	bars  []bar
}

// barPlot draws panels of horizontal bars below each other. Each has its own scale
// unless log, which they share.
func barPlot(title, note string, log bool, format func(float64) string, panels []panel) string {
	const left, right, barHeight, pitch = 190.0, 120.0, 16.0, 24.0
	c := &canvas{w: 820}
	var all []float64
	for _, p := range panels {
		for _, b := range p.bars {
			all = append(all, b.value, b.low, b.top)
		}
	}
	y := 50.0
	c.text(16, y, "start", quietStyle, note)
	for _, p := range panels {
		values := all
		if !log {
			values = nil
			for _, b := range p.bars {
				values = append(values, b.value, b.top)
			}
		}
		x := newScale(values, log, left, c.w-right)
		y += 30
		c.text(16, y, "start", `font-weight="600"`, p.title)
		y += 8
		bottom := y + pitch*float64(len(p.bars))
		for _, m := range x.marks {
			c.line(x.at(m), y, x.at(m), bottom, gridStyle)
			c.text(x.at(m), bottom+14, "middle", `font-size="10" `+quietStyle, format(m))
		}
		c.line(left, y, left, bottom, axisStyle)
		for _, b := range p.bars {
			mid := y + pitch/2
			c.text(left-8, mid+4, "end", "", b.label)
			c.rect(left, mid-barHeight/2, max(x.at(b.value)-left, 1), barHeight, `fill="`+b.colour+`"`)
			lo, hi := x.at(b.low), x.at(b.top)
			c.line(lo, mid, hi, mid, `stroke="#1f2933"`)
			c.line(lo, mid-4, lo, mid+4, `stroke="#1f2933"`)
			c.line(hi, mid-4, hi, mid+4, `stroke="#1f2933"`)
			c.text(max(hi, x.at(b.value))+8, mid+4, "start", "", format(b.value))
			y += pitch
		}
		y += 18
	}
	c.h = y + 14
	return c.image(title)
}

// point and series are what linePlot draws.
type point struct{ x, y float64 }

type series struct {
	name   string
	colour string
	dashed bool
	points []point
}

// linePlot draws series over a logarithmic x axis.
func linePlot(title, xTitle, yTitle string, logY bool, format func(float64) string, all []series) string {
	c := &canvas{w: 900, h: 440}
	const left, top, right, bottom = 80.0, 60.0, 560.0, 380.0
	var xs, ys []float64
	for _, s := range all {
		for _, p := range s.points {
			xs, ys = append(xs, p.x), append(ys, p.y)
		}
	}
	x, y := newScale(xs, true, left, right), newScale(ys, logY, bottom, top)
	c.text(16, 46, "start", quietStyle, yTitle)
	for _, m := range y.marks {
		c.line(left, y.at(m), right, y.at(m), gridStyle)
		c.text(left-8, y.at(m)+4, "end", `font-size="10" `+quietStyle, format(m))
	}
	for _, m := range x.marks {
		c.line(x.at(m), top, x.at(m), bottom, gridStyle)
		c.text(x.at(m), bottom+16, "middle", `font-size="10" `+quietStyle, figures(m))
	}
	c.line(left, bottom, right, bottom, axisStyle)
	c.line(left, top, left, bottom, axisStyle)
	c.text((left+right)/2, bottom+38, "middle", quietStyle, xTitle)
	for i, s := range all {
		dash := ""
		if s.dashed {
			dash = ` stroke-dasharray="6 4"`
		}
		var path []string
		for _, p := range s.points {
			if math.IsNaN(p.y) || logY && p.y <= 0 {
				continue
			}
			path = append(path, fmt.Sprintf("%.1f,%.1f", x.at(p.x), y.at(p.y)))
			fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`+"\n", x.at(p.x), y.at(p.y), s.colour)
		}
		fmt.Fprintf(c, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(path, " "), s.colour, dash)
		ly := top + 10 + 22*float64(i)
		c.line(right+20, ly, right+46, ly, fmt.Sprintf(`stroke="%s" stroke-width="3"%s`, s.colour, dash))
		c.text(right+54, ly+4, "start", "", s.name)
	}
	return c.image(title)
}
