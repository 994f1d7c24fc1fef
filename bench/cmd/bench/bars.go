//go:build unix

package main

import (
	"fmt"
	"strings"
	"time"
)

// writeBars writes what was aimed at beside what was found. Nothing fails if a bar
// is missed: a time says as much about the machine as about the program.
func (r *report) writeBars() {
	var rows [][]string
	bar := func(what, bar, measured string, met bool) {
		verdict := "met"
		if !met {
			verdict = "**missed**"
		}
		rows = append(rows, []string{what, bar, measured, verdict})
	}
	atMost := func(what, unit string, value, limit float64) {
		bar(what, fmt.Sprintf("<= %s %s", figures(limit), unit), figures(value)+" "+unit, value <= limit)
	}
	for _, c := range comparisons {
		for _, g := range r.uncontended {
			limit := c.limit
			if strings.HasSuffix(g.title, "tmpfs") {
				limit = c.inMemory
			}
			if a, b := g.of(c.ours), g.of(c.theirs); a != nil && b != nil && limit > 0 {
				atMost(g.title+", acquire + release", "× "+c.theirs, a.over(b).median(), limit)
			}
		}
	}
	for _, m := range r.migrations {
		where := "on this host"
		if m.away > 0 {
			where = fmt.Sprint(m.away, " away")
		}
		for _, x := range m.ratios() {
			atMost("migration "+where+", "+x.what, "× "+x.theirs, x.q.median(), x.limit)
		}
	}
	if r.command != nil {
		base := r.command.of(trueName).median()
		more := r.command.of(runTrueName).median() - base
		bar("`hasp run LOCK -- true`, over `true`", "< 15 ms", seconds(more), more < 0.015)
	}
	medians := map[string]float64{}
	for _, h := range r.handOffs {
		medians[h.kind] = h.times.median()
	}
	if len(medians) > 0 {
		atMost("Redis, hand-off, median", "round trips, one after another", medians[haspRedis]/r.ping.median(), 3)
		atMost("Redis, hand-off, median", "round trips after a pause as long", medians[haspRedis]/r.coldPing.median(), 3)
		q := medians[redsyncName] / medians[haspRedis]
		bar("Redis, hand-off, faster than redsync's defaults", ">= 20 ×", figures(q)+" ×", q >= 20)
		atMost("etcd, hand-off, median", "× "+mutexName, medians[haspEtcd]/medians[mutexName], 1)
	}
	var least, most *crowd
	for i, c := range r.crowds {
		// With fewer waiters than this the lock is often free when it is asked for.
		if c.kind == haspRedis && !c.local && c.waiters >= crowdProcesses {
			if least == nil {
				least = &r.crowds[i]
			}
			most = &r.crowds[i]
		}
	}
	if most != nil && most != least {
		bar(fmt.Sprintf("Redis, requests per grant, %d and %d waiters", least.waiters, most.waiters), "no growth",
			figures(least.requests)+" and "+figures(most.requests), most.requests <= 1.5*least.requests)
		bar(fmt.Sprintf("Redis, %d waiters, Jain's index", most.waiters), ">= 0.9", figures(most.jain), most.jain >= 0.9)
		bar(fmt.Sprintf("Redis, %d waiters, without a grant", most.waiters), "0", fmt.Sprint(most.starved), most.starved == 0)
	}
	few := map[string]int{}
	for i, h := range r.holdings {
		if _, ok := few[h.Kind]; !ok {
			few[h.Kind] = h.Goroutines
		}
		if i+1 < len(r.holdings) && r.holdings[i+1].Kind == h.Kind {
			continue // not the largest
		}
		what := fmt.Sprintf("%s, %d held leases, ", h.Kind, h.Leases)
		bar(what+"goroutines", "O(1)", fmt.Sprintf("%d with 1 lease, %d with all", few[h.Kind], h.Goroutines), h.Goroutines <= few[h.Kind]+100)
		bar(what+"lost", "0", fmt.Sprint(h.Lost), h.Lost == 0)
		if h.Leases < h.Asked {
			bar(h.Kind+", leases held", fmt.Sprint(h.Asked), fmt.Sprintf("%d within %v", h.Leases, h.Acquired.Round(time.Second)), false)
		}
		bar(what+"memory", "< 2048 bytes a lease", fmt.Sprintf("%.0f bytes", h.Bytes), h.Bytes < 2048)
		if !strings.HasPrefix(h.Kind, haspDir) { // the bar is for 100,000, which a directory is not asked for
			bar(what+"heartbeats", "< 10 % of a core", figures(h.CPU*100)+" %", h.CPU < 0.1)
		}
	}
	if len(rows) == 0 {
		return
	}
	r.say("## What was aimed at\n")
	r.table("what|bar|measured|", rows)
	r.say("Ratios are medians over rounds. Locks on NFS, counted in requests and timed, are in [benchmarks-nfs.md](benchmarks-nfs.md), by `make bench-nfs`.\n")
}
