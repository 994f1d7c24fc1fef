package hasp_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// shortClient grants less than is claimed, as backends may to those who waited, and
// gives the rest with the first renewal.
type shortClient struct {
	*memlock.Client
	first    time.Duration
	claimed  atomic.Int64
	renewals atomic.Int32
}

func (c *shortClient) Acquire(ctx context.Context, key string, cl backend.Claim) (backend.Grant, error) {
	c.claimed.Store(int64(cl.TTL))
	cl.TTL = min(cl.TTL, c.first)
	return c.Client.Acquire(ctx, key, cl)
}

func (c *shortClient) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	c.renewals.Add(1)
	if _, err := c.Client.Renew(ctx, g); err != nil {
		return g, err
	}
	// of memlock's verbs it is the repeated Acquire that sets a TTL
	return c.Client.Acquire(ctx, g.Key, backend.Claim{ID: g.ID, Holder: g.Holder, TTL: time.Duration(c.claimed.Load())})
}

func (c *shortClient) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	rs := make([]backend.Renewal, len(gs))
	for i, g := range gs {
		rs[i].Grant, rs[i].Err = c.Renew(ctx, g)
	}
	return rs
}

func TestShortGrantIsRenewedAtOnce(t *testing.T) {
	for name, opts := range map[string]*hasp.Options{
		"defaults":     nil,
		"no heartbeat": {NoHeartbeat: true},
		"wide margin":  {Margin: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				c := &shortClient{Client: store.Client(), first: 9 * time.Second}
				le := acquire(t, locker(t, c, opts), "k")
				within(t, "the deadline at first", time.Until(le.Deadline()), 4*time.Second, 9*time.Second)
				time.Sleep(20 * time.Millisecond)
				if n := c.renewals.Load(); n != 1 {
					t.Errorf("%d renewals 20 ms after a short grant, want 1", n)
				}
				within(t, "the deadline then", time.Until(le.Deadline()), 239*time.Second, 300*time.Second)
				if opts == nil || !opts.NoHeartbeat {
					time.Sleep(time.Hour)
				} else {
					time.Sleep(200 * time.Second)
					if n := c.renewals.Load(); n != 1 {
						t.Errorf("%d renewals without heartbeats, want 1", n)
					}
				}
				if err := le.Err(); err != nil {
					t.Error(err)
				}
				mustState(t, store, "k", backend.Held)
			})
		})
	}
}

// A lock that is released within the time of a round trip costs no renewal.
func TestShortGrantReleasedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := &shortClient{Client: memlock.New().Client(), first: 9 * time.Second}
		l := locker(t, c, nil)
		for range 100 {
			le := acquire(t, l, "k")
			time.Sleep(time.Millisecond)
			release(t, le)
		}
		time.Sleep(time.Minute)
		if n := c.renewals.Load(); n != 0 {
			t.Errorf("%d renewals of 100 leases that were held for 1 ms", n)
		}
	})
}

func TestShortGrantThatCannotBeRenewed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := &shortClient{Client: store.Client(), first: 9 * time.Second}
		store.Inject(memlock.OpRenew, "k", memlock.Fault{Err: backend.Unavailable(errShutdown), Times: 2})
		le := acquire(t, locker(t, c, nil), "k")
		time.Sleep(3 * time.Second)
		within(t, "the deadline after two failures", time.Until(le.Deadline()), 280*time.Second, 300*time.Second)
		release(t, le)

		store.Inject(memlock.OpRenew, "k2", memlock.Fault{Err: backend.Unavailable(errShutdown), Times: -1})
		start := time.Now()
		le = acquire(t, locker(t, c, nil), "k2")
		<-le.Done()
		mustMatch(t, le.Err(), hasp.ErrLost)
		// the margin, as far as the short grant has room for it
		if after := time.Since(start); after != 4500*time.Millisecond {
			t.Errorf("lost after %v", after)
		}
		mustState(t, store, "k2", backend.Held)
	})
}

// A backend that does not keep its word costs no more heartbeats than another.
func TestShortGrantStaysShort(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		c := &shortClient{Client: store.Client(), first: 9 * time.Second}
		l := locker(t, c, nil)
		acquire(t, l, "k")
		c.claimed.Store(int64(c.first))
		time.Sleep(90 * time.Second)
		if n := c.renewals.Load(); n < 10 || n > 60 {
			t.Errorf("%d renewals in 90 s of grants of 9 s", n)
		}
	})
}
