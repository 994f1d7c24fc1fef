package conformance

import (
	"context"
	"errors"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var lossRules = []Rule{
	{ID: "loss-before-takeover", Statement: "a lease that is not renewed is given up by its holder before anyone can take the key over", run: lossBeforeTakeover},
	{ID: "loss-known-late", Statement: "who asks a lost lease for the first time after the loss finds it lost everywhere", rests: []string{"stale-after-ttl"}, run: lossKnownLate},
	{ID: "loss-harmless", Statement: "the late heartbeat and Release of a lease that was taken over harm nobody", run: lossHarmless},
}

func unrenewed(o *hasp.Options) { o.NoHeartbeat = true }

func lossBeforeTakeover(x *trial) {
	l, b := x.locker(func(o *hasp.Options) { unrenewed(o); o.TTL = x.ttl() }), x.client()
	begun := time.Now()
	lease := x.lease(l, x.key())
	got := time.Now()
	deadline := lease.Deadline()
	if ttl := lease.Grant().TTL; deadline.Sub(got) > ttl || deadline.Before(begun) {
		x.failf("the lease's deadline is %v after it was acquired, and its TTL is %v", deadline.Sub(got), ttl)
	}
	for {
		asked := time.Now()
		g, err := x.attempt(b, lease.Key(), x.claim(lease.Grant().TTL))
		at := time.Now()
		if err == nil {
			if at.Before(deadline) {
				x.failf("another got token %d %v before the holder's own deadline", g.Token, deadline.Sub(at))
			}
			break
		}
		if late := asked.Sub(got.Add(lease.Grant().TTL)); late > x.slack(got.Add(lease.Grant().TTL)) {
			x.restf("stale-after-ttl", "the key could not be taken over %v after its TTL", backend.Round(late))
		}
		x.sleep(x.poll())
	}
	if err := lease.Err(); !errors.Is(err, hasp.ErrLost) {
		x.failf("after another took over, the lease's Err is %v and not ErrLost", err)
	}
}

func lossKnownLate(x *trial) {
	l := x.locker(func(o *hasp.Options) { unrenewed(o); o.TTL = x.ttl() })
	lease := x.lease(l, x.key())
	x.sleep(time.Until(lease.Deadline()) + 50*time.Millisecond)
	if err := lease.Err(); !errors.Is(err, hasp.ErrLost) {
		x.failf("after its deadline the lease's Err is %v and not ErrLost", err)
	}
	select {
	case <-lease.Done():
	default:
		x.failf("Done of a lost lease is not closed")
	}
	if err := context.Cause(lease.Context()); !errors.Is(err, hasp.ErrLost) {
		x.failf("the cause of a lost lease's Context is %v and not ErrLost", err)
	}
	if err := lease.Verify(x.ctx); !errors.Is(err, hasp.ErrLost) {
		x.failf("Verify of a lost lease gave %v and not ErrLost", err)
	}
	for range 2 {
		if err := lease.Release(x.ctx); !errors.Is(err, hasp.ErrLost) {
			x.failf("Release of a lost lease gave %v and not ErrLost", err)
		}
	}
	// nor does it keep others waiting
	x.closes(l, "Release of a lost lease")
	b, c, begun := x.client(), x.claim(x.ttl()), time.Now()
	for {
		g, err := x.attempt(b, lease.Key(), c)
		if err == nil {
			if g.Token <= lease.Token() {
				x.restf("token-after-expiry", "got %d after %d", g.Token, lease.Token())
			}
			return
		}
		if late := time.Since(begun); late > x.slack(begun) {
			x.failf("%v after a lost lease was released a claim gave %q", backend.Round(late), err)
		}
		x.sleep(x.poll())
	}
}

// lateRelease releases a lost lease, and waits until what comes of it has been
// done.
func (x *trial) lateRelease(l hasp.Locker, lease *hasp.Lease, why string) {
	if err := lease.Release(x.ctx); !errors.Is(err, hasp.ErrLost) {
		x.failf("Release of a lease that %s gave %v and not ErrLost", why, err)
	}
	x.closes(l, "Release of a lease that "+why)
}

// closes closes l, which waits for its requests, but not for ever.
func (x *trial) closes(l hasp.Locker, after string) {
	begun := time.Now()
	if err := l.Close(); err != nil {
		x.unlessStalled(begun, time.Second)
		x.failf("Close after %s gave %q", after, err)
	}
}

func lossHarmless(x *trial) {
	l, a, b := x.locker(func(o *hasp.Options) { unrenewed(o); o.TTL = x.ttl() }), x.client(), x.client()
	asked := time.Now()
	lease := x.lease(l, x.key())
	g := lease.Grant()
	next, _ := x.takeover(b, silent{g, asked, time.Now()}, x.long())
	if _, err := a.Renew(x.ctx, g); !errors.Is(err, backend.ErrLost) {
		x.restf("renew-after-takeover", "Renew after a takeover gave %v and not ErrLost", err)
	}
	x.lateRelease(l, lease, "was taken over")
	x.stillHolds(a, next, "the former holder's heartbeat and Release")
}
