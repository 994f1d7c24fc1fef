package conformance

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var exclusionRules = []Rule{
	{ID: "exclusive-clients", Statement: "while one client holds a key every other client's attempt gives a *HeldError", run: exclusiveClients},
	{ID: "exclusive-in-client", Statement: "claims of one client exclude each other as those of different clients do: nothing is reentrant", run: exclusiveInClient},
	{ID: "exclusive-race", Statement: "of many clients that claim a free key at the same moment one gets it", phase: busy, rests: []string{"exclusive-clients"}, run: exclusiveRace},
	{ID: "exclusive-takeover", Statement: "of many clients that claim a stale key at the same moment one gets it", phase: busy, rests: []string{"exclusive-clients", "exclusive-in-client", "stale-again", "stale-waiter-long"}, run: exclusiveTakeover},
	{ID: "client-concurrent", Statement: "one client serves many goroutines with different keys at once", phase: busy, rests: []string{"exclusive-clients"}, run: clientConcurrent},
	{ID: "no-lost-update", Statement: "a counter that is read and written under the lock loses no update, whoever contends", phase: busy, rests: []string{"exclusive-clients", "exclusive-race"}, run: noLostUpdate},
}

func exclusiveClients(x *trial) {
	bs := x.clients(4)
	key := x.key()
	g := x.acquire(bs[0], key, x.long())
	for range 3 {
		for _, b := range bs[1:] {
			x.refused(b, key)
		}
	}
	x.stillHolds(bs[1], g, "attempts by others")
}

func exclusiveInClient(x *trial) {
	b := x.client()
	key := x.key()
	g := x.acquire(b, key, x.long())
	for range 3 {
		g2, err := x.attempt(b, key, x.claim(x.long()))
		if err == nil {
			x.failf("the client that holds the key with token %d got it again, for another claim, with token %d", g.Token, g2.Token)
		}
		if !errors.Is(err, backend.ErrHeld) {
			x.failf("a second claim of the holder's client gave %q, not a *HeldError", err)
		}
	}
	x.stillHolds(b, g, "other claims of its own client")
}

// race lets every client claim the key at once and returns who got it.
func (x *trial) race(bs []backend.Backend, key string) []backend.Grant {
	var mu sync.Mutex
	var won []backend.Grant
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, b := range bs {
		x.spawn(&wg, func() {
			c := x.claim(x.long())
			<-start
			g, err := x.attempt(b, key, c)
			switch {
			case err == nil:
				mu.Lock()
				won = append(won, g)
				mu.Unlock()
			case !errors.Is(err, backend.ErrHeld):
				x.errorf("an attempt in a race gave %q, not a *HeldError", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if x.failed() {
		runtime.Goexit()
	}
	return won
}

func exclusiveRace(x *trial) {
	bs := x.clients(8)
	nobody, rounds := 0, 15
	for range rounds {
		key := x.key()
		won := x.race(bs, key)
		switch len(won) {
		case 0:
			nobody++
		case 1:
			x.stillHolds(bs[0], won[0], "a race")
			x.release(bs[0], won[0])
		default:
			x.failf("%d of 8 clients got a free key at the same moment, with tokens %d and %d", len(won), won[0].Token, won[1].Token)
		}
	}
	if nobody == rounds {
		x.failf("in none of %d races of 8 clients did anybody get the key", rounds)
	}
}

func exclusiveTakeover(x *trial) {
	bs := x.clients(8)
	const keys = 3
	var held [keys]silent
	for i := range held {
		held[i] = x.holdSilently(bs[i], x.key(), x.ttl())
	}
	x.sleep(time.Until(held[0].asked.Add(held[0].TTL * 9 / 10)))
	for _, s := range held {
		won := 0
		for won == 0 {
			begun := time.Now()
			got := x.race(bs, s.Key)
			if won = len(got); won > 1 {
				x.failf("%d of 8 clients took a stale key over at the same moment, with tokens %d and %d", won, got[0].Token, got[1].Token)
			}
			if late := begun.Sub(s.end()); won == 0 && late > x.slack(s.end()) {
				x.restf("stale-after-ttl", "nobody could take a key over %v after its holder's TTL of %v had run out", backend.Round(late), s.TTL)
			}
		}
		if late := x.race(bs, s.Key); len(late) > 0 {
			x.failf("a key that had been taken over was taken again, with token %d, while its new holder was valid", late[0].Token)
		}
	}
}

func clientConcurrent(x *trial) {
	b := x.client()
	var wg sync.WaitGroup
	for range 32 {
		key := x.key()
		x.spawn(&wg, func() {
			g, err := x.attempt(b, key, x.claim(x.long()))
			if err == nil {
				g, err = b.Renew(x.ctx, g)
			}
			var r backend.Record
			if err == nil {
				r, err = b.Inspect(x.ctx, key)
			}
			if err == nil && (r.Token != g.Token || r.State != backend.Held) {
				x.errorf("a key held with token %d is shown as %s", g.Token, r)
			}
			if err == nil {
				err = b.Release(x.ctx, g)
			}
			if err != nil {
				x.errorf("one of 32 goroutines with keys of their own: %v", err)
			}
		})
	}
	wg.Wait()
}

// contest notes whether any who contended has lost its lock.
type contest struct{ lost atomic.Bool }

func (c *contest) note(err error) {
	if errors.Is(err, hasp.ErrLost) {
		c.lost.Store(true)
	}
}

// bearable is how long the machine may have stood still: as a rule that long, but one who
// has waited may have been granted less than it claimed, and has lost it sooner.
func (c *contest) bearable(x *trial, rule time.Duration) time.Duration {
	if c.lost.Load() {
		return min(rule, x.cfg.MinTTL/4)
	}
	return rule
}

func noLostUpdate(x *trial) {
	clients, each, rounds := 4, 2, 6
	if x.cfg.brief {
		clients, rounds = 3, 3
	}
	key := x.key()
	var counter atomic.Int64 // loaded and stored, never added to
	var contest contest
	var wg sync.WaitGroup
	for range clients {
		l := x.locker(func(o *hasp.Options) { o.TTL = 4 * x.steady() })
		for range each {
			x.spawn(&wg, func() {
				for range rounds {
					err := hasp.Do(x.ctx, l, key, func(_ context.Context, _ *hasp.Lease) error {
						n := counter.Load()
						time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
						counter.Store(n + 1)
						return nil
					})
					if err != nil {
						contest.note(err)
						x.errorf("a contender: %v", err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if x.failed() {
		x.unlessStalled(x.start, contest.bearable(x, x.steady()))
		return
	}
	if got, want := counter.Load(), int64(clients*each*rounds); got != want {
		x.failf("%d updates, and the counter says %d", want, got)
	}
	x.notef("%d updates by %d goroutines of %d clients", counter.Load(), clients*each, clients)
}
