package conformance

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What looks and then acts, in two requests, is right until a takeover comes in
// between. It has to come at that moment, so these rules try it with many keys.
var atomicRules = []Rule{
	{ID: "renew-atomic", Statement: "a Renew that a takeover comes in between neither takes the key back nor changes how long its new holder has it", phase: busy, rests: []string{"withdraw", "renew-after-takeover", "renew-after-release"}, run: renewAtomic},
	{ID: "release-atomic", Statement: "a Release that a takeover comes in between frees nobody", phase: busy, rests: []string{"withdraw", "release-spares-successor"}, run: releaseAtomic},
	{ID: "expiry-atomic", Statement: "a Renew or a Release at the moment at which the TTL runs out, with another at the door, harms nobody", rests: []string{"stale-not-before-ttl", "stale-after-ttl", "renew-atomic", "release-atomic"}, run: expiryAtomic},
	{ID: "break-atomic", Statement: "a Break that a takeover comes in between frees nobody but the holder it names", phase: busy, needs: []backend.Capability{backend.CapBreak}, rests: []string{"withdraw", "break-exact", "release-atomic"}, run: breakAtomic},
	{ID: "raise-atomic", Statement: "a RaiseToken that a takeover comes in between undoes nothing of it", phase: busy, needs: []backend.Capability{backend.CapRaiseToken}, rests: []string{"withdraw", "token-raised", "release-atomic"}, run: raiseAtomic},
	{ID: "look-atomic", Statement: "who looks at a key or watches it at the moment at which its TTL runs out, or tries to break it with another token, does no harm to who takes it over", rests: []string{"stale-not-before-ttl", "stale-after-ttl", "expiry-atomic", "break-exact"}, run: lookAtomic},
	{ID: "renew-concurrent", Statement: "renewals of one grant by two clients at once, and tokens that are raised meanwhile, lose nothing", rests: []string{"renew-repeatable", "renew-often", "token-raised", "grant-without-state"}, run: renewConcurrent},
}

// contested is a key that changed hands while the former holder's request was under way.
type contested struct {
	old  silent
	next backend.Grant
	by   backend.Backend
}

// eager claims the key until it gets it, with pauses that are about that long. It returns
// false if an attempt that was begun when it was over had been refused.
func (x *trial) eager(b backend.Backend, key string, pause time.Duration, over func() bool) (backend.Grant, bool) {
	c := x.claim(x.long())
	for n := 0; x.ctx.Err() == nil; n++ {
		last := over()
		g, err := x.attempt(b, key, c)
		if err == nil {
			return g, true
		}
		if !errors.Is(err, backend.ErrHeld) && !errors.Is(err, backend.ErrUnavailable) {
			x.errorf("an attempt gave %q", err)
			return g, false
		}
		switch {
		case last:
			return g, false
		case pause == 0 && n < 200:
			runtime.Gosched()
		case pause == 0: // not to keep those from running for whom it waits
			time.Sleep(50 * time.Microsecond)
		default: // by chance, lest it always comes before another whose pauses are longer
			time.Sleep(rand.N(2 * pause))
		}
	}
	return backend.Grant{}, false
}

// withdrawn has the former holder's request race with a takeover at once: another
// client withdraws the grant and its successor claims the key, at moments that
// sweep over the time that the request takes. The TTL is short: it ends a round in which
// the withdrawal takes long.
func (x *trial) withdrawn(rounds int, old func(silent) error) []contested {
	a, b, d := x.client(), x.client(), x.client()
	const beside = 4 // keys at a time
	var mu sync.Mutex
	var got []contested
	request := x.requestTime(a)
	ttl := x.ttl()
	for round := range rounds {
		// from one request's time before the other to one after it
		off := request * time.Duration(2*round-rounds) / time.Duration(rounds)
		var wg sync.WaitGroup
		for range beside {
			key := x.key()
			s := silent{asked: time.Now()}
			s.Grant = x.acquire(a, key, ttl)
			start := make(chan struct{})
			after := func(d time.Duration) {
				<-start
				begun := time.Now()
				if d > 5*time.Millisecond {
					time.Sleep(d - 2*time.Millisecond)
				}
				for time.Since(begun) < d {
					runtime.Gosched() // a timer is too coarse
				}
			}
			var freed atomic.Pointer[time.Time] // when the withdrawal was answered
			over := func() bool { at := freed.Load(); return at != nil && x.tooLong(*at, x.soon()+ttl+x.cfg.Slack) }
			x.spawn(&wg, func() {
				after(max(0, -off))
				_ = old(s)
			})
			x.spawn(&wg, func() {
				after(max(0, off))
				err := d.Release(x.ctx, backend.Grant{Key: key, ID: s.ID})
				for err != nil && !errors.Is(err, backend.ErrLost) && x.ctx.Err() == nil {
					x.sleepOr(x.poll())
					err = d.Release(x.ctx, backend.Grant{Key: key, ID: s.ID})
				}
				now := time.Now()
				freed.Store(&now)
			})
			x.spawn(&wg, func() {
				<-start
				if next, ok := x.eager(b, key, 0, over); ok {
					mu.Lock()
					got = append(got, contested{s, next, b})
					mu.Unlock()
				} else if r, err := b.Inspect(x.ctx, key); x.ctx.Err() == nil {
					x.errorf("a key that was withdrawn was not to be had within %v: it is %s, %v", x.soon(), r, err)
				}
			})
			close(start)
		}
		wg.Wait()
		if x.failed() {
			return nil
		}
	}
	return got
}

// expired has the former holders' requests race with takeovers at the moment at
// which their TTLs run out, all at once: each begins by off before or after it.
func (x *trial) expired(keys int, off func(i int, s silent) time.Duration, old func(i int, s silent) error) []contested {
	a, b := x.client(), x.client()
	held := make([]silent, keys)
	var wg sync.WaitGroup
	for i := range held {
		key := x.key()
		x.spawn(&wg, func() {
			s := silent{asked: time.Now()}
			var err error
			if s.Grant, err = x.attempt(a, key, x.claim(x.ttl())); err != nil {
				x.errorf("a free key was refused: %v", err)
			}
			s.answered = time.Now()
			held[i] = s
		})
	}
	wg.Wait()
	if x.failed() {
		return nil
	}
	var mu sync.Mutex
	var got []contested
	for i, s := range held {
		over := func() bool { return time.Since(s.end()) > s.TTL+x.slack(s.end()) }
		x.spawn(&wg, func() {
			x.sleepOr(time.Until(s.asked.Add(s.TTL * 95 / 100)))
			if next, ok := x.eager(b, s.Key, x.poll()/10, over); ok {
				mu.Lock()
				got = append(got, contested{s, next, b})
				mu.Unlock()
			}
		})
		x.spawn(&wg, func() {
			x.sleepOr(time.Until(s.asked.Add(s.TTL + off(i, s))))
			_ = old(i, s)
		})
	}
	wg.Wait()
	return got
}

// sleepOr is sleep for a goroutine that is not the rule's own.
func (x *trial) sleepOr(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.ctx.Done():
	}
}

// undisturbed checks that each new holder has its key, and for how long.
func (x *trial) undisturbed(got []contested, what string) {
	if len(got) == 0 {
		return
	}
	settled := time.Now()
	b := got[0].by
	for _, c := range got {
		r := x.inspect(b, c.next.Key)
		if r.State != backend.Held || r.Token != c.next.Token || r.ID != c.next.ID {
			x.failf("%s by a former holder, token %d, that a takeover came in between undid the takeover: token %d is gone, and the key is %s", what, c.old.Token, c.next.Token, r)
		}
		if r.Remaining != 0 && r.Remaining < c.next.TTL-time.Since(c.old.asked)-x.cfg.Slack-time.Second {
			x.failf("%s by a former holder, with a TTL of %v, that a takeover came in between changed how long its new holder has the key, from %v to %v", what, c.old.TTL, c.next.TTL, r.Remaining)
		}
	}
	x.notef("%d takeovers while %s was under way, looked at after %v", len(got), what, backend.Round(time.Since(settled)))
}

func (x *trial) rounds(n int) int {
	if x.cfg.brief {
		return n / 2
	}
	return n
}
