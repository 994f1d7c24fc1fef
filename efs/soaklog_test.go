//go:build unix

package efs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A soakLog is what one peer has logged; testdata/legacy.py says what its lines are.
type soakLog struct {
	who, file  string
	legacy     bool
	sections   []soakSpan
	removals   []soakSpan // of whatever was at the path, those by a release also
	torn, lost int
}

// A soakSpan is a critical section, or the time in which a removal took effect.
type soakSpan struct {
	by         *soakLog
	start, end int64
	creating   int64 // of a section of the lock-file protocol: before its file was made
}

func (l *soakLog) read(t *testing.T) {
	t.Helper()
	f, err := os.Open(l.file)
	if errors.Is(err, os.ErrNotExist) {
		return // it never had its turn
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		what, rest, _ := strings.Cut(sc.Text(), " ")
		s := soakSpan{by: l}
		want, n := 2, 0
		switch what {
		case "section":
			if l.legacy {
				want = 3
			}
			n, _ = fmt.Sscan(rest, &s.start, &s.end, &s.creating)
			l.sections = append(l.sections, s)
		case "removed", "released":
			n, _ = fmt.Sscan(rest, &s.start, &s.end)
			l.removals = append(l.removals, s)
		case "torn":
			want, l.torn = 0, l.torn+1
		case "lost":
			want, l.lost = 0, l.lost+1
		}
		if n < want {
			t.Fatalf("%s: %q", l.file, sc.Text())
		}
	}
}

// A soakResult is what came of a soak.
type soakResult struct {
	time       time.Duration
	logs       []*soakLog
	rounds     int
	counter    int
	torn, lost int
	// Pairs of sections that overlapped: of two hasp processes, of two of the
	// lock-file protocol, and of one of each, explained or not.
	hasps, legacies, explained, unexplained int
	examples                                []string
}

func (r *soakResult) compare() {
	var all, removals []soakSpan
	for _, l := range r.logs {
		all = append(all, l.sections...)
		removals = append(removals, l.removals...)
		r.torn += l.torn
		r.lost += l.lost
	}
	r.rounds = len(all)
	slices.SortFunc(all, func(a, b soakSpan) int { return int(a.start - b.start) })
	var in []soakSpan // entered before, and not left when the next one enters
	for _, b := range all {
		in = slices.DeleteFunc(in, func(a soakSpan) bool { return a.end <= b.start })
		for _, a := range in {
			r.overlap(a, b, removals)
		}
		in = append(in, b)
	}
}

// overlap counts that b entered before a had left.
func (r *soakResult) overlap(a, b soakSpan, removals []soakSpan) {
	legacy, other := a, b
	switch {
	case a.by.legacy && b.by.legacy:
		r.legacies++
		return
	case !a.by.legacy && !b.by.legacy:
		r.hasps++
	default:
		if b.by.legacy {
			legacy, other = b, a
		}
		// The file of the one of the lock-file protocol may have been removed by
		// another of its kind after it was made and before the hasp process entered.
		// Then hasp cannot know that its owner is in.
		if slices.ContainsFunc(removals, func(x soakSpan) bool {
			return x.by != legacy.by && x.end > legacy.creating && x.start < other.start
		}) {
			r.explained++
			return
		}
		r.unexplained++
	}
	if len(r.examples) < 5 {
		r.examples = append(r.examples, fmt.Sprintf("%s entered %v before %s left", b.by.who, time.Duration(a.end-b.start), a.by.who))
	}
}

// found counts what must not be, however many of the lock-file protocol there are.
func (r *soakResult) found() int { return r.hasps + r.unexplained }

func (r *soakResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds in %v (", r.rounds, r.time)
	for i, l := range r.logs {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", l.who, len(l.sections))
	}
	fmt.Fprintf(&b, "); the counter says %d; overlaps: hasp with hasp %d, hasp with EfsLock %d unexplained, %d explained, EfsLock with EfsLock %d; "+
		"losses told %d; torn reads %d", r.counter, r.hasps, r.unexplained, r.explained, r.legacies, r.lost, r.torn)
	for _, e := range r.examples {
		fmt.Fprintf(&b, "\n\t%s", e)
	}
	return b.String()
}

func (r *soakResult) judge(t *testing.T, g soakGuard, legacies int) {
	t.Helper()
	for _, l := range r.logs {
		if len(l.sections) == 0 {
			t.Errorf("%s never had its turn", l.who)
		}
	}
	switch {
	case g.control:
		if r.found() == 0 {
			t.Error("nothing stood at the path, and no overlap was found: a soak that cannot fail")
		}
	case g.exact:
		if r.found() > 0 {
			t.Errorf("%d overlaps that no process of the lock-file protocol can be blamed for", r.found())
		}
		if r.lost > 0 {
			t.Errorf("%d times a hasp process was told of a loss", r.lost)
		}
		if legacies == 1 && (r.counter != r.rounds || r.explained > 0) {
			t.Errorf("the counter says %d after %d rounds, with %d overlaps", r.counter, r.rounds, r.found()+r.explained)
		}
	default:
		t.Logf("guard %s: %d of %d sections overlapped", g.name, r.found(), r.rounds)
	}
}

// Which overlaps are told to be whose.
func TestSoakExplains(t *testing.T) {
	for _, c := range []struct {
		name                   string
		hasp, legacy           soakSpan
		removed                []soakSpan // by another of the lock-file protocol
		own                    []soakSpan // by the same
		explained, unexplained int
	}{
		{name: "one after the other", hasp: soakSpan{start: 30, end: 40}, legacy: soakSpan{start: 10, end: 30, creating: 5}},
		{name: "nobody removed anything", hasp: soakSpan{start: 20, end: 40}, legacy: soakSpan{start: 10, end: 30, creating: 5}, unexplained: 1},
		{name: "another removed its file before the hasp process entered", hasp: soakSpan{start: 20, end: 40},
			legacy: soakSpan{start: 10, end: 30, creating: 5}, removed: []soakSpan{{start: 12, end: 13}}, explained: 1},
		{name: "before it had entered", hasp: soakSpan{start: 20, end: 40},
			legacy: soakSpan{start: 22, end: 30, creating: 5}, removed: []soakSpan{{start: 6, end: 7}}, explained: 1},
		{name: "another removed something after the hasp process had entered", hasp: soakSpan{start: 20, end: 40},
			legacy: soakSpan{start: 10, end: 30, creating: 5}, removed: []soakSpan{{start: 25, end: 26}}, unexplained: 1},
		{name: "another removed something before the file was made", hasp: soakSpan{start: 20, end: 40},
			legacy: soakSpan{start: 10, end: 30, creating: 5}, removed: []soakSpan{{start: 3, end: 4}}, unexplained: 1},
		{name: "it removed its own", hasp: soakSpan{start: 20, end: 40},
			legacy: soakSpan{start: 10, end: 30, creating: 5}, own: []soakSpan{{start: 12, end: 13}}, unexplained: 1},
		{name: "it made a file while the hasp process was in", hasp: soakSpan{start: 20, end: 40},
			legacy: soakSpan{start: 30, end: 35, creating: 28}, removed: []soakSpan{{start: 26, end: 27}}, unexplained: 1},
	} {
		h, l, m := &soakLog{who: "Locker"}, &soakLog{who: "EfsLock 1", legacy: true}, &soakLog{who: "EfsLock 2", legacy: true}
		c.hasp.by, c.legacy.by = h, l
		h.sections, l.sections = []soakSpan{c.hasp}, []soakSpan{c.legacy}
		for _, x := range c.removed {
			x.by = m
			m.removals = append(m.removals, x)
		}
		for _, x := range c.own {
			x.by = l
			l.removals = append(l.removals, x)
		}
		r := &soakResult{logs: []*soakLog{h, l, m}}
		r.compare()
		if r.hasps != 0 || r.legacies != 0 || r.explained != c.explained || r.unexplained != c.unexplained {
			t.Errorf("%s: %v", c.name, r)
		}
	}
	l := &soakLog{who: "Locker"}
	l.sections = []soakSpan{{by: l, start: 1, end: 5}, {by: l, start: 2, end: 3}, {by: l, start: 4, end: 6}, {by: l, start: 5, end: 7}}
	r := &soakResult{logs: []*soakLog{l}}
	if r.compare(); r.hasps != 3 || r.found() != 3 {
		t.Errorf("of four sections three pairs overlap: %v", r)
	}
}
