package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
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
	if s.is("panics when renewed by another", g.Key) {
		s.mu.Lock()
		id := s.entry(g.Key).id
		s.mu.Unlock()
		if id != g.ID {
			panic("nil lease")
		}
	}
	if s.is("renewal never returns", g.Key) {
		select {}
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
	if e.held && e.id != g.ID && e.stale(now) && s.is("anyone renews what is stale", g.Key) && e.ids[g.ID] == "taken" {
		return g, nil
	}
	if !e.held || !sameID(e.id, g.ID, s) {
		fate := e.ids[g.ID]
		switch {
		case s.is("a stranger's renewal is a sign of life", g.Key) && e.held && fate == "":
			e.renewed = now
			return g, backend.ErrLost
		case s.is("after a break of a stale holder it may renew", g.Key) && fate == "broken while stale" && !e.held:
			e.held, e.id, e.holder, e.ttl, e.renewed = true, g.ID, g.Holder, g.TTL, now
			return g, nil
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
	if e.usedUp(s, g) {
		return g, backend.ErrLost
	}
	if s.is("renewal: looks, then extends", g.Key) || s.is("renewal: looks, then writes", g.Key) || e.late(now) && s.is("late renewal: looks, then writes", g.Key) {
		was := *e
		s.pause()
		if s.mut == "renewal: looks, then extends" { // of whoever has it by then
			e.renewed, e.ttl = now, was.ttl
			return g, nil
		}
		e.held, e.id, e.holder, e.last, e.ttl, e.renewed, e.by = true, was.id, was.holder, was.last, was.ttl, now, was.by
		return g, nil
	}
	if s.is("a conflict is a loss", g.Key) {
		v := e.version
		s.pause()
		if e.version != v {
			return g, backend.ErrLost
		}
	}
	if s.is("a renewal renews all of its client", g.Key) {
		s.renewAll(c, now)
	}
	e.version++
	e.renewals++
	if s.is("counts from the last renewal", g.Key) {
		e.since = now
	}
	switch {
	case s.is("renewals add up", g.Key):
		e.renewed = later(e.renewed.Add(e.ttl), now)
	case s.is("renewals add a tenth", g.Key):
		e.renewed = later(e.renewed.Add(e.ttl/10), now)
	case s.is("renewal doubles the TTL", g.Key):
		e.lag, e.renewed = min(e.ttl, time.Hour), now
	case s.is("renewal does nothing", g.Key):
	case s.is("renewal is short", g.Key):
		e.renewed = now.Add(-min(e.ttl/3, 150*time.Millisecond))
	default:
		e.renewed = now
	}
	if e.ttl < e.claimed && !s.is("short grants stay short", g.Key) {
		g.TTL = e.claimed
		if !s.is("short grants are renewed in word only", g.Key) {
			e.ttl = e.claimed
		}
	}
	switch {
	case s.is("each grant renews once", g.Key):
		g.State = e.renewals
	case s.is("renewed grants without a holder", g.Key):
		g.Holder = backend.Holder{}
	}
	return g, nil
}

// pause is what a network takes between two requests. Others come in between.
func (s *lab) pause() {
	s.mu.Unlock()
	time.Sleep(time.Millisecond)
	s.mu.Lock()
}

// renewAll is what a session does that all of a client's locks hang on.
func (s *lab) renewAll(c *labClient, now time.Time) {
	for _, e := range s.keys {
		if e.held && e.by == c && !e.stale(now) {
			e.renewed = now
		}
	}
}

// swept frees a stale key, when it has been looked at.
func (s *lab) swept(e *labEntry) {
	s.pause()
	if e.held {
		s.free(e, "taken")
	}
}

// late tells whether the TTL is nearly over.
func (e *labEntry) late(now time.Time) bool { return now.Sub(e.renewed) > e.ttl*9/10 }

// usedUp tells whether a grant cannot be renewed any more, by one of the defects
// that there are about it.
func (e *labEntry) usedUp(s *lab, g backend.Grant) bool {
	switch {
	case s.is("each grant renews once", g.Key):
		n, ok := g.State.(int)
		return ok && n != e.renewals || !ok && g.State != nil && e.renewals > 0
	case s.is("ten renewals", g.Key):
		return e.renewals >= 10
	case s.is("fifty renewals", g.Key):
		return e.renewals >= 50
	case s.is("a hundred renewals", g.Key):
		return e.renewals >= 100
	}
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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
			c.s.is("batch renews a hundred", g.Key) && i >= 100,
			c.s.is("batch renews 256", g.Key) && i >= 256,
			c.s.is("batch stops at the first loss", g.Key) && lost:
			continue
		}
		rs[i].Grant, rs[i].Err = c.Renew(ctx, g)
		if c.s.is("batch with the first one's TTL", g.Key) && rs[i].Err == nil {
			c.s.mu.Lock()
			c.s.entry(g.Key).ttl = gs[0].TTL
			c.s.mu.Unlock()
		}
		lost = lost || rs[i].Err != nil
	}
	switch {
	case len(gs) < 2:
	case c.s.mut == "batch answers in reverse":
		slices.Reverse(rs)
	case c.s.mut == "batch answers shuffled":
		rand.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
	case c.s.mut == "batch answers by key":
		slices.SortFunc(rs, func(a, b backend.Renewal) int { return strings.Compare(a.Grant.Key, b.Grant.Key) })
	case c.s.mut == "batch answers the lost last":
		slices.SortStableFunc(rs, func(a, b backend.Renewal) int {
			return map[bool]int{true: 1}[a.Err != nil] - map[bool]int{true: 1}[b.Err != nil]
		})
	case c.s.mut == "errors of a batch are shuffled":
		for i, j := range rand.Perm(len(rs)) {
			rs[i].Err, rs[j].Err = rs[j].Err, rs[i].Err
		}
	}
	if c.s.mut == "batch drops the last" && len(rs) > 1 {
		rs = rs[:len(rs)-1]
	}
	return rs
}

func (c *labClient) Release(ctx context.Context, g backend.Grant) error {
	if c.isCut() && c.s.is("cut off, a release takes ten seconds", g.Key) {
		time.Sleep(10 * time.Second)
	}
	if err := c.enter(ctx, g.Key); err != nil {
		return err
	}
	s := c.s
	defer s.mu.Unlock()
	e := s.entry(g.Key)
	fate := e.ids[g.ID]
	switch {
	case s.is("a stranger's release is a sign of life", g.Key) && e.held && fate == "" && e.id != g.ID:
		e.renewed = time.Now()
		return backend.ErrLost
	case s.is("the broken may release", g.Key) && !e.held && fate == "broken" && g.Token != 0:
		return nil
	case s.is("the overtaken may release what is free", g.Key) && !e.held && fate == "taken":
		return nil
	case s.is("withdrawal needs a token", g.Key) && g.Token == 0:
		return backend.ErrLost
	case e.held && sameID(e.id, g.ID, s):
		if s.is("release: looks, then deletes", g.Key) || g.Token == 0 && s.is("withdrawal: looks, then deletes", g.Key) || e.late(time.Now()) && s.is("late release: looks, then deletes", g.Key) {
			s.pause()
		}
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
		how := "released"
		if g.Token == 0 {
			how = "withdrawn"
		}
		s.free(e, how)
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
	case s.is("losses name the key", g.Key):
		return fmt.Errorf("release %q: %w", g.Key, backend.ErrLost)
	case s.is("losses repeat the holder", g.Key):
		return fmt.Errorf("%w to %s", backend.ErrLost, e.holder.Owner)
	case s.is("losses end too soon", g.Key):
		return fmt.Errorf("%w: %s", backend.ErrLost, "")
	}
	return backend.ErrLost
}

func (c *labClient) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heal != nil
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
	if s.is("panics when looking at a free key", key) && !e.held {
		panic("no row")
	}
	r = e.record(time.Now())
	if r.State == backend.Stale && s.is("a look removes what is stale", key) {
		s.swept(e)
	}
	switch {
	case s.is("records without their claim", key):
		r.ID = ""
	case s.is("records without a holder", key):
		r.Holder = backend.Holder{}
	case s.is("records with the store's key", key):
		r.Key = "lab:" + key
	}
	if s.is("a look is a sign of life", key) && e.held && e.by != c && !e.stale(time.Now()) {
		e.renewed = time.Now()
	}
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

// deafen makes the waiters that a defect forgets on account of a new one deaf.
func (s *lab) deafen(e *labEntry, w *labWaiter) {
	same, mine := 0, []*labWaiter{}
	for _, o := range e.queue {
		if o.by == w.by {
			same++
		}
	}
	for _, other := range s.keys {
		for _, o := range other.queue {
			if o.by == w.by {
				mine = append(mine, o)
			}
		}
	}
	switch {
	case s.is("only the first watch of a key is told", e.key):
		w.deaf = same > 0
	case s.is("only the last watch of a key is told", e.key):
		for _, o := range e.queue {
			o.deaf = o.deaf || o.by == w.by
		}
	case s.is("only the last watch of a client is told", e.key):
		for _, o := range mine {
			o.deaf = true
		}
	case s.is("only sixteen watches of a client are told", e.key):
		w.deaf = len(mine) >= 16
	}
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
	w := &labWaiter{id: cl.ID, wake: make(chan struct{}, 1), by: c}
	s.deafen(e, w)
	if s.is("a watch is a sign of life", key) && e.held && !e.stale(time.Now()) {
		e.renewed = time.Now()
	}
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
		for _, other := range s.keys {
			for _, o := range other.queue {
				switch {
				case granted: // only one that gives up
				case s.is("a watch that ends ends all of its key", key) && other == e,
					s.is("a watch that ends ends all of its client", key) && o.by == c:
					o.deaf = true
				}
			}
		}
		switch {
		case s.mut == "ended watches are still told":
			s.ended = append(s.ended, w)
		case s.mut == "ended watches are closed with their client":
			c.wg.Go(func() { <-c.gone })
		}
		s.wake(e)
		return nil
	}
	if s.is("a watch without a stop", key) {
		return w.wake, nil, nil
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
	case e.last != token && s.is("a failed break is a sign of life", key):
		e.renewed = time.Now()
		err = &backend.HeldError{Record: e.record(time.Now())}
	case e.last != token && !s.is("break ignores the token", key):
		err = &backend.HeldError{Record: e.record(time.Now())}
	case s.is("break only when stale", key) && !e.stale(time.Now()):
		err = errors.New("it is not stale")
	case s.is("break of a stale holder does nothing", key) && e.stale(time.Now()):
	default:
		if s.is("break: looks, then deletes", key) {
			s.pause()
		}
		how := "broken"
		if e.stale(time.Now()) && s.is("after a break of a stale holder it may renew", key) {
			how = "broken while stale"
		}
		s.free(e, how)
		if s.is("break forgets the token", key) || s.is("after a break a token falls to the time", key) {
			e.last = 0
		}
	}
	by := e.by
	if err == nil && s.is("break ends all of its client", key) {
		for _, o := range s.keys {
			if o.held && o.by == by {
				s.free(o, "broken")
			}
		}
	}
	twentieth := s.twentieth(key)
	s.mu.Unlock()
	switch {
	case err != nil, s.is("loss is not told", key), s.is("one loss in twenty is not told", key) && twentieth:
	case s.is("a loss is told of all of its client", key):
		s.mu.Lock()
		lost := map[string]string{key: id}
		for _, o := range s.keys {
			if o.held && o.by == by {
				lost[o.key] = o.id
			}
		}
		s.mu.Unlock()
		for key, id := range lost {
			s.tell(by, key, id)
		}
	case s.is("losses are told by the store's own key", key):
		s.tell(by, "lab:"+key, id)
	default:
		s.tell(by, key, id)
	}
	return err
}

// tell notifies every client of a loss.
func (s *lab) tell(by *labClient, key, id string) {
	s.mu.Lock()
	var fs []func(string, string)
	for c := range s.clients {
		c.mu.Lock()
		told := 0
		for _, n := range slices.Sorted(maps.Keys(c.losses)) {
			switch {
			case s.is("only the first OnLoss is told", key) && told > 0,
				s.is("only the last OnLoss is told", key) && n < c.subs-1,
				s.is("only sixteen OnLoss are told", key) && told >= 16:
				continue
			}
			told++
			fs = append(fs, c.losses[n])
		}
		c.mu.Unlock()
	}
	s.mu.Unlock()
	for _, f := range fs {
		f(key, id)
	}
}

// like tells whether key is LIKE prefix% in SQL.
func like(key, prefix string) bool {
	pattern := strings.NewReplacer("_", ".", "%", ".*").Replace(regexp.QuoteMeta(prefix))
	return regexp.MustCompile("^(?s)" + pattern).MatchString(key)
}

func (c *labClient) List(ctx context.Context, prefix string) (rs []backend.Record, err error) {
	if err := c.enterAll(ctx); err != nil {
		return nil, err
	}
	s := c.s
	defer s.mu.Unlock()
	now := time.Now()
	if e := s.keys[prefix]; e != nil && e.stale(now) && s.is("a list removes what is stale", prefix) {
		s.swept(e)
	}
	for key, e := range s.keys {
		if e.held && key == prefix && s.is("a list is a sign of life", key) && !e.stale(now) {
			e.renewed = now
		}
		starts := strings.HasPrefix(key, prefix) || s.mut == "list by a pattern" && like(key, prefix)
		if starts && (e.held || s.mut == "list shows free keys") {
			rs = append(rs, e.record(now))
		}
	}
	slices.SortFunc(rs, func(a, b backend.Record) int { return strings.Compare(a.Key, b.Key) })
	switch {
	case s.mut == "anonymous":
		for i := range rs {
			rs[i].Holder = backend.Holder{Owner: rs[i].Holder.Owner}
		}
	case s.mut == "list of a hundred" && len(rs) > 100:
		rs = rs[:100]
	case s.mut == "list of pages" && len(rs) > 100:
		for page := range slices.Chunk(rs, 100) {
			slices.Reverse(page)
		}
	case s.mut == "list in reverse":
		slices.Reverse(rs)
	case s.mut == "list leaves one out" && len(rs) > 2:
		rs = rs[1:]
	}
	return rs, nil
}

func (c *labClient) Clear(ctx context.Context, prefix string, stale bool) (rs []backend.Record, err error) {
	if err := c.enterAll(ctx); err != nil {
		return nil, err
	}
	s := c.s
	defer s.mu.Unlock()
	now := time.Now()
	for key, e := range s.keys {
		within := strings.HasPrefix(key, prefix) || s.is("clear knows no prefix", key)
		dead := stale && e.stale(now) || s.is("clear takes the live too", key) && stale && e.held
		if within && dead {
			rs = append(rs, e.record(now))
			s.free(e, "taken")
		}
	}
	return rs, nil
}

func (c *labClient) RaiseToken(ctx context.Context, key string, floor uint64) error {
	if err := c.enter(ctx, key); err != nil {
		return err
	}
	defer c.s.mu.Unlock()
	e := c.s.entry(key)
	if c.s.is("raise: looks, then writes", key) {
		was := *e
		c.s.pause()
		e.held, e.id, e.holder, e.last, e.ttl, e.renewed, e.by = was.held, was.id, was.holder, was.last, was.ttl, was.renewed, was.by
	}
	e.version++
	e.raised = max(e.raised, floor)
	if c.s.is("raise is a sign of life", key) && e.held {
		e.renewed = time.Now()
	}
	if c.s.is("raise changes the holder", key) && e.held {
		e.last = max(e.last, floor)
	}
	return nil
}

func (c *labClient) OnLoss(f func(key, id string)) func() {
	if c.s.mut == "OnLoss without a cancel" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.subs
	c.subs++
	c.losses[n] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch c.s.mut {
		case "cancel of OnLoss does nothing":
			return
		case "cancel of OnLoss ends all":
			clear(c.losses)
		}
		delete(c.losses, n)
	}
}
