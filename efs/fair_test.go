//go:build unix

package efs

import (
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp"
)

// Three in a tight loop, each of which wants the lock again as soon as it has let go: no
// waiter is passed over by one of them more than a few times.
func TestTightLoopsAreFair(t *testing.T) { try(t, tightLoops) }

func tightLoops(t testing.TB) {
	const clients, grants = 3, 120
	dir := t.TempDir()
	var mu sync.Mutex
	waiting := map[int]map[int]int{} // by waiter: who has had the lock meanwhile, and how often
	most, total := 0, 0
	var wg sync.WaitGroup
	for me := range clients {
		b, err := Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		l := hasp.New(b, &hasp.Options{RetryInterval: 500 * time.Millisecond, MaxRetries: hasp.Unlimited})
		defer l.Close()
		wg.Go(func() {
			for {
				mu.Lock()
				done := total >= grants
				waiting[me] = map[int]int{}
				mu.Unlock()
				if done {
					mu.Lock()
					delete(waiting, me)
					mu.Unlock()
					return
				}
				le, err := l.Acquire(ctxBG, "lock")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				delete(waiting, me)
				total++
				for _, by := range waiting {
					by[me]++
					most = max(most, by[me])
				}
				mu.Unlock()
				time.Sleep(5 * time.Millisecond) // what is done under the lock
				if err := le.Release(ctxBG); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("a waiter was passed over by one other at most %d times in %d grants", most, total)
	if most > 5 {
		t.Errorf("a waiter was passed over %d times by one other", most)
	}
}
