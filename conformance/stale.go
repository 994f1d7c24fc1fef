package conformance

import (
	"errors"
	"time"

	"github.com/hasplock/hasp/backend"
)

var staleRules = []Rule{
	{ID: "stale-not-before-ttl", Statement: "nobody gets a key before its silent holder's TTL has run out", run: staleNotBefore},
	{ID: "stale-after-ttl", Statement: "a key can be taken over when its silent holder's TTL has run out", run: staleAfter},
	{ID: "stale-waiter-long", Statement: "it is the holder's TTL that counts: one who claims with a longer TTL takes over just as early", run: staleWaiterLong},
	{ID: "stale-waiter-short", Statement: "it is the holder's TTL that counts: one who claims with a shorter TTL takes over no earlier", rests: []string{"stale-not-before-ttl"}, run: staleWaiterShort},
	{ID: "stale-again", Statement: "a key that was taken over lives its new holder's TTL and is then taken over in turn", rests: []string{"stale-not-before-ttl"}, run: staleAgain},
	{ID: "stale-shown", Statement: "Inspect does not show a stale key as held, nor a valid one as stale", run: staleShown},
}

// early claims the silent holder's key all the time until shortly before its
// TTL is over and fails if it gets it.
func (x *trial) early(b backend.Backend, s silent, waiter time.Duration) {
	var last time.Time
	for time.Since(s.asked) < s.TTL*95/100 {
		last = time.Now()
		g, err := x.attempt(b, s.Key, x.claim(waiter))
		if took := time.Since(s.asked); err == nil && took < s.TTL {
			if waiter == s.TTL {
				x.restf("stale-not-before-ttl", "a claim got token %d %v after the last sign of life of a holder whose TTL is %v", g.Token, backend.Round(took), s.TTL)
			}
			x.failf("a claim with a TTL of %v got token %d %v after the last sign of life of a holder whose TTL is %v", waiter, g.Token, backend.Round(took), s.TTL)
		}
		if err == nil { // the answer took so long that the TTL was over
			_ = b.Release(x.ctx, g) // it is in the way of what the rule does next
			break
		}
		if !errors.Is(err, backend.ErrHeld) {
			x.failf("an attempt at a held key gave %q", err)
		}
		x.sleep(x.poll())
	}
	if late := last.Sub(s.asked); late < s.TTL*3/4 {
		x.unlessStalled(s.asked, s.TTL/8)
		x.undecide("the last attempt in a TTL of %v was made after %v", s.TTL, backend.Round(late))
	}
}

func staleNotBefore(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	x.early(b, s, s.TTL)
}

func staleAfter(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	g, at := x.takeover(b, s, s.TTL)
	x.notef("taken over %v after a TTL of %v had run out", backend.Round(at.Sub(s.answered.Add(s.TTL))), s.TTL)
	if g.ID == s.ID {
		x.failf("the grant has the former holder's ID")
	}
}

func staleWaiterLong(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	long := 4*s.TTL + 4*x.cfg.Slack
	c := x.claim(long)
	for {
		begun := time.Now()
		if _, err := x.attempt(b, s.Key, c); err == nil {
			return
		}
		if late := begun.Sub(s.end()); late > x.slack(s.end()) {
			// is it so for everybody?
			if _, err := x.attempt(b, s.Key, x.claim(s.TTL)); err != nil {
				x.restf("stale-after-ttl", "%v after the holder's TTL of %v had run out the key was still held", backend.Round(late), s.TTL)
			}
			x.failf("%v after the holder's TTL of %v had run out a claim with a TTL of %v was still refused", backend.Round(late), s.TTL, long)
		}
		x.sleep(x.poll())
	}
}

func staleWaiterShort(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), 2*x.ttl())
	x.early(b, s, x.ttl())
}

func staleAgain(x *trial) {
	a, b := x.client(), x.client()
	first := x.holdSilently(a, x.key(), x.ttl())
	second := x.takeoverSilently(b, first, x.ttl())
	g := second.Grant
	for time.Since(second.answered) < g.TTL*9/10 {
		if got, err := x.attempt(a, g.Key, x.claim(g.TTL)); err == nil && time.Since(second.asked) < g.TTL {
			x.failf("a key that had just been taken over went to another with token %d, %v later, and the TTL is %v", got.Token, backend.Round(time.Since(second.asked)), g.TTL)
		} else if err == nil {
			return
		}
		x.sleep(x.poll())
	}
	third, _ := x.takeover(a, second, x.long())
	x.stillHolds(b, third, "a second takeover")
}

func staleShown(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	for {
		begun := time.Now()
		r := x.inspect(b, s.Key)
		answered := time.Now()
		switch {
		case r.State != backend.Held && answered.Sub(s.asked) < s.TTL:
			x.failf("%v after the last sign of life of a holder whose TTL is %v the key is shown as %s", backend.Round(answered.Sub(s.asked)), s.TTL, r)
		case r.State == backend.Held && begun.Sub(s.end()) > x.slack(s.end()):
			if _, err := x.attempt(b, s.Key, x.claim(s.TTL)); err != nil {
				x.restf("stale-after-ttl", "%v after the holder's TTL of %v had run out a claim gave %q", backend.Round(begun.Sub(s.answered.Add(s.TTL))), s.TTL, err)
			}
			x.failf("%v after the holder's TTL of %v had run out the key is shown as %s", backend.Round(begun.Sub(s.answered.Add(s.TTL))), s.TTL, r)
		case r.State == backend.Stale && r.Remaining != 0:
			x.failf("a stale key is said to be valid for %v more", r.Remaining)
		case r.State != backend.Held:
			return
		}
		x.sleep(x.poll())
	}
}
