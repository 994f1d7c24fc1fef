package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// progress is how far the tests are.
type progress struct {
	pkgs     []string // in the order in which they are started
	seconds  seconds
	atOnce   int
	verbose  bool
	out      io.Writer
	began    time.Time
	started  map[string]time.Time
	ended    map[string]float64 // seconds
	cached   map[string]bool
	test     map[string]string              // the test that a package is in
	said     map[string]map[string][]string // package, test
	failed   int
	failures []string
}

func newProgress(pkgs []string, s seconds, atOnce int, out io.Writer) *progress {
	return &progress{
		pkgs: pkgs, seconds: s, atOnce: atOnce, out: out, began: time.Now(),
		started: map[string]time.Time{}, ended: map[string]float64{}, cached: map[string]bool{},
		test: map[string]string{}, said: map[string]map[string][]string{},
	}
}

// line takes one of go test's lines.
func (p *progress) line(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		fmt.Fprint(p.out, line) // not from a test
		return
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(p.out, e.Output)
	case "start":
		p.started[e.Package] = time.Now()
	case "run", "cont":
		p.test[e.Package] = e.Test
	case "output":
		p.output(e)
	case "fail":
		if e.Test != "" {
			p.show(e.Package, e.Test)
			break
		}
		p.show(e.Package, "") // a panic, or a time-out, is of no test
		p.failed++
		p.failures = append(p.failures, short(e.Package))
		p.end(e)
	case "pass", "skip":
		if e.Test == "" {
			for _, o := range p.said[e.Package][""] {
				if strings.HasPrefix(o, "ok  \t") { // what it printed besides is for -v
					fmt.Fprint(p.out, o)
				}
			}
			p.end(e)
			break
		}
		delete(p.said[e.Package], e.Test)
	}
}

// output keeps what is said until it is known whether the test, or the package, fails;
// with -v it shows it.
func (p *progress) output(e event) {
	if strings.HasSuffix(e.Output, "(cached)\n") {
		p.cached[e.Package] = true
	}
	if p.verbose {
		fmt.Fprint(p.out, e.Output)
		return
	}
	tests := p.said[e.Package]
	if tests == nil {
		tests = map[string][]string{}
		p.said[e.Package] = tests
	}
	tests[e.Test] = append(tests[e.Test], e.Output)
}

// show prints what a test said, and with the package's own words what tests said that
// have not ended.
func (p *progress) show(pkg, test string) {
	tests := p.said[pkg]
	if test == "" {
		for _, t := range slices.Sorted(maps.Keys(tests)) {
			if t != "" {
				p.show(pkg, t)
			}
		}
	}
	for _, o := range tests[test] {
		fmt.Fprint(p.out, o)
	}
	delete(tests, test)
}

func (p *progress) end(e event) {
	p.ended[e.Package] = e.Elapsed
	delete(p.said, e.Package)
	delete(p.test, e.Package)
}

// tell prints a line about how far it is.
func (p *progress) tell() {
	var running []string
	for _, pkg := range p.running() {
		s := short(pkg)
		if t := p.test[pkg]; t != "" {
			s += " (" + t + ")"
		}
		running = append(running, s)
	}
	if len(running) == 0 {
		running = []string{"nothing: it links the next ones"}
	}
	fmt.Fprintf(p.out, "testall: %v: %d of %d packages; about %v left; running %s\n",
		round(time.Since(p.began)), len(p.ended), len(p.pkgs), p.left(), strings.Join(running, ", "))
}

func (p *progress) running() []string {
	var out []string
	for _, pkg := range p.pkgs {
		if _, ok := p.ended[pkg]; !ok && !p.started[pkg].IsZero() {
			out = append(out, pkg)
		}
	}
	return out
}

// left estimates what the rest takes: not less than the longest package that has not
// ended, nor than all of them, so many at once.
func (p *progress) left() time.Duration {
	pace := p.pace()
	var sum, longest float64
	for _, pkg := range p.pkgs {
		if _, ok := p.ended[pkg]; ok {
			continue
		}
		s := p.seconds.of(pkg) * pace
		if at := p.started[pkg]; !at.IsZero() {
			so := time.Since(at).Seconds()
			s = max(s-so, so/10, 2) // one that takes longer than it should has an end, too
		}
		sum += s
		longest = max(longest, s)
	}
	return round(time.Duration(max(longest, sum/float64(p.atOnce)) * float64(time.Second)))
}

// pace is how much slower this machine has been than the one of seconds.txt; with
// packages that have run for longer than they should have by now.
func (p *progress) pace() float64 {
	var here, there float64
	for pkg, s := range p.ended {
		if !p.cached[pkg] {
			here += s
			there += p.seconds.of(pkg)
		}
	}
	for _, pkg := range p.running() {
		if s := time.Since(p.started[pkg]).Seconds(); s > p.seconds.of(pkg) {
			here += s
			there += p.seconds.of(pkg)
		}
	}
	if there < 20 { // too little to tell
		return 1
	}
	return here / there
}
