//go:build linux

package nfslab_test

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// A longResult is what a run has come to.
type longResult struct {
	seed        uint64
	version     string
	spell, took time.Duration
	hosts       int
	load        string
	nfslab.Tally
	faults    map[faultKind]int
	overlaps  []string
	moved     []string // of keys whose directory was moved away from under a holder a moment before
	disorder  []string
	deleted   []string // tokens of keys whose state was deleted
	takeovers []time.Duration
	awayTakes []time.Duration // while the server, or a host's link, was away for a part of it
	died      int
	over      int
	lost      int
	strange   []string
	longest   []string // takeovers that took long, told in full
	slow      []string
	left      []string
	tidy      bool // probe and leftovers were asked for

	spans  []span
	events map[string][]nfslab.Event
	begun  time.Duration
}

// result judges what the witness was told.
func (c *campaign) result() *longResult {
	r := &longResult{seed: c.seed, version: os.Getenv("HASP_NFS_VERSION"), spell: c.spell, hosts: len(c.l.Clients), Tally: c.w.Tally(), faults: map[faultKind]int{}, events: map[string][]nfslab.Event{}, begun: c.begun, tidy: true}
	if r.version == "" {
		r.version = "4.1"
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.load, _, _ = strings.Cut(string(b), " ")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.spans = slices.SortedFunc(slices.Values(c.spans), func(a, b span) int { return int(a.from - b.from) })
	for _, s := range r.spans {
		r.faults[s.kind]++
	}
	r.strange = slices.Clone(c.strange)
	for _, key := range c.w.Keys() {
		events := c.w.Events(key)
		r.events[key] = events
		r.takes(key, events)
		overlaps, tokens := c.w.Faults(key)
		for _, o := range overlaps {
			text := key + ": " + o.String()
			if slices.Contains(movedKeys, key) && r.near(movedAway, o.First.At, o.Second.At) {
				r.moved = append(r.moved, text)
			} else {
				r.overlaps = append(r.overlaps, text)
			}
		}
		for _, s := range tokens {
			// A new state directory knows no former token and begins with the server's time, which
			// was set back.
			if slices.Contains(slices.Concat(adminKeys, movedKeys), key) && r.faults[serverClock] > 0 {
				r.deleted = append(r.deleted, key+": "+s)
			} else {
				r.disorder = append(r.disorder, key+": "+s)
			}
		}
	}
	return r
}

// near tells whether a fault of the kind was begun between two moments, or not long before.
func (r *longResult) near(kind faultKind, from, to time.Duration) bool {
	return slices.ContainsFunc(r.spans, func(s span) bool { return s.kind == kind && s.from < to && s.to > from })
}

// takes finds the takeovers: from the death of a holder to the next entry.
func (r *longResult) takes(key string, events []nfslab.Event) {
	var dead *nfslab.Event
	for i, e := range events {
		switch e.Kind {
		case nfslab.Died:
			r.died++
			if e.Token != 0 { // an EfsLock process's file has a timeout of its own
				dead = &events[i]
			}
		case nfslab.Over:
			r.over++
		case nfslab.Lost:
			r.lost++
		case nfslab.In:
			if dead == nil {
				continue
			}
			took := e.At - dead.At
			if took > long {
				r.longest = append(r.longest, r.story(key, events, *dead, e))
			}
			if slices.ContainsFunc(r.spans, func(s span) bool { return s.from < e.At && s.away() > dead.At }) {
				r.awayTakes = append(r.awayTakes, took)
			} else {
				r.takeovers = append(r.takeovers, took)
			}
			dead = nil
		}
	}
}

// long is what a takeover is told of for.
const long = 20 * time.Second

// story tells of a takeover: who died, who wanted the lock since, and what was done meanwhile.
func (r *longResult) story(key string, events []nfslab.Event, dead, in nfslab.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s died at %v, and %s entered %v later;", key, dead.Worker, dead.At.Round(time.Millisecond), in.Worker, (in.At - dead.At).Round(time.Millisecond))
	for _, e := range events {
		if e.Kind == nfslab.Wants && e.At < in.At && e.At > dead.At-time.Minute {
			fmt.Fprintf(&b, " %s wants at %+v;", e.Worker, (e.At - dead.At).Round(time.Millisecond))
		}
	}
	for _, s := range r.spans {
		if s.from < in.At && s.to > dead.At {
			fmt.Fprintf(&b, "\n\t%s, %s, from %+v to %+v", s.kind, s.what, (s.from - dead.At).Round(time.Millisecond), (s.to - dead.At).Round(time.Millisecond))
		}
	}
	return b.String()
}

// away is until when the store could not be had because of the fault, 0 if it could.
func (s span) away() time.Duration {
	switch s.kind {
	case crashServer, lostReplies:
		return s.to + graceAndMore
	case diskFull, garbled:
		return s.to
	}
	return 0
}

// wrong says what must not be.
func (r *longResult) wrong() (all []string) {
	few := func(what string, of []string) {
		if len(of) > 0 {
			all = append(all, fmt.Sprintf("%d %s: %s", len(of), what, strings.Join(of[:min(5, len(of))], "\n\t")))
		}
	}
	few("overlaps", r.overlaps)
	few("tokens out of order", r.disorder)
	few("keys that could not be had in time", r.slow)
	few("keys with things left", r.left)
	few("strange ends", r.strange)
	if r.Entries == 0 {
		all = append(all, "nobody got in")
	}
	return all
}

func quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(of))
	return s[int(q*float64(len(s)-1)+0.5)].Round(10 * time.Millisecond)
}

// String is a section in Markdown.
func (r *longResult) String() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("One run of `make nfs-long`: NFS %s, a server with a lease of 10 s and %d hosts, %v of faults, seed %d, on a machine with %d processors (load average %s at the end). TTL %v.\n\n", r.version, r.hosts, r.spell, r.seed, runtime.NumCPU(), r.load, longTTL)
	p("| | |\n| --- | --- |\n")
	row := func(what string, n any) { p("| %s | %v |\n", what, n) }
	row("acquisitions", r.Entries)
	row("of these by `hasp run`", r.Commands)
	row("of these by EfsLock processes", r.EfsLock)
	row("overlaps of holders within their deadline", len(r.overlaps))
	row("tokens out of order", len(r.disorder))
	row("tokens refused, of holders whose lease was over", r.Refused)
	row("overlaps after the lock's directory was moved away from under its holder", len(r.moved))
	row("tokens out of order after the state directory was deleted, with the server's clock set meanwhile", len(r.deleted))
	row("holders that died (worker, command, host)", r.died)
	row("holders whose lease had run out when another entered", r.over)
	row("holders that were told of a loss", r.lost)
	row("takeovers from the dead while the server was well: number, median, worst", fmt.Sprintf("%d, %v, %v", len(r.takeovers), quantile(r.takeovers, 0.5), quantile(r.takeovers, 1)))
	row("the others: number, median, worst", fmt.Sprintf("%d, %v, %v", len(r.awayTakes), quantile(r.awayTakes, 0.5), quantile(r.awayTakes, 1)))
	if r.tidy {
		row("keys that could not be had in time after the faults, all workers killed", len(r.slow))
		row("keys with more files than a lock has", len(r.left))
	}
	p("\n| fault | times |\n| --- | --- |\n")
	for _, ch := range allFaults {
		row(string(ch.kind), r.faults[ch.kind])
	}
	p("\n| errors that workers were told, by kind | times |\n| --- | --- |\n")
	for _, k := range slices.Sorted(maps.Keys(r.Errors)) {
		row(strings.ReplaceAll(k, ":", ": "), r.Errors[k])
	}
	return b.String()
}

// write puts the section into a page, between its marks, and makes the timeline beside it.
func (r *longResult) write(file string) error {
	const begin, end = "<!-- nfs-long -->\n", "<!-- end of nfs-long -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for it, between %q and %q", file, begin, end)
	}
	if err := os.WriteFile(file, []byte(before+begin+"\n"+r.String()+"\n"+end+after), 0o644); err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(file, ".md")+"-timeline.html", []byte(r.timeline()), 0o644)
}
