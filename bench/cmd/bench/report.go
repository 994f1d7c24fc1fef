//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// report is everything that was measured.
type report struct {
	start       time.Time
	facts       []fact
	uncontended []group
	migrations  []*migrationCost
	command     *group
	ping        sample // one after another
	coldPing    sample // each after a pause
	handOffs    []handOffs
	crowds      []crowd
	holdings    []holding
	failures    []error

	text strings.Builder
	dir  string
	err  error
}

// write writes benchmarks.md and the plots into dir.
func (r *report) write(dir string) error {
	r.dir = dir
	r.say("# Benchmarks\n\nWritten by `make bench` (`bench/cmd/bench`), in one run of %v on one machine, everything beside its "+
		"alternatives. Figures of other machines differ; the ratios less so. Contestants take turns in short batches, so that "+
		"whatever else the machine does meets all of them alike.\n", time.Since(r.start).Round(time.Second))
	rows := [][]string{}
	for _, f := range append(r.facts, fact{"load average at the end", load()}) {
		rows = append(rows, []string{f.name, f.value})
	}
	r.table("the machine|", rows)
	for _, err := range r.failures {
		r.say("**Failed**, and so missing below: %v\n", err)
	}
	r.writeBars()
	if len(r.uncontended) > 0 {
		r.writeUncontended()
	}
	if len(r.migrations) > 0 {
		r.writeMigration()
	}
	if r.command != nil {
		r.writeCommand()
	}
	if len(r.handOffs) > 0 {
		r.writeHandOffs()
	}
	if len(r.crowds) > 0 {
		r.writeCrowds()
	}
	if len(r.holdings) > 0 {
		r.writeHoldings()
	}
	r.file("benchmarks.md", r.text.String())
	return r.err
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(&r.text, format+"\n", args...) }

// table writes a Markdown table; head has the columns' titles between bars.
func (r *report) table(head string, rows [][]string) {
	r.say("| %s |", strings.Join(strings.Split(head, "|"), " | "))
	r.say("|%s", strings.Repeat("---|", strings.Count(head, "|")+1))
	for _, row := range rows {
		r.say("| %s |", strings.Join(row, " | "))
	}
	r.say("")
}

// plot writes an image and shows it.
func (r *report) plot(name, alt, svg string) {
	r.file(name, svg)
	r.say("![%s](%s)\n", alt, name)
}

// file writes a file; the first error is kept for write.
func (r *report) file(name, text string) {
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o666); err != nil && r.err == nil {
		r.err = err
	}
}

// colour is the contestant's, in all plots.
func colour(kind string) string {
	switch kind {
	case haspRedis, haspBare:
		return colours[0]
	case haspEtcd:
		return colours[1]
	case haspDir:
		return colours[6]
	case haspMemory:
		return colours[7]
	case bsmName, flockName:
		return colours[2]
	case redsyncName, legacyName:
		return colours[3]
	case mutexName, rueidisName:
		return colours[5]
	}
	return colours[4]
}

func (r *report) writeUncontended() {
	r.say("## A lock that nobody else wants\n\nAcquire and release in a loop, hasp's through its Locker and so with token, holder record and " +
		"heartbeat scheduler. Each figure is a batch's average per acquire + release; a ratio is of two averages of the " +
		"same round, given as the median over the rounds with its 10th and 90th percentile. " +
		"Contestants come in an order that is drawn for each round, and servers that are not measured are stopped meanwhile. " +
		"On Redis hasp is opened from a URL, and makes its own connections; rueidislock has one key, and its own client; the others have a client of go-redis. " +
		"The lock-file protocol's sleep of 0.1 to 1 s before each acquire is left out.\n")
	var rows [][]string
	var panels []panel
	for _, g := range r.uncontended {
		p := panel{title: g.title}
		for i, kind := range g.kinds {
			s := g.samples[i]
			p.bars = append(p.bars, bar{kind, s.median(), s.quantile(.1), s.quantile(.9), colour(kind)})
			rows = append(rows, []string{g.title, kind, seconds(s.median()), seconds(s.quantile(.1)) + " to " + seconds(s.quantile(.9)),
				fmt.Sprintf("%d × %d", len(s), g.ops)})
		}
		panels = append(panels, p)
	}
	r.table("place|contestant|median|10th to 90th percentile|batches × operations", rows)
	rows = nil
	for _, c := range comparisons {
		for _, g := range r.uncontended {
			if a, b := g.of(c.ours), g.of(c.theirs); a != nil && b != nil {
				q := a.over(b)
				rows = append(rows, []string{g.title, c.ours + " / " + c.theirs, figures(q.median()),
					figures(q.quantile(.1)) + " to " + figures(q.quantile(.9))})
			}
		}
	}
	r.table("place|ratio|median|10th to 90th percentile", rows)
	r.say("On ext4 a file made just after another was deleted costs more the more were deleted in the last seconds, so that the " +
		"lock-file protocol, which creates and deletes one each time, slows itself down; " +
		"tmpfs shows the same operations without that.\n")
	r.plot("uncontended.svg", "time of an acquire and release without contention", barPlot("Acquire + release, uncontended",
		"median; the thin line is from the 10th to the 90th percentile; less is better", false, seconds, panels))
}

func (r *report) writeCommand() {
	r.say("## A command under a lock\n\nA process that starts the command, waits for it and reads its output, again and again. hasp makes and releases a " +
		"lease, its lock file included unless told otherwise, and sees to it that the command ends if the lock is lost or hasp killed.\n")
	var rows [][]string
	base := r.command.of(trueName).median()
	for i, kind := range r.command.kinds {
		s := r.command.samples[i]
		rows = append(rows, []string{"`" + kind + "`", seconds(s.median()), seconds(s.quantile(.1)) + " to " + seconds(s.quantile(.9)),
			seconds(s.median() - base), fmt.Sprint(len(s))})
	}
	r.table("command|median|10th to 90th percentile|more than `true` alone|runs", rows)
}

// comparisons are the ratios that are of interest, and what they should not exceed, in
// memory (tmpfs) what the second limit says; 0 means that nothing is aimed at.
var comparisons = []struct {
	ours, theirs    string
	limit, inMemory float64
}{
	{haspRedis, bsmName, 1.25, 0}, {haspRedis, redsyncName, 0, 0}, {haspRedis, rueidisName, 0.85, 0}, {haspRedis, pingName, 1.3, 0}, {haspEtcd, mutexName, 1.05, 0},
	{haspBare, flockName, 2, 2}, {haspDir, legacyName, 1.3, 1.8},
}

func (r *report) writeHandOffs() {
	r.say("## Hand-off to a waiting process\n\nOne process holds the lock, another waits; the time is from the call of release in the first "+
		"to the return of acquire in the second, by the monotonic clock that they share. redsync is used with its defaults, "+
		"rueidislock with one key and a second for each request, bsm/redislock, which has no defaults, with a linear backoff of %v; the first and the last of these poll, so the release is at a random moment. A process of the lock-file protocol polls every 5 s, "+
		"so it gets the lock 2.5 s after its release on average and 5 s at worst; that was not waited for here.\n", bsmBackoff)
	if len(r.ping) > 0 {
		r.say("One PING to the same Redis, in between: %s median when one follows another, %s (10th to 90th percentile %s to %s) when the client and the server had nothing to do for %v before, as in a hand-off. Which of these a round trip takes is a matter of how fast the machine wakes a process that sleeps.\n",
			seconds(r.ping.median()), seconds(r.coldPing.median()), seconds(r.coldPing.quantile(0.1)), seconds(r.coldPing.quantile(0.9)), pause)
	}
	var rows [][]string
	var panels []panel
	for _, h := range r.handOffs {
		rows = append(rows, []string{h.title, h.kind, seconds(h.times.median()), seconds(h.times.quantile(.1)) + " to " + seconds(h.times.quantile(.9)),
			seconds(h.times.quantile(.99)), fmt.Sprint(len(h.times))})
		b := bar{h.kind, h.times.median(), h.times.quantile(.1), h.times.quantile(.99), colour(h.kind)}
		if n := len(panels); n == 0 || panels[n-1].title != h.title {
			panels = append(panels, panel{title: h.title})
		}
		panels[len(panels)-1].bars = append(panels[len(panels)-1].bars, b)
	}
	r.table("place|contestant|median|10th to 90th percentile|99th|hand-offs", rows)
	r.plot("handoff.svg", "time from release to the return of a waiting process's acquire", barPlot("Hand-off to a waiting process",
		"median, logarithmic; the thin line is from the 10th to the 99th percentile; less is better", true, seconds, panels))
}

// name is the crowd's in tables and legends.
func (c crowd) name() string {
	if c.local {
		return c.kind + ", one Locker a process"
	}
	return c.kind
}

func (r *report) writeCrowds() {
	r.say("## Many waiters\n\nThe waiters are in %d processes, want one lock, and give it up as soon as they have it. They are watched for some seconds "+
		"after a second of warming up. Where it says \"one Locker a process\", the waiters of a process queue within it and only the first contends "+
		"at the server, which is how a program would do it; else each hasp waiter has a Locker of its own and waits at the server, on one shared "+
		"connection per process. A hand-off is a grant to another waiter than the one before: those who poll often get the lock themselves again. "+
		"Latency is from the call of release to the return of the next acquire. Two holders at once would have ended the run with an error.\n", crowdProcesses)
	var rows [][]string
	byName := map[string]int{}
	var requests, latency, fairness []series
	for _, c := range r.crowds {
		inside := "-"
		if c.commands > 0 {
			inside = figures(c.commands)
		}
		rows = append(rows, []string{c.name(), fmt.Sprint(c.waiters), figures(float64(c.grants) / c.window.Seconds()),
			figures(float64(c.changes) / c.window.Seconds()), seconds(c.latency.median()), seconds(c.latency.quantile(.99)),
			figures(c.requests), figures(c.requests * float64(c.grants) / float64(c.changes)), inside, figures(c.jain), seconds(c.longest.Seconds()), fmt.Sprint(c.starved), fmt.Sprint(c.gaveUp)})
		i, ok := byName[c.name()]
		if !ok {
			i = len(requests)
			byName[c.name()] = i
			s := series{name: c.name(), colour: colour(c.kind), dashed: c.local}
			requests, latency, fairness = append(requests, s), append(latency, s), append(fairness, s)
		}
		n := float64(c.waiters)
		requests[i].points = append(requests[i].points, point{n, c.requests})
		latency[i].points = append(latency[i].points, point{n, c.latency.quantile(.99)})
		fairness[i].points = append(fairness[i].points, point{n, c.jain})
	}
	r.table("contestant|waiters|grants/s|hand-offs/s|latency, median|99th percentile|requests a grant|requests a hand-off|commands a grant, with those in scripts|Jain's index|longest wait|without a grant|gave up", rows)
	r.say("Jain's index is over the waiters' numbers of grants: 1 means that all got the same, and with few grants a waiter it cannot reach 1. The longest wait is cut off by the time watched. " +
		"\"Gave up\" counts acquires that ended by the contestant's own rules (redsync: 32 tries; bsm/redislock: the TTL) and were begun again.\n")
	r.plot("waiters-requests.svg", "requests per grant over the number of waiters", linePlot("What a grant costs the server",
		"waiters", "requests per grant, logarithmic; less is better", true, figures, requests))
	r.plot("waiters-latency.svg", "99th percentile of the hand-off latency over the number of waiters", linePlot("Hand-off among many waiters, 99th percentile",
		"waiters", "from release to the next waiter's acquire, logarithmic; less is better", true, seconds, latency))
	r.plot("waiters-fairness.svg", "Jain's index over the number of waiters", linePlot("Fairness",
		"waiters", "Jain's index of the waiters' grants; 1 is best", false, figures, fairness))
}

func (r *report) writeHoldings() {
	r.say("## Many held leases\n\nOne process holds them, with a TTL of %v and so a heartbeat for each every %v. Bytes are of its heap and stacks after a collection, "+
		"less those of the process before; memlock's include the store itself. CPU is the process's share of one core, in user and system mode, all goroutines and the garbage collector "+
		"included. The processes of the backends ran at the same time. Acquiring stops after a while: what is held by then is watched. Lost are leases that ended since the process began, because they could not be renewed in time.\n", ttl, ttl/3)
	var rows [][]string
	byKind := map[string]int{}
	var cpu, bytes []series
	for _, h := range r.holdings {
		rows = append(rows, []string{h.Kind, fmt.Sprint(h.Leases), fmt.Sprint(h.Goroutines), fmt.Sprintf("%.0f", h.Bytes),
			figures(h.CPU*100) + " %", figures(h.Renewals), figures(h.Requests), figures(h.Commands), h.Acquired.Round(time.Millisecond).String(), h.Window.String(), fmt.Sprint(h.Lost)})
		i, ok := byKind[h.Kind]
		if !ok {
			i = len(cpu)
			byKind[h.Kind] = i
			s := series{name: h.Kind, colour: colour(h.Kind)}
			cpu, bytes = append(cpu, s), append(bytes, s)
		}
		cpu[i].points = append(cpu[i].points, point{float64(h.Leases), h.CPU * 100})
		if h.Leases >= 100 { // with fewer it is the buffers of connections
			bytes[i].points = append(bytes[i].points, point{float64(h.Leases), h.Bytes})
		}
	}
	r.table("backend|leases|goroutines|bytes a lease|CPU|renewals/s|requests/s|commands/s, with those in scripts|acquiring the last of them took|watched|lost", rows)
	r.plot("leases-cpu.svg", "processor time of heartbeats over the number of leases", linePlot("Heartbeats of held leases",
		"leases", "% of one core at a TTL of 30 s, logarithmic; less is better", true, figures, cpu))
	r.plot("leases-bytes.svg", "memory per lease over the number of leases", linePlot("Memory of held leases",
		"leases", "bytes per lease, logarithmic; less is better", true, figures, bytes))
}
