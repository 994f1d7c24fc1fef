package conformance

import (
	"context"
	"errors"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What backend.Grant says of the TTL of a claim that has waited.
var shortGrantRules = []Rule{
	{ID: "wait-grant-kept", Statement: "a claim that has waited keeps the key for as long as its grant says, also if that is less than it claimed", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken", "stale-not-before-ttl"}, run: waitGrantKept},
	{ID: "wait-grant-completed", Statement: "the first renewal gives a claim that has waited at least the TTL it claimed", needs: []backend.Capability{backend.CapWatch}, rests: []string{"wait-woken", "renew-extends", "wait-grant-kept"}, run: waitGrantCompleted},
}

// inherit has a claim wait for key, which another holds, and get it when it is
// released. It says nothing more then.
func (x *trial) inherit(b backend.Backend, ttl time.Duration) silent {
	a := x.client()
	key := x.key()
	before, c := x.acquire(a, key, x.long()), x.claim(ttl)
	wake, stop, err := b.(backend.Watcher).Watch(x.ctx, key, c)
	if err != nil {
		x.failf("Watch gave %q", err)
	}
	stopped := false
	end := func(granted bool) {
		if stopped {
			return
		}
		stopped = true
		if err := stop(context.WithoutCancel(x.ctx), granted); err != nil {
			x.errorf("ending a watch gave %q", err)
		}
	}
	defer end(false)
	x.release(a, before)
	for {
		if _, ok := await(x, wake, x.soon()); !ok {
			x.restf("wait-woken", "a release did not wake the waiter within %v", x.soon())
		}
		s := silent{asked: time.Now()}
		g, err := x.attempt(b, key, c)
		if errors.Is(err, backend.ErrHeld) {
			continue // a wake-up too many
		}
		end(err == nil)
		if err != nil {
			x.failf("the attempt after the wake-up gave %q", err)
		}
		s.Grant, s.answered = g, time.Now()
		return s
	}
}

func waitGrantKept(x *trial) {
	b := x.client()
	s := x.inherit(b, x.long())
	if s.TTL <= 0 {
		x.failf("the TTL in force is %v", s.TTL)
	}
	if s.TTL >= x.long() {
		// not one that grants less, and no trial lasts that long
		x.release(b, s.Grant)
		s = x.inherit(b, x.ttl())
	}
	x.early(x.client(), s, x.ttl())
}

func waitGrantCompleted(x *trial) {
	a, b := x.client(), x.client()
	s := x.inherit(b, x.long())
	asked := time.Now()
	g, err := b.Renew(x.ctx, s.Grant)
	if err != nil {
		x.unlessStalled(s.asked, s.TTL/8)
		x.latef("Renew of a grant of %v, %v after it was given, gave %q", s.TTL, backend.Round(time.Since(s.answered)), err)
	}
	if g.TTL < x.long() {
		x.failf("a claim of %v that waited was granted %v, and Renew made that %v", x.long(), s.TTL, g.TTL)
	}
	if g.Token != s.Token || g.ID != s.ID || g.Key != s.Key {
		x.failf("Renew turned token %d of claim %q into token %d of claim %q", s.Token, s.ID, g.Token, g.ID)
	}
	if s.TTL < x.long() {
		x.notef("a claim of %v that waited was granted %v at first", x.long(), s.TTL)
		// what was granted at first does not end it
		for end := asked.Add(s.TTL + x.cfg.Slack); time.Now().Before(end); x.sleep(x.poll()) {
			if got, err := x.attempt(a, g.Key, x.claim(x.ttl())); err == nil {
				x.failf("a grant of %v was renewed to %v, and %v later a stranger got token %d", s.TTL, g.TTL, backend.Round(time.Since(asked)), got.Token)
			}
		}
	}
	x.stillHolds(a, g, "the first renewal after a wait")
	x.release(b, g)
}
