package redistest_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/redistest"
)

// A thousand waiters in eight processes take turns: nobody starves, and a
// hand-off costs the server the same however many wait.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it takes some seconds")
	}
	cost := map[int]float64{}
	for _, waiters := range []int{16, 1000} {
		s := redistest.Start(t, &redistest.Options{Binary: true})
		const processes = 8
		var ws []*worker
		gate := open(t, s.URL())
		g := acquire(t, gate, "k", claim(time.Minute))
		for range processes {
			ws = append(ws, startWorker(t, "crowd", s.URL(), "k", waiters/processes, 0))
		}
		for _, w := range ws {
			w.line()
		}
		eventually(t, "all wait", func() bool {
			r, err := gate.Inspect(context.Background(), "k")
			return err == nil && r.Note == fmt.Sprintf("%d waiting", waiters)
		})
		before, start := s.Commands(), time.Now()
		release(t, gate, g)
		// What is measured is what happens meanwhile: for 8 s, and on a busy machine until
		// there were enough messages, one for each grant.
		for took := time.Duration(0); took < 8*time.Second || took < 2*time.Minute && s.Commands()["publish"]-before["publish"] < int64(4*waiters); took = time.Since(start) {
			time.Sleep(100 * time.Millisecond)
		}
		after, took := s.Commands(), time.Since(start)
		for _, w := range ws {
			w.stdin.Close()
		}
		grants := map[string]int{}
		var waits []int
		total := 0
		for i, w := range ws {
			for l := range w.lines {
				var who, us int
				var token uint64
				if _, err := fmt.Sscan(l, &who, &us, &token); err != nil {
					t.Fatal(l)
				}
				grants[fmt.Sprint(i, "/", who)]++
				waits = append(waits, us)
				total++
			}
		}
		slices.Sort(waits)
		var sum, squares float64
		for _, n := range grants {
			sum += float64(n)
			squares += float64(n * n)
		}
		jain := sum * sum / (float64(waiters) * squares)
		commands := after["evalsha"] - before["evalsha"]
		cost[waiters] = float64(commands) / float64(total)
		t.Logf("%d waiters: %d grants in %v, %.0f a second, Jain's index %.3f, %.2f round trips and %.2f messages per grant, longest wait %v",
			waiters, total, took.Round(time.Millisecond), float64(total)/took.Seconds(), jain, cost[waiters],
			float64(after["publish"]-before["publish"])/float64(total), time.Duration(waits[len(waits)-1])*time.Microsecond)
		if total < 3*waiters {
			t.Fatalf("%d grants only", total)
		}
		if len(grants) != waiters {
			t.Errorf("%d of %d waiters starved", waiters-len(grants), waiters)
		}
		if jain < 0.9 {
			t.Errorf("Jain's index %.3f", jain)
		}
	}
	if cost[1000] > 1.5*cost[16] {
		t.Errorf("%.2f round trips per grant with 1000 waiters, %.2f with 16", cost[1000], cost[16])
	}
}
