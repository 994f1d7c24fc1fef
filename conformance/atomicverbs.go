package conformance

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

func renewAtomic(x *trial) {
	a := x.client()
	x.undisturbed(x.withdrawn(x.rounds(40), func(s silent) error {
		_, err := a.Renew(x.ctx, s.Grant)
		return err
	}), "Renew")
}

func releaseAtomic(x *trial) {
	a := x.client()
	x.undisturbed(x.withdrawn(x.rounds(40), func(s silent) error { return a.Release(x.ctx, s.Grant) }), "Release")
}

// expiryRounds is how often the rules about the moment at which a TTL runs out wait for
// it: the shorter it is, the harder the moment is to hit.
func (x *trial) expiryRounds() int { return int(max(1, min(3, 1500*time.Millisecond/x.ttl()))) }

func expiryAtomic(x *trial) {
	a := x.client()
	const keys = 24
	// Some before the moment and some after it, by a request's time; that of a store in
	// memory is too short for what a timer can hit.
	span := max(1200*time.Microsecond, x.requestTime(a))
	around := func(i int, _ silent) time.Duration { return span * time.Duration(2*i-keys) / keys }
	for range x.expiryRounds() {
		x.undisturbed(x.expired(keys, around, func(i int, s silent) error {
			if i%2 == 0 {
				return a.Release(x.ctx, s.Grant)
			}
			_, err := a.Renew(x.ctx, s.Grant)
			return err
		}), "Renew or Release")
	}
}

func breakAtomic(x *trial) {
	a := x.client()
	x.undisturbed(x.withdrawn(x.rounds(40), func(s silent) error { return backend.Break(x.ctx, a, s.Key, s.Token) }), "Break")
}

func raiseAtomic(x *trial) {
	a := x.client()
	x.undisturbed(x.withdrawn(x.rounds(24), func(s silent) error { return backend.RaiseToken(x.ctx, a, s.Key, s.Token+1) }), "RaiseToken")
}

// lookAtomic looks again and again from shortly before the end of the TTL on, until the
// key has been taken over.
func lookAtomic(x *trial) {
	a := x.client()
	looks := []func(s silent){func(s silent) { _, _ = a.Inspect(x.ctx, s.Key) }}
	if backend.Has(a, backend.CapList) {
		looks = append(looks, func(s silent) { _, _ = backend.List(x.ctx, a, s.Key) })
	}
	if w, ok := backend.AsWatcher(a); ok {
		looks = append(looks, func(s silent) {
			if _, stop, err := w.Watch(x.ctx, s.Key, x.claim(x.long())); err == nil {
				_ = stop(x.ctx, false)
			}
		})
	}
	if backend.Has(a, backend.CapBreak) {
		looks = append(looks, func(s silent) { _ = backend.Break(x.ctx, a, s.Key, s.Token-1) }) // the next one may be Token+1
	}
	before := func(_ int, s silent) time.Duration { return -s.TTL / 20 }
	look := func(_ int, s silent) error {
		end := s.end().Add(x.cfg.Slack)
		var wg sync.WaitGroup
		for _, look := range looks {
			x.spawn(&wg, func() {
				for time.Now().Before(end) && x.ctx.Err() == nil {
					look(s)
					if r, err := a.Inspect(x.ctx, s.Key); err != nil || r.State == backend.Held && r.ID != s.ID {
						return
					}
					x.sleepOr(rand.N(time.Millisecond))
				}
			})
		}
		wg.Wait()
		return nil
	}
	for range x.expiryRounds() {
		x.undisturbed(x.expired(24, before, look), "a look, a watch or a Break with another token")
	}
}

func renewConcurrent(x *trial) {
	a, b, d := x.client(), x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	const rounds = 25
	var wg sync.WaitGroup
	for i, by := range []backend.Backend{a, b} {
		mine := g
		if i == 1 {
			mine.State = nil // it is a's
		}
		x.spawn(&wg, func() {
			for range rounds {
				next, err := by.Renew(x.ctx, mine)
				switch {
				case err == nil:
					mine = next
				case !errors.Is(err, backend.ErrUnavailable):
					x.errorf("Renew of a live grant, beside another's Renew of it, gave %q", err)
					return
				}
			}
		})
	}
	if backend.Has(d, backend.CapRaiseToken) {
		x.spawn(&wg, func() {
			for i := range uint64(rounds) {
				if err := backend.RaiseToken(x.ctx, d, g.Key, g.Token+i); err != nil {
					x.errorf("RaiseToken, beside renewals, gave %q", err)
					return
				}
			}
		})
	}
	wg.Wait()
	x.stillHolds(b, g, "renewals at once")
}
