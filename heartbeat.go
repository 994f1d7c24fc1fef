package hasp

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

const (
	// maxRenewals is how many requests to renew are under way at once, those
	// that take longer than slowRenewal not counted: one hung call must not hold
	// up the leases that share nothing with it.
	maxRenewals = 64
	slowRenewal = time.Second
	// batchSize is how many leases go into one request of a BatchRenewer.
	batchSize = 512
	// maxNap is how often the scheduler looks at the clocks while leases are
	// held, so that a suspended process finds out soon after it runs again.
	maxNap = time.Second
	// firstRenewal is when a lease that was granted for less than its TTL is renewed.
	// It is more than a round trip, so that locks which are held for less than that
	// cost the store no renewal, and nothing beside the time that was granted.
	firstRenewal = 5 * time.Millisecond
	// clockJump is how far the two clocks may drift apart before every lease is
	// looked at.
	clockJump = 10 * time.Millisecond
)

// heart renews all leases of a Locker from one goroutine, and a few more while
// requests are under way.
type heart struct {
	l       *locker
	mu      sync.Mutex
	leases  leaseHeap
	kick    chan struct{} // the first lease in the heap may have changed
	started bool
	resting bool // the heap was empty the last time, too
	quit    chan struct{}
	done    chan struct{}
	until   time.Time  // when the scheduler looks next; zero: when it is kicked
	pending [][]*Lease // due, waiting for one of the maxRenewals
	running int
}

// beat is what the scheduler keeps in each lease; heart.mu guards it, but for fails
// while a heartbeat is in flight, which is its worker's.
type beat struct {
	index    int  // in the heap, from 1; 0 if it is not there
	inflight bool // a request that needs the grant alone is under way
	fails    int
	idle     chan struct{} // closed when inflight ends; nil if nobody waits for that
}

// rest notes that no request is under way. Called with heart.mu held.
func (b *beat) rest() {
	b.inflight = false
	if b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
}

func (h *heart) init(l *locker) {
	h.l = l
	h.kick = make(chan struct{}, 1)
	h.quit = make(chan struct{})
	h.done = make(chan struct{})
}

// stop ends the scheduler; leases are not renewed from then on.
func (h *heart) stop() {
	h.mu.Lock()
	started := h.started
	h.started = true
	h.pending = nil
	h.mu.Unlock()
	close(h.quit)
	if started {
		<-h.done
	}
}

func (h *heart) add(le *Lease, now reading) {
	at := h.next(le, now, 0)
	h.mu.Lock()
	if !le.held() { // lost already: remove came before
		h.mu.Unlock()
		return
	}
	if !h.started {
		h.started = true
		go h.run()
	}
	h.leases.set(le, at)
	early := h.until.IsZero() || at.Before(h.until)
	h.mu.Unlock()
	if early {
		h.wake()
	}
}

func (h *heart) remove(le *Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leases.remove(le)
}

func (h *heart) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// next returns when le has to be looked at: for its next heartbeat, after fails
// failed ones, or at its deadline.
func (h *heart) next(le *Lease, now reading, fails int) time.Time {
	le.mu.Lock()
	defer le.mu.Unlock()
	return h.nextLocked(le, now, fails)
}

func (h *heart) nextLocked(le *Lease, now reading, fails int) time.Time {
	o := le.opts
	valid, left := le.valid(), le.left(now)
	if left <= 0 || o.NoHeartbeat && !le.short() {
		return now.mono.Add(left)
	}
	if fails == 0 && le.short() {
		return now.mono.Add(min(firstRenewal, left))
	}
	interval := min(o.Heartbeat, valid/2)
	if fails == 0 {
		return now.mono.Add(interval - jitter(interval) - (valid - left))
	}
	// the store does not answer: ask more often as the deadline comes closer
	pause := min(max(left/8, 10*time.Millisecond), interval)
	return now.mono.Add(min(pause-jitter(pause), left))
}

// renews tells whether le is renewed when it is due.
func (h *heart) renews(le *Lease) bool {
	if !le.opts.NoHeartbeat {
		return true
	}
	le.mu.Lock()
	defer le.mu.Unlock()
	return le.short()
}

// jitter is up to a tenth of d.
func jitter(d time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(d)/10 + 1)) }

func (h *heart) run() {
	defer close(h.done)
	prev := h.l.now()
	timer := time.NewTimer(maxNap)
	defer timer.Stop()
	for {
		now := h.l.now()
		drift := now.wall.Sub(prev.wall) - now.mono.Sub(prev.mono)
		if drift.Abs() > clockJump {
			prev = now
		}
		nap := h.tick(now, drift > clockJump)
		var tick <-chan time.Time
		if nap >= 0 {
			timer.Reset(nap)
			tick = timer.C
		}
		select {
		case <-tick:
		case <-h.kick:
			h.mu.Lock()
			h.resting = false // or each of many short leases would have to wake it
			h.mu.Unlock()
		case <-h.quit:
			return
		}
	}
}

// tick starts what is due and returns how long to sleep; below 0 if there is
// nothing to wait for. With all set the process was suspended, or its clock was
// set forward: every lease is nearer to its deadline than was planned for.
func (h *heart) tick(now reading, all bool) time.Duration {
	var expired, due []*Lease
	h.mu.Lock()
	if all {
		for _, x := range slices.Clone(h.leases) {
			at := x.le.deadline(now)
			if !x.le.beat.inflight {
				at = h.next(x.le, now, x.le.beat.fails)
			}
			h.leases.set(x.le, at)
		}
	}
	// Heartbeats that are nearly due go along with those that are: a batch costs
	// the store hardly more than one.
	horizon := now.mono
	if _, batch := backend.AsBatchRenewer(h.l.b); batch && len(h.leases) > 0 && !h.leases.first().at.After(now.mono) {
		horizon = now.mono.Add(h.l.opts.Heartbeat / 50)
	}
	for len(h.leases) > 0 && !h.leases.first().at.After(horizon) {
		le := h.leases.first().le
		deadline := le.deadline(now)
		if !deadline.After(now.mono) {
			h.leases.remove(le)
			expired = append(expired, le)
			continue
		}
		if !le.beat.inflight && h.renews(le) {
			le.beat.inflight = true
			due = append(due, le)
		}
		h.leases.set(le, deadline)
		if !deadline.After(horizon) {
			break // it is due as a deadline, not as a heartbeat: next round
		}
	}
	nap := time.Duration(-1)
	h.until = time.Time{}
	switch {
	case len(h.leases) > 0:
		nap = min(max(0, h.leases.first().at.Sub(now.mono)), maxNap)
	case !h.resting:
		// Where one lease follows another, each would wake this goroutine if it slept
		// for good in between, and that costs more than the rest of an acquire.
		nap = maxNap
	}
	h.resting = len(h.leases) == 0
	if nap >= 0 {
		h.until = now.mono.Add(nap)
	}
	h.submit(due)
	h.mu.Unlock()
	for _, le := range expired {
		le.expire(now)
	}
	return nap
}

// submit hands out leases to renew. Called with mu held.
func (h *heart) submit(due []*Lease) {
	size := 1
	if _, ok := backend.AsBatchRenewer(h.l.b); ok {
		size = batchSize
	}
	alike := func(due []*Lease) int { return len(due) }
	if size > 1 && len(due) > 1 {
		alike = byPatience(due, h.l.now())
	}
	for len(due) > 0 {
		n := min(size, alike(due))
		h.pending = append(h.pending, due[:n:n])
		due = due[n:]
	}
	h.dispatch()
}

// patience is for how long the others of its batch may let le wait for an answer: half of
// what is left, and of half its time if that is more. Called with mu held.
func (le *Lease) patience(now reading) time.Duration { return max(le.left(now), le.valid()/2) / 2 }

// byPatience puts leases in such an order that what goes into one request is waited for
// about as long as each of them allows: alike says how many at the beginning of due that
// is, none of which has more than twice the first one's patience. With the shortest of all a
// store that is slow would lose the long leases, and with the longest a request that vanished the
// short ones.
func byPatience(due []*Lease, now reading) (alike func(due []*Lease) int) {
	least, most := time.Duration(math.MaxInt64), time.Duration(0)
	each := func(f func(le *Lease, p time.Duration)) {
		for _, le := range due {
			le.mu.Lock()
			p := le.patience(now)
			le.mu.Unlock()
			f(le, p)
		}
	}
	each(func(_ *Lease, p time.Duration) { least, most = min(least, p), max(most, p) })
	if most/2 <= least { // as nearly always
		return func(due []*Lease) int { return len(due) }
	}
	of := make(map[*Lease]time.Duration, len(due))
	each(func(le *Lease, p time.Duration) { of[le] = p })
	slices.SortStableFunc(due, func(a, b *Lease) int { return cmp.Compare(of[a], of[b]) })
	return func(due []*Lease) int {
		n := 1
		for n < len(due) && of[due[n]]/2 <= of[due[0]] {
			n++
		}
		return n
	}
}

// dispatch starts workers for what is pending. Called with mu held.
func (h *heart) dispatch() {
	for i := 0; i < len(h.pending) && h.running < maxRenewals; i++ {
		h.running++
		h.l.background.Go(h.work)
	}
}

// work renews pending leases until there are none.
func (h *heart) work() {
	for {
		h.mu.Lock()
		if len(h.pending) == 0 {
			h.running--
			h.mu.Unlock()
			return
		}
		batch := h.pending[0]
		h.pending[0] = nil
		h.pending = h.pending[1:]
		h.mu.Unlock()
		slow := time.AfterFunc(slowRenewal, func() {
			h.mu.Lock()
			h.running--
			h.dispatch()
			h.mu.Unlock()
		})
		h.renew(batch)
		if !slow.Stop() {
			return // its place was given to another
		}
	}
}

// renew sends one request and notes its outcome.
func (h *heart) renew(batch []*Lease) {
	l := h.l
	grants := make([]backend.Grant, len(batch))
	var left time.Duration // the most that any of them has: one that is nearly lost must not fail the others
	patience := l.opts.RequestTimeout
	before := l.now()
	for i, le := range batch {
		le.mu.Lock()
		grants[i] = le.grant
		left, patience = max(left, le.left(before)), min(patience, le.patience(before))
		le.mu.Unlock()
	}
	// half of it, so that a request that vanished is repeated before the deadline
	timeout := max(min(patience, left/2), time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if b, ok := backend.AsBatchRenewer(l.b); ok {
		rs := b.RenewAll(ctx, grants)
		for len(rs) < len(batch) {
			rs = append(rs, backend.Renewal{Err: backend.Unavailable(errors.New("the backend gave no answer for this lease"))})
		}
		h.outcomes(batch, before, rs)
		return
	}
	g, err := l.b.Renew(ctx, grants[0])
	h.outcomes(batch, before, []backend.Renewal{{Grant: g, Err: err}})
}

// outcomes notes what came of heartbeats that were sent after before.
func (h *heart) outcomes(batch []*Lease, before reading, rs []backend.Renewal) {
	now := h.l.now()
	next := make([]time.Time, len(batch))
	for i, le := range batch {
		next[i] = h.outcome(le, before, now, rs[i])
	}
	var first time.Time
	h.mu.Lock()
	for i, le := range batch {
		if next[i].IsZero() {
			continue
		}
		le.beat.rest()
		// One that is held and not in the heap was taken out as expired in the
		// instant in which its renewal came through.
		if le.beat.index == 0 && !le.held() {
			continue
		}
		h.leases.set(le, next[i])
		if first.IsZero() || next[i].Before(first) {
			first = next[i]
		}
	}
	early := !first.IsZero() && (h.until.IsZero() || first.Before(h.until))
	h.mu.Unlock()
	if early {
		h.wake()
	}
}

// borrow keeps heartbeats of le from being sent until giveBack is called, and waits
// for the one that is under way. It returns false if stop is closed before, or the
// lease has ended.
func (h *heart) borrow(le *Lease, stop <-chan struct{}) bool {
	ended := le.Done()
	for {
		h.mu.Lock()
		if !le.beat.inflight {
			le.beat.inflight = true
			h.mu.Unlock()
			return true
		}
		if le.beat.idle == nil {
			le.beat.idle = make(chan struct{})
		}
		idle := le.beat.idle
		h.mu.Unlock()
		select {
		case <-idle:
		case <-ended:
			return false
		case <-stop:
			return false
		}
	}
}

// giveBack lets heartbeats of le be sent again. One that has come due is sent before
// anyone can borrow le again: values that are set one after the other must not cost
// the lease.
func (h *heart) giveBack(le *Lease) {
	now := h.l.now()
	at := h.next(le, now, le.beat.fails)
	due := !at.After(now.mono) && h.renews(le)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch deadline := le.deadline(now); {
	case le.beat.index == 0: // it has ended
		le.beat.rest()
	case due && deadline.After(now.mono):
		h.leases.set(le, deadline)
		h.submit([]*Lease{le})
	default:
		le.beat.rest()
		h.leases.set(le, at)
		if h.until.IsZero() || at.Before(h.until) {
			h.wake()
		}
	}
}

// outcome notes what came of one heartbeat, and returns when the lease has to be
// looked at next; never if it has ended.
func (h *heart) outcome(le *Lease, before, now reading, r backend.Renewal) (next time.Time) {
	l := h.l
	le.mu.Lock()
	held := le.state == leaseHeld
	margin := le.left(now)
	if held && r.Err == nil && margin > 0 {
		le.grant, le.base, le.renewed, le.beat.fails = r.Grant, before, true, 0
		next = h.nextLocked(le, now, 0)
	}
	token := le.grant.Token
	le.mu.Unlock()
	switch {
	case !held:
	case margin <= 0 || now.since(before) >= r.Grant.TTL && r.Err == nil:
		le.expire(now) // whatever came back, it came too late
	case errors.Is(r.Err, ErrLost):
		le.lose(r.Err)
	case r.Err == nil:
		l.emit(Event{Kind: EventRenewed, Key: le.key, Token: token, Margin: margin})
		return next
	default:
		le.beat.fails++
		l.emit(Event{Kind: EventRenewalFailed, Key: le.key, Token: token, Margin: margin, Err: r.Err})
		return h.next(le, now, le.beat.fails)
	}
	return time.Time{}
}
