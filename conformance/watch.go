package conformance

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What Watch promises each of many waiters, each time.
var watchRules = []Rule{
	{ID: "wait-woken-always", Statement: "a waiter is woken each time its key comes free, be it by Release, by a withdrawal or by Break", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken", "wait-watch-again", "withdraw", "release-frees", "break-frees"}, run: waitWokenAlways},
	{ID: "wait-watch-many", Statement: "all of many who watch are served: those of one key one after the other, those of many keys each", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken", "wait-watch-again", "wait-woken-always", "exclusive-race"}, run: waitWatchMany},
	{ID: "wait-watch-stop-own", Statement: "a waiter that stops watching ends no other's watch, of the same key or the same client", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken", "wait-watch-stopped", "wait-watch-many"}, run: waitWatchStopOwn},
	{ID: "wait-watch-traceless", Statement: "a watch that has ended leaves nothing in its client: no wake-up, no goroutine", needs: []backend.Capability{backend.CapWatch}, phase: last, rests: []string{"wait-watch-stopped"}, run: waitWatchTraceless},
}

// watching is a claim that waits for key at the level of the backend.
type watching struct {
	x    *trial
	b    backend.Backend
	key  string
	c    backend.Claim
	wake <-chan struct{}
	stop func(context.Context, bool) error
	done bool
}

func (x *trial) watch(b backend.Backend, key string) *watching {
	w := &watching{x: x, b: b, key: key, c: x.claim(x.long())}
	var err error
	if w.wake, w.stop, err = b.(backend.Watcher).Watch(x.ctx, key, w.c); err != nil {
		x.failf("Watch gave %q", err)
	}
	x.cleanup(func(context.Context) { w.end(false) })
	return w
}

func (w *watching) end(granted bool) {
	w.x.mu.Lock()
	done := w.done
	w.done = true
	w.x.mu.Unlock()
	if done {
		return
	}
	if err := w.stop(context.WithoutCancel(w.x.ctx), granted); err != nil {
		w.x.errorf("ending a watch gave %q", err)
	}
}

// get waits until it is woken and has got the key; false if ctx ended before.
func (w *watching) get(ctx context.Context) (backend.Grant, bool) {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			select { // both may be ready
			case <-w.wake:
			default:
				return backend.Grant{}, false
			}
		}
		g, err := w.x.attempt(w.b, w.key, w.c)
		if err == nil {
			w.end(true)
			return g, true
		}
		if !errors.Is(err, backend.ErrHeld) { // a wake-up too many
			w.x.errorf("the attempt after a wake-up gave %q", err)
			return g, false
		}
	}
}

func waitWokenAlways(x *trial) {
	a, b, d := x.client(), x.client(), x.client()
	type way struct {
		name  string
		times int
		free  func(g backend.Grant) error
	}
	ways := []way{
		{"Release", 24, func(g backend.Grant) error { return a.Release(x.ctx, g) }},
		{"a withdrawal", 3, func(g backend.Grant) error { return d.Release(x.ctx, backend.Grant{Key: g.Key, ID: g.ID}) }},
	}
	if backend.Has(d, backend.CapBreak) {
		ways = append(ways, way{"Break", 3, func(g backend.Grant) error { return backend.Break(x.ctx, d, g.Key, g.Token) }})
	}
	keys := []string{x.key(), x.key(), x.key()}
	for _, way := range ways {
		for i := range way.times {
			g := x.acquire(a, keys[i%len(keys)], x.long())
			w := x.watch(b, g.Key)
			if err := way.free(g); err != nil {
				x.failf("%s gave %q", way.name, err)
			}
			ctx, cancel := x.within(x.soon())
			got, ok := w.get(ctx)
			cancel()
			if !ok && x.failed() {
				return
			}
			if !ok {
				x.failf("%s did not wake the waiter within %v, the %d. time of %d", way.name, x.soon(), i+1, way.times)
			}
			x.release(b, got)
		}
	}
}

func waitWatchMany(x *trial) {
	const n = 20
	a, b, d := x.client(), x.client(), x.client()
	// of one key, half of them of each client
	g := x.acquire(a, x.key(), x.long())
	all := make([]*watching, n)
	for i := range all {
		all[i] = x.watch([]backend.Backend{b, d}[i%2], g.Key)
	}
	x.release(a, g)
	x.served(all, "watches of one key, by two clients")

	// of many keys, by one client
	gs := make([]backend.Grant, n)
	for i := range all {
		gs[i] = x.acquire(a, x.key(), x.long())
		all[i] = x.watch(b, gs[i].Key)
	}
	for _, g := range gs {
		x.release(a, g)
	}
	x.served(all, "watches of as many keys, by one client")
}

// served checks that every one of the watching claims gets its key, and frees it. How
// long all of them take depends on how the store wakes them; each has to be served
// soon after the one before.
func (x *trial) served(all []*watching, what string) {
	var wg sync.WaitGroup
	var served atomic.Int64
	last := atomic.Pointer[time.Time]{}
	now := time.Now()
	last.Store(&now)
	ctx, giveUp := context.WithCancel(x.ctx)
	defer giveUp()
	for _, w := range all {
		x.spawn(&wg, func() {
			g, ok := w.get(ctx)
			if !ok {
				w.end(false)
				return
			}
			served.Add(1)
			now := time.Now()
			last.Store(&now)
			if err := w.b.Release(x.ctx, g); err != nil {
				x.errorf("Release gave %q", err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { defer close(ended); wg.Wait() }()
	for {
		x.atMost(ended, 100*time.Millisecond)
		select {
		case <-ended:
			if x.failed() {
				x.failf("so no more can be said")
			}
			return
		default:
		}
		if since := *last.Load(); time.Since(since) > x.soon()+2*x.s.stalls.since(since) {
			n := served.Load()
			giveUp()
			<-ended
			x.failf("of %d %s, %d were served, and none in the next %v", len(all), what, n, x.soon())
		}
	}
}

func waitWatchStopOwn(x *trial) {
	a, b, d := x.client(), x.client(), x.client()
	// whichever of them stops, the first or the last
	for _, stops := range []int{0, 2} {
		g, other := x.acquire(a, x.key(), x.long()), x.acquire(a, x.key(), x.long())
		same := []*watching{x.watch(b, g.Key), x.watch(b, g.Key), x.watch(b, g.Key), x.watch(d, g.Key)}
		another := x.watch(b, other.Key)
		same[stops].end(false)
		var rest []*watching
		for i, w := range same {
			if i != stops {
				rest = append(rest, w)
			}
		}
		x.release(a, g)
		x.release(a, other)
		x.served(append(rest, another), "watches beside one that had been stopped")
	}
}

// waitWatchTraceless runs alone: it looks for goroutines. It does not ask whether a
// client remembers the claims: a right one may, some of them, to know an answer again.
func waitWatchTraceless(x *trial) {
	const n = 40
	a, b := x.client(), x.client()
	key := x.key()
	name := x.s.nonce + "-" + key
	g := x.acquire(a, key, x.long())
	var wakes []<-chan struct{}
	goroutines := func() int {
		sum := 0
		for _, s := range stacks(name) {
			sum += countOf(s)
		}
		return sum
	}
	before := 0
	labelled(x.ctx, name, func(ctx context.Context) {
		for i := range n + 1 {
			wake, stop, err := b.(backend.Watcher).Watch(ctx, key, x.claim(x.long()))
			if err != nil {
				x.failf("Watch gave %q", err)
			}
			if err := stop(ctx, false); err != nil {
				x.failf("ending a watch gave %q", err)
			}
			wakes = append(wakes, wake)
			if i == 0 {
				x.sleep(50 * time.Millisecond) // what one watch started for all
				before = goroutines()
			}
		}
	})
	for _, wake := range wakes { // what came before it was stopped
		select {
		case <-wake:
		default:
		}
	}
	for range 3 {
		x.release(a, g)
		g = x.acquire(a, key, x.long())
	}
	x.sleep(50 * time.Millisecond)
	late := 0
	for _, wake := range wakes {
		select {
		case _, open := <-wake:
			if open {
				late++
			}
		default:
		}
	}
	if late > n/2 {
		x.failf("%d of %d watches that had ended were woken by a later release", late, len(wakes))
	}
	for begun := time.Now(); ; x.sleep(50 * time.Millisecond) {
		more := goroutines() - before
		if more < n/2 {
			return
		}
		if x.tooLong(begun, x.soon()) {
			x.failf("after %d watches that had ended there are %d goroutines more", n, more)
		}
	}
}

// countOf reads how many goroutines a part of a profile stands for. The first part
// begins with a line about the whole.
func countOf(stack string) int {
	for _, line := range strings.Split(stack, "\n") {
		if n, _, ok := strings.Cut(line, " @ "); ok {
			count, _ := strconv.Atoi(n)
			return count
		}
	}
	return 0
}
