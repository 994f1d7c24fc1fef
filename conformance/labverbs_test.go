package conformance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

var (
	_ backend.Backend      = (*labClient)(nil)
	_ backend.Watcher      = (*labClient)(nil)
	_ backend.Breaker      = (*labClient)(nil)
	_ backend.Lister       = (*labClient)(nil)
	_ backend.BatchRenewer = (*labClient)(nil)
	_ backend.LossNotifier = (*labClient)(nil)
	_ backend.TokenRaiser  = (*labClient)(nil)
)

func (c *labClient) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	s := c.s
	if s.is("renewal hangs without time", g.Key) && ctx.Err() != nil {
		time.Sleep(8 * time.Second)
	}
	c.mu.Lock()
	cut := c.heal != nil
	c.mu.Unlock()
	if cut && s.is("renewal assumed", g.Key) {
		return g, nil
	}
	if err := c.enter(ctx, g.Key); err != nil {
		return g, err
	}
	defer s.mu.Unlock()
	now := time.Now()
	e := s.entry(g.Key)
	if s.is("renewal needs State", g.Key) && g.State == nil {
		return g, backend.ErrLost
	}
	if !e.held || !sameID(e.id, g.ID, s) {
		fate := e.ids[g.ID]
		switch {
		case s.is("anyone may renew", g.Key) && e.held && fate == "":
		case s.is("renewal after takeover", g.Key) && fate == "taken",
			s.is("renewal after release", g.Key) && fate == "released" && !e.held,
			s.is("renewal after break", g.Key) && fate == "broken" && !e.held:
			e.held, e.id, e.holder, e.last, e.ttl = true, g.ID, g.Holder, g.Token, g.TTL
		case s.is("the broken are not told", g.Key) && fate == "broken" && e.held:
			return g, nil
		case s.is("after a wipe all is well", g.Key) && s.wipes > 0 && fate == "":
			return g, nil
		case s.is("restart forgets holders", g.Key) && s.restarts > 0 && !e.held:
			return g, nil
		default:
			return g, backend.ErrLost
		}
	}
	switch {
	case s.is("renewal does nothing", g.Key):
	case s.is("renewal is short", g.Key):
		e.renewed = now.Add(-min(e.ttl/3, 150*time.Millisecond))
	default:
		e.renewed = now
	}
	return g, nil
}

func (c *labClient) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	rs := make([]backend.Renewal, len(gs))
	if c.s.mut == "batch of one is not sent" { // it notices nothing but that it is closed
		if err := c.enterAll(ctx); err != nil {
			for i := range rs {
				rs[i].Err = err
			}
			return rs
		}
		c.s.mu.Unlock()
	}
	lost := false
	for i, g := range gs {
		rs[i].Grant = g
		switch {
		case c.s.is("batch of one is not sent", g.Key) && len(gs) == 1,
			c.s.is("batch renews only the first", g.Key) && i > 0,
			c.s.is("batch stops at the first loss", g.Key) && lost:
			continue
		}
		rs[i].Grant, rs[i].Err = c.Renew(ctx, g)
		lost = lost || rs[i].Err != nil
	}
	if c.s.mut == "batch drops the last" && len(rs) > 1 {
		rs = rs[:len(rs)-1]
	}
	return rs
}

func (c *labClient) Release(ctx context.Context, g backend.Grant) error {
	if err := c.enter(ctx, g.Key); err != nil {
		return err
	}
	s := c.s
	defer s.mu.Unlock()
	e := s.entry(g.Key)
	fate := e.ids[g.ID]
	switch {
	case s.is("withdrawal needs a token", g.Key) && g.Token == 0:
		return backend.ErrLost
	case e.held && sameID(e.id, g.ID, s):
		if s.is("stale release fails", g.Key) && e.stale(time.Now()) {
			e.renewed, e.ttl = time.Now(), time.Hour
			return errors.New("session not found")
		}
		if s.is("release takes its time", g.Key) {
			time.AfterFunc(80*time.Millisecond, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if e.held && e.id == g.ID {
					s.free(e, "released")
				}
			})
			return nil
		}
		s.free(e, "released")
		return nil
	case !e.held && fate == "released" && g.Token != 0:
		if s.is("second release fails", g.Key) {
			return backend.ErrLost
		}
		return nil
	case e.held && fate == "" && s.is("anyone may release", g.Key),
		e.held && fate != "" && s.is("release frees the successor", g.Key),
		e.held && fate != "" && g.Token == 0 && s.is("withdrawal frees the successor", g.Key):
		s.free(e, "released")
		return nil
	}
	return backend.ErrLost
}

func (c *labClient) Inspect(ctx context.Context, key string) (r backend.Record, err error) {
	s := c.s
	mixed := false
	if s.is("answers mixed up", key) {
		mixed = c.busy.Add(1) > 1
		time.Sleep(time.Millisecond)
		defer c.busy.Add(-1)
	}
	if err := c.enter(ctx, key); err != nil {
		return r, err
	}
	defer s.mu.Unlock()
	e := s.entry(key)
	r = e.record(time.Now())
	switch {
	case mixed:
		r.Token++
	case s.is("remaining stands still", key) && r.State == backend.Held:
		r.Remaining = e.ttl
	case s.is("anonymous", key):
		r.Holder = backend.Holder{Owner: r.Holder.Owner}
	case s.is("stale looks held", key) && e.held:
		r.State = backend.Held
	case s.is("free shows the next token", key) && !e.held:
		r.Token = uint64(time.Now().Add(time.Hour).UnixMicro())
	case s.is("own grant shown", key) && e.ids[r.ID] == "" && s.first(c, e) != "":
		r.State, r.ID, r.Token = backend.Held, s.first(c, e), e.before
	case s.is("free is cached", key):
		if until, ok := c.free[key]; ok && time.Now().Before(until) {
			r = backend.Record{Key: key, State: backend.Free}
		} else if !e.held && e.times == 0 {
			c.free[key] = time.Now().Add(time.Second)
		}
	}
	return r, nil
}

// first returns a claim that c made and that was released by another.
func (s *lab) first(c *labClient, e *labEntry) string {
	for id, fate := range e.ids {
		if fate == "released" && e.by != c {
			return id
		}
	}
	return ""
}

// Prompt is a lie of that mutant.
func (c *labClient) Prompt() bool { return c.s.mut == "watching hangs" }

func (c *labClient) Watch(ctx context.Context, key string, cl backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	for begun := time.Now(); c.s.is("watching hangs", key) && time.Since(begun) < 20*time.Second; time.Sleep(5 * time.Millisecond) {
		c.s.mu.Lock()
		busy := c.s.entry(key).held
		c.s.mu.Unlock()
		if !busy {
			break
		}
	}
	if err := c.enter(ctx, key); err != nil {
		return nil, nil, err
	}
	s := c.s
	defer s.mu.Unlock()
	e := s.entry(key)
	w := &labWaiter{id: cl.ID, wake: make(chan struct{}, 1)}
	e.queue = append(e.queue, w)
	if s.mut != "watchers look too late" {
		s.wake(e)
	}
	if s.mut == "watch leaks a goroutine" {
		go func() { <-make(chan struct{}) }()
	}
	stop := func(_ context.Context, granted bool) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !granted && (s.is("stopped watchers stay", key) || s.is("cancelled waiters stay", key) && e.refusedIDs[w.id] > 0) {
			return nil
		}
		if !granted && s.is("watchers leave a key", key) {
			d := s.entry(key + ".waiting")
			d.held, d.ttl, d.renewed, d.by = true, time.Hour, time.Now(), c
		}
		e.queue = slices.DeleteFunc(e.queue, func(o *labWaiter) bool { return o == w })
		s.wake(e)
		return nil
	}
	return w.wake, stop, nil
}

func (c *labClient) Break(ctx context.Context, key string, token uint64) error {
	if err := c.enter(ctx, key); err != nil {
		return err
	}
	s := c.s
	e := s.entry(key)
	var err error
	id := e.id
	switch {
	case !e.held && s.is("break of a free key is nothing", key):
	case !e.held:
		err = backend.ErrNotHeld
	case e.last != token && !s.is("break ignores the token", key):
		err = &backend.HeldError{Record: e.record(time.Now())}
	case s.is("break only when stale", key) && !e.stale(time.Now()):
		err = errors.New("it is not stale")
	default:
		s.free(e, "broken")
		if s.is("break forgets the token", key) {
			e.last = 0
		}
	}
	s.mu.Unlock()
	if err == nil && !s.is("loss is not told", key) {
		s.tell(key, id)
	}
	return err
}

// tell notifies every client of a loss.
func (s *lab) tell(key, id string) {
	s.mu.Lock()
	var fs []func(string, string)
	for c := range s.clients {
		c.mu.Lock()
		for _, f := range c.losses {
			fs = append(fs, f)
		}
		c.mu.Unlock()
	}
	s.mu.Unlock()
	for _, f := range fs {
		f(key, id)
	}
}

func (c *labClient) List(ctx context.Context, prefix string) (rs []backend.Record, err error) {
	if err := c.enterAll(ctx); err != nil {
		return nil, err
	}
	s := c.s
	defer s.mu.Unlock()
	now := time.Now()
	for key, e := range s.keys {
		if strings.HasPrefix(key, prefix) && (e.held || s.mut == "list shows free keys") {
			rs = append(rs, e.record(now))
		}
	}
	slices.SortFunc(rs, func(a, b backend.Record) int { return strings.Compare(a.Key, b.Key) })
	switch {
	case s.mut == "anonymous":
		for i := range rs {
			rs[i].Holder = backend.Holder{Owner: rs[i].Holder.Owner}
		}
	case s.mut == "list in reverse":
		slices.Reverse(rs)
	case s.mut == "list leaves one out" && len(rs) > 2:
		rs = rs[1:]
	}
	return rs, nil
}

func (c *labClient) RaiseToken(ctx context.Context, key string, floor uint64) error {
	if err := c.enter(ctx, key); err != nil {
		return err
	}
	defer c.s.mu.Unlock()
	e := c.s.entry(key)
	e.raised = max(e.raised, floor)
	if c.s.is("raise changes the holder", key) && e.held {
		e.last = max(e.last, floor)
	}
	return nil
}

func (c *labClient) OnLoss(f func(key, id string)) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.subs
	c.subs++
	c.losses[n] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.losses, n)
	}
}
