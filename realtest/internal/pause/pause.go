// Package pause tells how long a machine stood still while something was measured:
// what is late by no more than that is late through nobody's fault.
package pause

import (
	"sync"
	"time"
)

const (
	tick = 5 * time.Millisecond
	// usual is how much later than asked for a sleeper may wake on a machine that is well.
	usual = 20 * time.Millisecond
)

// Watch begins to look. The function that it returns ends that, and says for how long
// altogether this process did not run that should have: the machine was stopped, or
// others had its processors.
func Watch() (stop func() time.Duration) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	var stood time.Duration
	last := time.Now()
	look := func() {
		if late := time.Since(last) - tick; late > usual {
			stood += late
		}
		last = time.Now()
	}
	wg.Go(func() {
		for {
			select {
			case <-end:
				look() // it may have been late all this time
				return
			case <-time.After(tick):
				look()
			}
		}
	})
	return sync.OnceValue(func() time.Duration {
		close(end)
		wg.Wait()
		return stood
	})
}
