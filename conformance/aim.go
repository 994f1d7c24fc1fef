package conformance

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/hasplock/hasp/backend"
)

// usual is how long f takes: the median of five. With the longest of them, a pause of
// the machine would pass for what a request takes.
func usual(f func()) time.Duration {
	took := make([]time.Duration, 5)
	for i := range took {
		begun := time.Now()
		f()
		took[i] = time.Since(begun)
	}
	slices.Sort(took)
	return took[2]
}

// requestTime is how long an Acquire of a free key usually takes.
func (x *trial) requestTime(b backend.Backend) time.Duration {
	var gs []backend.Grant
	took := usual(func() { gs = append(gs, x.acquire(b, x.key(), x.long())) })
	for _, g := range gs {
		x.release(b, g)
	}
	return took
}

// An aim ends contexts in the middle of requests. How long these take may change while
// it aims, so it learns: what was over before its context ended has it aim earlier, and
// what was given up later, so that about half of them are given up.
type aim struct{ reach time.Duration }

// context returns one that ends while the request is on its way, as far as can be told.
func (a *aim) context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	d := time.Duration(rand.Int64N(int64(a.reach) + 1))
	go func() {
		// timers are too coarse to hit a request in its middle
		for begun := time.Now(); time.Since(begun) < d && ctx.Err() == nil; {
			runtime.Gosched()
		}
		cancel()
	}()
	return ctx, cancel
}

// saw tells what came of a request.
func (a *aim) saw(givenUp bool) {
	if givenUp {
		a.reach = min(a.reach*3/2+time.Microsecond, time.Second)
	} else {
		a.reach /= 2
	}
}
