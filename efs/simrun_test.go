//go:build unix

package efs

import (
	"flag"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed = flag.Uint64("seed", 0, "repeat the simulated history of this seed, and print it")
	simFrom = flag.Uint64("simfrom", 0, "simulate other histories, of each kind from this seed on, for as long as -sim says, not a fixed number")
	simTime = flag.Duration("sim", 3*time.Second, "for how long at most histories are simulated")
)

// TestSimulatedHistory prints the history of one seed.
func TestSimulatedHistory(t *testing.T) {
	if *simSeed == 0 {
		t.Skip("it prints the history that -seed names")
	}
	failure, log := history(t, *simSeed, nil, true)
	t.Logf("history of seed %d:\n%s", *simSeed, log)
	if failure != "" {
		t.Errorf("seed %d: %s", *simSeed, failure)
	}
}

// Histories of processes, hosts and a file system that does all that it may. They are the
// same in every run; -simfrom is for others.
func TestSimulation(t *testing.T) {
	most := int64(5000)
	if *simFrom != 0 {
		most = 1 << 31 // from one kind's seeds to the next's
	}
	for _, c := range []struct {
		what string
		bits uint64
		d    time.Duration
	}{
		{"locks", 1, *simTime},
		{"removals", withRemovals, *simTime},
		{"seals", withSeals | withValues, *simTime},
		{"values", withValues, *simTime},
		{"strangers", withStrangers | withValues, *simTime / 2},
		{"strangers and seals", withStrangers | withRefusals | withSeals, *simTime / 2},
		{"local", withLocal | withStrangers | withRefusals | withValues, *simTime / 2},
		{"refusals", withRefusals | withValues, *simTime / 2},
		{"clocks", withClocks | withRefusals, *simTime / 2},
	} {
		t.Run(c.what, func(t *testing.T) { simulateFrom(t, c.bits|*simFrom, most, c.d) })
	}
}

func simulateFrom(t *testing.T, from uint64, most int64, d time.Duration) {
	start := time.Now()
	n, failed := simulate(t, nil, from, most, d, 3)
	t.Logf("%d histories in %v", n, time.Since(start).Round(time.Millisecond))
	for seed := range failed {
		failure, log := history(t, seed, nil, true)
		t.Errorf("seed %d: %s", seed, failure)
		if lines := strings.Split(log, "\n"); len(lines) > 60 {
			log = strings.Join(lines[len(lines)-60:], "\n")
		}
		t.Log(log)
	}
}

// histories that went wrong once.
var histories = []struct {
	seed uint64
	what string
}{
	{5000429, "a name that is newer than the time of its directory, which was read before it"},
	{5000155, "the same, of what a waiter writes into the name"},
	{5015650, "remembered names keep a directory from being swept"},
	{7461, "a guard without its entry is put up"},
	{7002754, "a guard that a late request has moved aside"},
	{5001421, "an unfinished placeholder is put back as a lock file"},
	{6000191, "a placeholder that could not be read is put back as a lock file"},
	{5000482, "an empty state directory arrives late"},
	{5000719, "a failed look is called corrupt"},
	{5002666, "a guard that was away for a moment is called corrupt"},
	{5001624, "a release whose answer was lost is called a loss"},
	{5000033, "a time that is whole by chance"},
	{12885005276, "a claim that may have the lock, by a takeover whose answer was lost, is told that it has not"},
	{17179873093, "hasp clear takes away the guard of a live holder whose state was removed"},
	{17179870366, "the same, by one who has seen that guard stand for an earlier holder"},
	{17179870295, "a guard of a new state is taken for one's own of the old"},
	{4294968579, "a published value is removed by its setter, who compares again"},
	{5013865, "a claim that may have the lock is told that it has not"},
	{180388626435, "a file that was in the state directory's place is remembered, and the lock called corrupt"},
	{141733921009, "a claim that has the lock is told that it has not, since a second attempt was refused"},
	{146028888560, "a lock is called not sealed from memory"},
}

func TestHistories(t *testing.T) {
	for _, h := range histories {
		if failure, _ := history(t, h.seed, nil, false); failure != "" {
			t.Errorf("seed %d, %s: %s", h.seed, h.what, failure)
		}
	}
}

// simulate runs histories from a seed on until they are most, time is up, or enough have
// failed.
func simulate(t *testing.T, v *variant, seed uint64, most int64, d time.Duration, enough int) (n int64, failed map[uint64]string) {
	failed = map[uint64]string{}
	var mu sync.Mutex
	var next, count atomic.Int64
	end := time.Now().Add(d)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for time.Now().Before(end) {
				k := next.Add(1) - 1
				if k >= most {
					return
				}
				s := seed + uint64(k)
				f, _ := history(t, s, v, false)
				count.Add(1)
				mu.Lock()
				if f != "" {
					failed[s] = f
				}
				done := len(failed) >= enough
				mu.Unlock()
				if done {
					return
				}
			}
		})
	}
	all.Wait()
	return count.Load(), failed
}
