package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/hasplock/hasp/backend"
)

// waitLine is what a terminal shows of a wait. Its parts are shortened, in turn, so
// that it fits into one row.
type waitLine struct {
	name  string // of the lock
	what  string // who or what is in the way
	times string // for how long that has been so, and how long waiting can still take
}

// minimums of what a name and a holder are cut to: enough to know them by.
const (
	shortName = 16
	shortWhat = 24
)

// fit returns the line in at most width columns.
func (l waitLine) fit(width int) string {
	head, name, what := "hasp: waiting for ", l.name, l.what
	over := func() int { return columns(head) + columns(name) + 2 + columns(what) + columns(l.times) - width }
	if n := over(); n > 0 {
		name = cutLeft(name, max(columns(name)-n, shortName))
	}
	if over() > 0 {
		head = "hasp: "
		if n := over(); n < 0 { // give the name what that has saved
			name = cutLeft(l.name, columns(name)-n)
		}
	}
	if n := over(); n > 0 {
		what = cutRight(what, max(columns(what)-n, shortWhat))
	}
	if n := over(); n > 0 {
		name = cutLeft(name, max(columns(name)-n, 1))
	}
	return cutRight(head+name+": "+what+l.times, width)
}

// waitTimes is a waitLine's times. held is how long the holder has had the lock; if
// that is not known, seen is how long it has been seen to.
func waitTimes(held, seen, left time.Duration) string {
	var b strings.Builder
	switch {
	case held > 0:
		fmt.Fprintf(&b, " for %v", held.Round(time.Second))
	case seen >= 0:
		fmt.Fprintf(&b, " for %v+", seen.Round(time.Second))
	}
	if left < 0 {
		return b.String() + "; waiting without end"
	}
	fmt.Fprintf(&b, "; %v left", left.Round(time.Second))
	return b.String()
}

// holderText is who holds the lock, in few words.
func holderText(r backend.Record) string {
	switch r.State {
	case backend.Stale:
		return "stale, held by " + r.Holder.String()
	case backend.Free:
		return "free"
	}
	return "held by " + r.Holder.String()
}

// cutLeft leaves the last part of s, in width columns, and cutRight the first.
func cutLeft(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	r := []rune(s)
	for len(r) > 0 && columns(string(r)) > width-1 {
		r = r[1:]
	}
	return "…" + string(r)
}

func cutRight(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	r := []rune(s)
	for len(r) > 0 && columns(string(r)) > width-1 {
		r = r[:len(r)-1]
	}
	return string(r) + "…"
}

// columns is how wide s is on a terminal, or a little less wide than that: names in
// scripts with wide characters take two columns for each.
func columns(s string) (n int) {
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana), r >= 0xff01 && r <= 0xff60, r >= 0x1f300 && r <= 0x1faff, r >= 0x3000 && r <= 0x303f:
			n += 2
		default:
			n++
		}
	}
	return n
}
