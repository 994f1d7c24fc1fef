package memlock

import (
	"context"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Client is one process's connection to a Store; it implements
// backend.Backend and what backend.Capabilities can name, but for backend.Clearer:
// nothing of a dead holder is in anybody's way.
type Client struct {
	s *Store

	mu      sync.Mutex // of the client's own state; Store.mu may be taken inside
	closed  bool
	cut     bool // partitioned from the store
	losses  map[int]func(key, id string)
	nextSub int
}

var (
	_ backend.Backend      = (*Client)(nil)
	_ backend.Watcher      = (*Client)(nil)
	_ backend.Breaker      = (*Client)(nil)
	_ backend.Lister       = (*Client)(nil)
	_ backend.BatchRenewer = (*Client)(nil)
	_ backend.LossNotifier = (*Client)(nil)
	_ backend.TokenRaiser  = (*Client)(nil)
	_ backend.ValueStore   = (*Client)(nil)
)

// do checks the key and runs f on the store, unless a fault says otherwise.
func (c *Client) do(ctx context.Context, op Op, key string, f func(now time.Time) error) error {
	if err := backend.ValidateKey(key); err != nil {
		return err
	}
	return c.run(ctx, op, key, f)
}

func (c *Client) run(ctx context.Context, op Op, key string, f func(now time.Time) error) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return backend.ErrClosed
	}
	after, err := c.s.faults.before(ctx, c, op, key)
	if err != nil {
		return err
	}
	c.s.mu.Lock()
	err = f(time.Now())
	c.s.mu.Unlock()
	if after != nil {
		return after()
	}
	return err
}

// Acquire implements backend.Backend.
func (c *Client) Acquire(ctx context.Context, key string, cl backend.Claim) (g backend.Grant, err error) {
	if err := backend.ValidateClaim(cl); err != nil {
		return g, err
	}
	err = c.do(ctx, OpAcquire, key, func(now time.Time) error {
		e := c.s.entry(key)
		switch {
		case e.held && e.id == cl.ID: // a repeated attempt
			e.renewed, e.ttl = now, cl.TTL
		case e.held && !e.stale(now):
			r := e.record(key, now)
			return backend.RefusedBy(r)
		default:
			token, err := backend.NextToken(e.last, max(cl.TokenFloor, e.raised), now)
			if err != nil {
				return err
			}
			e.last, e.held, e.id, e.holder, e.ttl = token, true, cl.ID, cl.Holder, cl.TTL
			e.since, e.renewed = now, now
		}
		g = backend.Grant{Key: key, ID: cl.ID, Holder: cl.Holder, Token: e.last, TTL: e.ttl}
		return nil
	})
	return g, err
}

// Renew implements backend.Backend.
func (c *Client) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	err := c.do(ctx, OpRenew, g.Key, func(now time.Time) error { return c.s.renew(g, now) })
	return g, err
}

// renew restarts g's TTL. A grant that is stale but was not taken over may be
// renewed: nobody else has held the key. Called with mu held.
func (s *Store) renew(g backend.Grant, now time.Time) error {
	e := s.entry(g.Key)
	if !e.held || e.id != g.ID {
		return backend.ErrLost
	}
	e.renewed = now
	return nil
}

// RenewAll implements backend.BatchRenewer.
func (c *Client) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	rs := make([]backend.Renewal, len(gs))
	for i, g := range gs {
		rs[i].Grant, rs[i].Err = c.Renew(ctx, g)
	}
	return rs
}

// Release implements backend.Backend.
func (c *Client) Release(ctx context.Context, g backend.Grant) error {
	return c.do(ctx, OpRelease, g.Key, func(time.Time) error {
		e := c.s.entry(g.Key)
		switch {
		case e.held && e.id == g.ID:
			e.free()
			return nil
		case !e.held && g.Token != 0 && e.last == g.Token:
			return nil // released before
		}
		return backend.ErrLost
	})
}

// Inspect implements backend.Backend.
func (c *Client) Inspect(ctx context.Context, key string) (r backend.Record, err error) {
	err = c.do(ctx, OpInspect, key, func(now time.Time) error {
		r = c.s.entry(key).record(key, now)
		return nil
	})
	return r, err
}

// Watch implements backend.Watcher. Waiters are woken all at once: the store has
// no queue.
func (c *Client) Watch(ctx context.Context, key string, _ backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	w := &watch{wake: make(chan struct{}, 1)}
	err := c.do(ctx, OpWatch, key, func(now time.Time) error {
		e := c.s.entry(key)
		if e.watches == nil {
			e.watches = map[*watch]struct{}{}
		}
		e.watches[w] = struct{}{}
		if !e.held || e.stale(now) { // since the attempt that found it held
			w.wake <- struct{}{}
		}
		return nil
	})
	stop := func(context.Context, bool) error {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		delete(c.s.entry(key).watches, w)
		return nil
	}
	if err != nil {
		_ = stop(ctx, false) // it may be the reply that was lost
		return nil, nil, err
	}
	return w.wake, stop, nil
}

// Break implements backend.Breaker.
func (c *Client) Break(ctx context.Context, key string, token uint64) error {
	var id string
	err := c.do(ctx, OpBreak, key, func(now time.Time) error {
		e := c.s.entry(key)
		if !e.held {
			return backend.ErrNotHeld
		}
		if e.last != token {
			return &backend.HeldError{Record: e.record(key, now)}
		}
		id = e.id
		// a token of its own, so that the holder's late Release is told of it
		next, err := backend.NextToken(e.last, 0, now)
		if err != nil {
			return err
		}
		e.last = next
		e.free()
		return nil
	})
	if err == nil {
		c.s.faults.lost(key, id)
	}
	return err
}

// List implements backend.Lister.
func (c *Client) List(ctx context.Context, prefix string) (rs []backend.Record, err error) {
	err = c.run(ctx, OpList, prefix, func(now time.Time) error {
		rs = c.s.list(prefix, now)
		return nil
	})
	return rs, err
}

// RaiseToken implements backend.TokenRaiser.
func (c *Client) RaiseToken(ctx context.Context, key string, floor uint64) error {
	return c.do(ctx, OpRaiseToken, key, func(time.Time) error {
		e := c.s.entry(key)
		e.raised = max(e.raised, floor)
		return nil
	})
}

// OnLoss implements backend.LossNotifier: Break tells every client that is not
// partitioned.
func (c *Client) OnLoss(f func(key, id string)) (cancel func()) {
	c.s.faults.subscribe(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nextSub
	c.nextSub++
	c.losses[n] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.losses, n)
	}
}

// notify tells the client's subscribers.
func (c *Client) notify(key, id string) {
	c.mu.Lock()
	var fs []func(string, string)
	if !c.cut && !c.closed {
		for _, f := range c.losses {
			fs = append(fs, f)
		}
	}
	c.mu.Unlock()
	for _, f := range fs {
		f(key, id)
	}
}

// Close implements backend.Backend.
func (c *Client) Close() error {
	c.s.faults.unsubscribe(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}
