package conformance

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
)

// lab is a store in memory that keeps every rule, and has a switch for each way to
// break one: mut names the defect that is turned on, "" none.
type lab struct {
	mut string
	on  string // if set, the defect shows only with keys of this rule
	// shorts makes it a store that grants less to those who waited, as it may.
	shorts bool
	// forgets makes it one that knows nothing any more of a holder whose TTL is over, and
	// sweeps one that finds out at intervals which holders these are. Both are right.
	forgets, sweeps bool

	mu       sync.Mutex
	keys     map[string]*labEntry
	clients  map[*labClient]bool
	numbered int
	restarts int
	wipes    int
	nth      map[string]int // of what a defect counts, by the rule whose key it is
	ended    []*labWaiter   // that a defect still tells
}

type labEntry struct {
	key          string
	last, raised uint64
	held         bool
	id           string
	holder       backend.Holder
	ttl          time.Duration
	renewals     int           // of the present grant
	version      int           // changes with each of them, and when a token is raised
	lag          time.Duration // by which a defect has it stale too late
	claimed      time.Duration // not 0: more than ttl, and in force from the first renewal on
	since        time.Time
	renewed      time.Time
	by           *labClient
	how          string // the last grant ended
	queue        []*labWaiter
	ids          map[string]string // what became of earlier holders: released, taken, broken
	times        int               // acquisitions
	refused      map[*labClient]bool
	refusedIDs   map[string]int
	refusedAt    map[string]uint64 // the holder's token then
	before       uint64            // the token before last
	sweeps       bool              // the lab's
	second       string            // woken although it is another's turn
	value        backend.Value
	sets         int // values that the present grant has set
}

type labWaiter struct {
	id   string
	wake chan struct{}
	by   *labClient
	deaf bool // forgotten by a defect: it keeps its place and is not told
}

type labClient struct {
	s      *lab
	number int
	skew   time.Duration
	busy   atomic.Int32

	mu     sync.Mutex
	closed bool
	heal   chan struct{} // not nil while cut off
	losses map[int]func(string, string)
	subs   int
	free   map[string]time.Time // keys once shown as free
	values map[string]backend.Value
	wg     sync.WaitGroup
	gone   chan struct{} // closed by Close
}

func newLab(mut, on string) *lab {
	return &lab{mut: mut, on: on, nth: map[string]int{}, keys: map[string]*labEntry{}, clients: map[*labClient]bool{}}
}

func (s *lab) client() *labClient {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &labClient{s: s, number: s.numbered, losses: map[int]func(string, string){}, free: map[string]time.Time{}, values: map[string]backend.Value{}, gone: make(chan struct{})}
	s.numbered++
	s.clients[c] = true
	return c
}

// is tells whether this defect is on for this key.
func (s *lab) is(mut, key string) bool {
	return s.mut == mut && (s.on == "" || strings.Contains(key, "/"+s.on+"-"))
}

// twentieth counts for each rule by itself: what the others have done by then is chance.
func (s *lab) twentieth(key string) bool {
	rule := path.Base(path.Dir(key))
	s.nth[rule]++
	return s.nth[rule]%20 == 0
}

func (s *lab) entry(key string) *labEntry {
	asked := key
	switch s.mut {
	case "keys folded":
		key = strings.ToLower(key)
	case "keys in one Unicode form":
		key = strings.NewReplacer("e\u0301", "\u00e9", "\u212b", "\u00c5").Replace(key)
	case "keys trimmed":
		key = strings.TrimSpace(key)
	case "keys cut":
		key = key[:min(len(key), 255)]
	case "keys as paths":
		key = path.Clean(key)
	case "keys without the last slash":
		key = strings.TrimSuffix(key, "/")
	case "keys without doubled slashes":
		key = strings.ReplaceAll(key, "//", "/")
	case "keys with one kind of slash":
		key = strings.ReplaceAll(key, "\\", "/")
	case "keys without dots at the end":
		key = strings.TrimRight(key, ".")
	case "16 bits of keys":
		if s.is(s.mut, key) {
			key = fmt.Sprintf("/keys-many-%04x", crc32.ChecksumIEEE([]byte(key))&0xffff)
		}
	case "14 bits of keys":
		if s.is(s.mut, key) {
			key = fmt.Sprintf("/keys-many-%04x", crc32.ChecksumIEEE([]byte(key))&0x3fff)
		}
	}
	e := s.keys[key]
	if e == nil {
		e = &labEntry{key: asked, sweeps: s.sweeps, ids: map[string]string{}, refused: map[*labClient]bool{}, refusedIDs: map[string]int{}, refusedAt: map[string]uint64{}}
		s.keys[key] = e
	}
	return e
}

// enter is what every verb does first; the store is locked when it returns nil.
func (c *labClient) enter(ctx context.Context, key string) error {
	lax := key == "" && c.s.mut == "keys empty" || strings.Contains(key, "\n") && c.s.mut == "keys with line feeds"
	if err := backend.ValidateKey(key); err != nil && !lax {
		return err
	}
	return c.enterAll(ctx)
}

func (c *labClient) enterAll(ctx context.Context) error {
	c.mu.Lock()
	closed, heal := c.closed, c.heal
	c.mu.Unlock()
	if closed && c.s.mut != "close ignored" {
		return backend.ErrClosed
	}
	if heal != nil {
		if c.s.mut == "cut off looks held" {
			return &backend.HeldError{}
		}
		select {
		case <-heal:
		case <-ctx.Done():
			if c.s.mut == "cut off, calls take ten seconds" {
				time.Sleep(10 * time.Second)
			}
		}
	}
	if ctx.Err() != nil {
		return backend.Unavailable(context.Cause(ctx))
	}
	c.s.mu.Lock()
	if c.s.forgets {
		c.s.forget(time.Now())
	}
	return nil
}

// forget frees what is stale, and tells those who wait.
func (s *lab) forget(now time.Time) {
	for _, e := range s.keys {
		if e.stale(now) {
			s.free(e, "taken")
		}
	}
}

// sweep forgets until the context ends, a few times in a suite's slack.
func (s *lab) sweep(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		s.forget(time.Now())
		s.mu.Unlock()
	}
}

func (e *labEntry) stale(now time.Time) bool { return e.held && now.Sub(e.renewed)-e.lag >= e.ttl }

// staleFor judges with the defects that there are about it.
func (s *lab) staleFor(e *labEntry, c *labClient, cl backend.Claim, now time.Time) bool {
	age := now.Sub(e.renewed) - e.lag
	switch {
	case !e.held:
		return false
	case s.is("expires early", e.key):
		return age >= e.ttl/2
	case s.is("never expires", e.key), s.sweeps:
		return false
	case s.is("waiter's TTL if longer", e.key):
		return age >= max(e.ttl, cl.TTL)
	case s.is("waiter's TTL if shorter", e.key):
		return age >= min(e.ttl, cl.TTL)
	case s.is("waiter's clock", e.key):
		age += c.skew - e.by.skew
	}
	return age >= e.ttl
}

func (e *labEntry) record(now time.Time) backend.Record {
	r := backend.Record{Key: e.key, State: backend.Free, Token: e.last}
	if e.held {
		r.State, r.ID, r.Holder, r.TTL = backend.Held, e.id, e.holder, e.ttl
		r.HeldFor, r.Remaining = now.Sub(e.since), max(0, e.ttl-now.Sub(e.renewed))
		if e.stale(now) && !e.sweeps {
			r.State = backend.Stale
		}
	}
	return r
}

func (e *labEntry) waiter(id string) *labWaiter {
	for _, w := range e.queue {
		if w.id == id {
			return w
		}
	}
	return nil
}

// next is the waiter whose turn it is.
func (s *lab) next(e *labEntry) *labWaiter {
	switch {
	case len(e.queue) == 0:
		return nil
	case s.is("last come first served", e.key):
		return e.queue[len(e.queue)-1]
	}
	return e.queue[0]
}

// wake tells the waiter whose turn it is, if the key is free.
func (s *lab) wake(e *labEntry) {
	for _, o := range s.ended { // only a defect has some
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
	w := s.next(e)
	switch {
	case s.is("break wakes nobody", e.key) && e.how == "broken",
		s.is("withdrawal wakes nobody", e.key) && e.how == "withdrawn":
		return
	case s.mut == "one release in twenty wakes nobody" && !e.held && w != nil && e.how == "released":
		if s.twentieth(e.key) {
			return
		}
	}
	if e.held || w == nil || s.is("wakes nobody", e.key) || s.is("wakes once", e.key) && e.times > 1 {
		return
	}
	woken := []*labWaiter{w}
	if s.is("two at a time in a crowd", e.key) && len(e.queue) >= 2 {
		e.second = e.queue[1].id
		woken = e.queue[:2]
	}
	for _, w := range woken {
		if w.deaf {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// free ends the present grant.
func (s *lab) free(e *labEntry, how string) {
	e.how = how
	if how == "withdrawn" {
		how = "released"
	}
	e.ids[e.id] = how
	s.endValue(e, how)
	e.held, e.id, e.holder = false, "", backend.Holder{}
	s.wake(e)
}

// labShort is what a claim that has waited is granted at the most, in a lab where
// that is less than it claimed.
const labShort = 300 * time.Millisecond

// short tells whether it is. That alone is no defect.
func (s *lab) short(key string) bool {
	return s.shorts || s.is("waiter's grant says too much", key) ||
		s.is("short grants stay short", key) || s.is("short grants are renewed in word only", key)
}

func sameID(a, b string, s *lab) bool {
	cut := func(n int) bool { return a[:min(n, len(a))] == b[:min(n, len(b))] }
	switch s.mut {
	case "claims folded":
		return strings.EqualFold(a, b)
	case "claims cut to 32":
		return cut(32)
	case "claims cut to 48":
		return cut(48)
	case "claims by their beginning":
		return strings.HasPrefix(a, b) || b != "" && strings.HasPrefix(b, a)
	case "claims by their end":
		return a[max(0, len(a)-16):] == b[max(0, len(b)-16):]
	}
	return a == b
}

func (c *labClient) Acquire(ctx context.Context, key string, cl backend.Claim) (g backend.Grant, err error) {
	s := c.s
	if s.is("cancelled acts later", key) && ctx.Done() != nil {
		select {
		case <-time.After(700 * time.Microsecond):
		case <-ctx.Done():
			time.AfterFunc(2*time.Millisecond, func() { _, _ = c.acquire(context.WithoutCancel(ctx), key, cl) })
			return g, backend.Unavailable(ctx.Err())
		}
	}
	switch {
	case s.is("cancelled acts later, in no time", key):
		if ctx.Err() != nil {
			return g, backend.Unavailable(ctx.Err())
		}
		if ctx.Err() != nil { // in between
			time.AfterFunc(2*time.Millisecond, func() { _, _ = c.acquire(context.WithoutCancel(ctx), key, cl) })
			return g, backend.Unavailable(ctx.Err())
		}
	case s.is("cancelled after it acted, it says that it did not", key):
		if ctx.Err() == nil {
			if g, err := c.acquire(context.WithoutCancel(ctx), key, cl); err != nil || ctx.Err() == nil {
				return g, err
			}
			return backend.Grant{}, errors.New("the attempt was given up")
		}
	case s.is("acts, and says that it did not", key):
		g, err := c.acquire(ctx, key, cl)
		s.mu.Lock()
		defer s.mu.Unlock()
		if e := s.entry(key); err == nil && e.renewals == 0 && e.times%5 == 3 {
			return backend.Grant{}, errors.New("conflict")
		}
		return g, err
	case s.is("its own claim is another's", key):
		g, err := c.acquire(ctx, key, cl)
		s.mu.Lock()
		defer s.mu.Unlock()
		if e := s.entry(key); err == nil && e.times%5 == 3 {
			return backend.Grant{}, &backend.HeldError{Record: e.record(time.Now())}
		}
		return g, err
	}
	if s.is("no time looks held", key) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return g, &backend.HeldError{}
	}
	if s.is("waits inside", key) || s.is("attempts wait", key) {
		for begun := time.Now(); time.Since(begun) < 20*time.Second && ctx.Err() == nil; {
			s.mu.Lock()
			busy := s.entry(key).held
			s.mu.Unlock()
			if !busy {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return c.acquire(ctx, key, cl)
}

func (c *labClient) acquire(ctx context.Context, key string, cl backend.Claim) (g backend.Grant, err error) {
	if err := backend.ValidateClaim(cl); err != nil {
		return g, err
	}
	if err := c.enter(ctx, key); err != nil {
		return g, err
	}
	s := c.s
	defer s.mu.Unlock()
	now := time.Now()
	e := s.entry(key)
	w := e.waiter(cl.ID)
	stale := s.staleFor(e, c, cl, now)
	held := func() error {
		if s.is("panics when the key is held", key) {
			var none *labEntry
			_ = none.ttl
		}
		if s.is("an attempt is a sign of life", key) && !e.stale(now) {
			e.renewed = now
		}
		e.refused[c] = true
		e.refusedIDs[cl.ID]++
		e.refusedAt[cl.ID] = e.last
		r := e.record(now)
		h := &backend.HeldError{Record: r, RetryAfter: r.Remaining}
		if s.sweeps {
			h = backend.RefusedBy(r)
		}
		switch {
		case s.is("says to wait a thousandth", key):
			h.RetryAfter /= 1000
		case s.is("says to wait whole steps of 50 ms", key):
			h.RetryAfter = h.RetryAfter.Truncate(50 * time.Millisecond)
		case s.is("says to wait a whole TTL", key):
			h.RetryAfter = e.ttl
		case s.is("tells all but the first to wait for ever", key) && len(e.refusedIDs) >= 2:
			h.RetryAfter += time.Hour
		case s.is("watchers get no answer", key) && w != nil:
			return backend.Unavailable(errors.New("busy"))
		case s.is("anonymous", key):
			h.Record.Holder = backend.Holder{Owner: h.Record.Holder.Owner}
		}
		return h
	}
	switch {
	case s.is("answers a repeated attempt from memory", key) && e.held && e.ids[cl.ID] == "taken":
		return backend.Grant{Key: key, ID: cl.ID, Holder: cl.Holder, Token: e.before, TTL: cl.TTL}, nil
	case e.held && (sameID(e.id, cl.ID, s) || s.is("claims folded in attempts", key) && strings.EqualFold(e.id, cl.ID)) && !s.is("repeated attempt refused", key):
		if s.is("repeated attempt gets a new token", key) {
			e.last++
		}
		if !s.is("repeated attempt does not count", key) {
			e.renewed, e.ttl = now, cl.TTL
		}
		return s.grant(e, cl), nil
	case e.held && !stale:
		switch {
		case s.is("third client gets it", key) && len(e.refused) >= 2 && !e.refused[c]:
		case s.is("reentrant", key) && e.by == c:
		case s.is("two at a time in a crowd", key) && e.second == cl.ID:
		default:
			return g, held()
		}
	case s.is("no nesting", key) && s.nested(key) != nil:
		return g, &backend.HeldError{Record: s.nested(key).record(now)}
	case s.is("polling in vain", key) && !e.held && w == nil && e.refusedIDs[cl.ID] > 0 && e.refusedAt[cl.ID] == e.last:
		return g, held()
	case s.is("starves one", key) && c.number%6 == 5:
		return g, held()
	case s.next(e) != nil && s.next(e).id != cl.ID && s.mut != "wakes once":
		return g, held() // another's turn
	}
	racy := s.is("checks, then acts", key) && !e.held || s.is("checks, then takes over", key) && e.held
	if racy {
		s.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
		s.mu.Lock()
	}
	token, err := s.token(e, cl, now)
	if err != nil {
		return g, err
	}
	if e.held {
		e.ids[e.id] = "taken"
		s.endValue(e, "taken")
	}
	if !(s.is("takeover keeps the time", key) && e.held) {
		e.renewed = now
	}
	e.renewals, e.lag = 0, 0
	e.before = e.last
	e.last, e.held, e.id, e.holder, e.ttl, e.by = token, true, cl.ID, cl.Holder, cl.TTL, c
	if !s.is("counts the former holder's time", key) || e.since.IsZero() {
		e.since = now
	}
	if s.is("an attempt renews all of its client", key) {
		s.renewAll(c, now)
	}
	e.times++
	e.sets = 0
	e.refused = map[*labClient]bool{}
	e.claimed = 0
	if w != nil && s.short(key) {
		e.ttl, e.claimed = min(cl.TTL/2, labShort), cl.TTL
	}
	if s.is("owners in ASCII", key) {
		e.holder.Owner = strings.Map(func(r rune) rune { return min(r, '~') }, e.holder.Owner)
	}
	if ms := cl.TTL.Milliseconds(); s.is("32 bits of milliseconds", key) && ms>>31 != 0 {
		e.ttl = time.Duration(int32(ms)) * time.Millisecond
	}
	switch {
	case s.is("TTL doubled", key):
		e.lag = min(e.ttl, time.Hour)
	case s.is("TTL to the nearest second", key) && e.ttl > time.Second:
		defer func(ttl time.Duration) { e.ttl = ttl.Round(time.Second) }(e.ttl)
	case s.is("TTL in whole seconds", key) && e.ttl > time.Second:
		defer func(ttl time.Duration) { e.ttl = ttl.Truncate(time.Second) }(e.ttl)
	case s.is("deadlines overflow", key) && now.UnixNano()+int64(e.ttl) < 0:
		defer func() { e.ttl = 0 }()
	case s.is("TTLs of 200 years at most", key) && e.ttl > 200*365*24*time.Hour:
		e.ttl = 200 * 365 * 24 * time.Hour
	}
	if s.is("TTL rounded down", key) {
		e.ttl = cl.TTL.Truncate(time.Millisecond)
	}
	return s.grant(e, cl), nil
}

func (s *lab) grant(e *labEntry, cl backend.Claim) backend.Grant {
	switch {
	case s.is("grants without a holder", e.key):
		return backend.Grant{Key: e.key, ID: cl.ID, Token: e.last, TTL: e.ttl, State: "lab"}
	case s.is("grants with the store's key", e.key):
		return backend.Grant{Key: "lab:" + e.key, ID: cl.ID, Holder: cl.Holder, Token: e.last, TTL: e.ttl, State: "lab"}
	case s.is("grants without a token", e.key):
		return backend.Grant{Key: e.key, ID: cl.ID, Holder: cl.Holder, TTL: e.ttl, State: "lab"}
	}
	if s.is("waiter's grant says too much", e.key) && e.claimed != 0 {
		return backend.Grant{Key: e.key, ID: cl.ID, Holder: cl.Holder, Token: e.last, TTL: e.claimed, State: "lab"}
	}
	return backend.Grant{Key: e.key, ID: cl.ID, Holder: cl.Holder, Token: e.last, TTL: e.ttl, State: "lab"}
}

// nested returns a held key that is a path above or below this one.
func (s *lab) nested(key string) *labEntry {
	for k, e := range s.keys {
		if e.held && (strings.HasPrefix(k, key+"/") || strings.HasPrefix(key, k+"/")) {
			return e
		}
	}
	return nil
}

// token is NextToken with the defects that there are about it.
func (s *lab) token(e *labEntry, cl backend.Claim, now time.Time) (uint64, error) {
	floor := max(cl.TokenFloor, e.raised)
	switch {
	case s.is("floor ignored", e.key), s.is("floor ignored at a takeover", e.key) && e.held:
		floor = e.raised
	case s.is("takeover takes the time for a token", e.key) && e.held:
		return max(floor+1, uint64(now.UnixMicro())), nil
	case s.is("raise ignored at a takeover", e.key) && e.held:
		floor = cl.TokenFloor
	case s.is("raise ignored", e.key):
		floor = cl.TokenFloor
	case s.is("floor as floating point", e.key) && floor < 1<<63:
		return max(e.last+1, uint64(float64(floor)), uint64(now.UnixMicro())), nil
	case s.is("floor wraps", e.key) && floor+1 == 0:
		floor = 0
	case s.is("tenth token wraps", e.key) && e.times == 9:
		return 1, nil
	case s.is("takeover keeps the token", e.key) && e.held,
		s.is("waiter gets the last token", e.key) && e.waiter(cl.ID) != nil && e.refusedIDs[cl.ID] > 0:
		return max(e.last, 1), nil
	case s.is("no clock", e.key), s.is("token dies with its client", e.key), s.is("restart forgets tokens", e.key), s.is("break forgets the token", e.key):
		now = time.Time{}
	}
	return backend.NextToken(e.last, floor, now)
}

func (c *labClient) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	if !again {
		close(c.gone)
	}
	c.mu.Unlock()
	s := c.s
	if again && s.mut == "second close fails" {
		return backend.ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mut != "connection left open" {
		delete(s.clients, c)
	}
	for _, e := range s.keys {
		if e.by != c {
			continue
		}
		if e.held && s.is("close releases", e.key) {
			s.free(e, "released")
		}
		if !e.held && (s.is("token dies with its client", e.key) || s.is("with its client a token falls to the time", e.key)) {
			e.last = 0
		}
	}
	return nil
}

func (c *labClient) cut() func() error {
	heal := make(chan struct{})
	c.mu.Lock()
	c.heal = heal
	c.mu.Unlock()
	return func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.heal = nil
		close(heal)
		return nil
	}
}

func (s *lab) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts++
	for _, e := range s.keys {
		if s.is("restart forgets tokens", e.key) {
			e.last = 0
		}
		if s.is("restart forgets holders", e.key) {
			e.held = false
		}
		if s.is("restart forgets values", e.key) {
			e.value = backend.Value{}
		}
	}
}

func (s *lab) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipes++
	for _, e := range s.keys {
		e.last, e.raised, e.held, e.ids, e.value = 0, 0, false, map[string]string{}, backend.Value{}
		s.wake(e)
	}
}

// leftovers is what should not be there when nobody uses the store.
func (s *lab) leftovers() (left []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.keys {
		if e.held {
			left = append(left, "held: "+e.key)
		}
		for _, w := range e.queue {
			left = append(left, "waiting: "+e.key+" "+w.id)
		}
	}
	for c := range s.clients {
		left = append(left, fmt.Sprintf("client %d", c.number))
	}
	slices.Sort(left)
	return left
}
