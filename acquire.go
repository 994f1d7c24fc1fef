package hasp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

func (l *locker) TryAcquire(ctx context.Context, key string, opts ...AcquireOption) (*Lease, error) {
	return l.acquire(ctx, key, true, opts)
}

func (l *locker) Acquire(ctx context.Context, key string, opts ...AcquireOption) (*Lease, error) {
	return l.acquire(ctx, key, false, opts)
}

func (l *locker) acquire(ctx context.Context, key string, try bool, opts []AcquireOption) (*Lease, error) {
	w := &wait{id: l.acquires.Add(1), start: time.Now()}
	t, err := l.terms(try, opts)
	if err != nil {
		return nil, l.failed(key, w, err)
	}
	w.terms, w.sched = t, newSchedule(t.Retry, t.MaxWait, w.start)
	err = backend.ValidateKey(key)
	if err == nil && ctx.Err() != nil {
		err = w.canceled(ctx)
	}
	if err == nil {
		err = l.begin()
	}
	if err == nil {
		defer l.background.done()
		if t.try {
			if err = l.tryEnter(key); errors.Is(err, ErrHeld) {
				l.emitAttempt(key, w)
			}
		} else {
			err = l.enter(ctx, key, w)
		}
	}
	if err != nil {
		return nil, l.failed(key, w, err)
	}
	le, err := l.contend(ctx, key, w)
	if err != nil {
		// before the key is passed on, so that events come in the order of what happened
		err = l.failed(key, w, err)
		l.exit(key)
		return nil, err
	}
	return le, nil
}

// failed tells of an Acquire that got no lease, and returns its error.
func (l *locker) failed(key string, w *wait, cause error) error {
	err := &Error{"acquire", key, cause}
	e := Event{Kind: EventFailed, Key: key, Acquire: w.id, Attempt: w.attempts, Waited: time.Since(w.start), Err: err}
	var held *HeldError
	if errors.As(cause, &held) {
		e.Blocker = held.Record
	}
	l.emit(e)
	return err
}

// begin counts an Acquire among the tasks that Close waits for, so that the
// backend is still open when the Acquire cleans up.
func (l *locker) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.background.add()
	return nil
}

// contend is the retry loop. The caller has key's slot.
func (l *locker) contend(ctx context.Context, key string, w *wait) (_ *Lease, err error) {
	try := w.terms.try
	c := &contender{l: l, key: key, w: w, claim: w.terms.claim()}
	defer func() { c.finish(ctx, err == nil) }()
	for {
		l.emitAttempt(key, w)
		g, before, err := c.attempt(ctx)
		if err == nil {
			if le := l.grant(ctx, g, before, c.granted, w, c.late); le != nil {
				return le, nil
			}
			c.unknown = true // Close came first: to be withdrawn
			return nil, ErrClosed
		}
		if ctx.Err() != nil {
			if !errors.Is(err, ctx.Err()) && !errors.Is(err, context.Cause(ctx)) {
				w.last = err // else what was seen before says more
			}
			return nil, w.canceled(ctx)
		}
		if l.isClosed() {
			return nil, ErrClosed
		}
		c.answered = time.Now()
		if w.last == nil || !outOfTime(ctx, err) {
			w.last = err // else what was seen before says more, and ctx ends this moment
		}
		var held *HeldError
		switch {
		case errors.As(err, &held):
			c.silent = time.Time{}
			l.setBlocker(key, held.Record)
			if try {
				return nil, err
			}
		case errors.Is(err, ErrUnavailable):
			if c.silent.IsZero() {
				c.silent = before.mono
			}
			if try || time.Since(c.silent) >= w.terms.MaxUnavailable {
				return nil, err
			}
		default:
			return nil, err
		}
		if w.sched.over {
			return nil, w.timeout()
		}
		fresh := held != nil && c.watch(ctx)
		l.emitWaiting(key, w)
		if err := c.sleep(ctx, held, fresh); err != nil {
			return nil, err
		}
	}
}

// outOfTime tells whether err says no more than that ctx's deadline has come. The
// request's own timer may fire a moment before ctx's.
func outOfTime(ctx context.Context, err error) bool {
	d, ok := ctx.Deadline()
	return ok && !time.Now().Before(d) && errors.Is(err, context.DeadlineExceeded)
}

// contender is one goroutine's contention for one key with other processes.
type contender struct {
	l        *locker
	key      string
	w        *wait
	claim    backend.Claim
	unknown  bool      // the store may hold key for claim, or may come to do so
	late     bool      // a request of claim may still be under way that gets key when it arrives
	silent   time.Time // when the first of the attempts that got no answer was made
	answered time.Time // when the last attempt was
	granted  reading   // when the answer was yes
	wake     <-chan struct{}
	stop     func(context.Context, bool) error // not nil while watching
	ended    bool                              // the watcher has closed wake
	early    int                               // attempts since the last timed retry that none was due for
	wakes    int                               // of those the ones that a wake-up led to, less five for each second
}

// attempt asks the backend once. before was read before the request was made.
func (c *contender) attempt(ctx context.Context) (g backend.Grant, before reading, err error) {
	before = c.l.now()
	claim := c.claim
	g, err = call(ctx, c.l, before.mono, true, func(ctx context.Context) (backend.Grant, error) {
		return c.l.b.Acquire(ctx, c.key, claim)
	}, func(g backend.Grant, err error) {
		// the call was given up long ago: whatever it got is not wanted
		if err == nil || isUnknown(err) {
			c.l.withdraw(ctx, c.key, claim)
		}
	})
	if err == nil {
		c.unknown = false
		c.granted = c.l.now()
		late := c.granted.since(before) >= c.w.terms.valid(g)
		if ctx.Err() != nil || late {
			c.unknown = true // to be withdrawn
			if ctx.Err() != nil {
				return g, before, ctx.Err()
			}
			return g, before, backend.Unavailable(fmt.Errorf("the answer took %v, longer than the lock is valid", backend.Round(c.l.now().since(before))))
		}
		return g, before, nil
	}
	var gone *abandoned
	switch {
	case errors.As(err, &gone):
		// The hanging call cleans up after itself when it returns; until then the
		// store may hold key for it all the same, if it is the answer that hangs. A
		// later attempt must not share its claim, or either clean-up would free what
		// the later attempt got.
		c.unknown = true
		c.finish(ctx, false)
		c.claim, c.late = c.w.terms.claim(), false
	case isUnknown(err):
		c.unknown, c.late = true, true
		err = backend.Unavailable(err)
	}
	// A definite answer leaves c.unknown as it is: a request that was given up
	// before may still be on its way.
	return g, before, err
}

// isUnknown tells whether the store may have acted despite err. A context's
// error counts, whatever the backend makes of it.
func isUnknown(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// watch starts to watch, anew if the watcher has closed its channel; true if it
// did so just now.
func (c *contender) watch(ctx context.Context) bool {
	wt, ok := backend.AsWatcher(c.l.b)
	if !ok || c.stop != nil && !c.ended {
		return false
	}
	if stop := c.stop; stop != nil {
		// waited for: it must not take away what is registered next
		c.stop, c.wake, c.ended = nil, nil, false
		_, err := call(ctx, c.l, time.Now(), true, func(ctx context.Context) (struct{}, error) {
			ctx, cancel := c.l.opts.bounded(ctx) // also if ctx ends: what waits in the store has to go
			defer cancel()
			return struct{}{}, stop(ctx, false)
		}, nil)
		if err != nil {
			c.warnWatch(ctx, err)
			return false
		}
	}
	type watch struct {
		wake <-chan struct{}
		stop func(context.Context, bool) error
	}
	claim := c.claim
	r, err := call(ctx, c.l, time.Now(), true, func(ctx context.Context) (watch, error) {
		wake, stop, err := wt.Watch(ctx, c.key, claim)
		return watch{wake, stop}, err
	}, func(r watch, err error) {
		if err == nil {
			c.l.endWatch(ctx, c.key, r.stop, false)
		}
	})
	if err != nil {
		c.warnWatch(ctx, err)
		return false
	}
	c.wake, c.stop = r.wake, r.stop
	return true
}

func (c *contender) warnWatch(ctx context.Context, err error) {
	if ctx.Err() == nil && !c.l.isClosed() {
		c.l.emit(Event{Kind: EventWarning, Key: c.key, Err: fmt.Errorf("watching failed, polling instead: %w", err)})
	}
}

// secondLook is when an attempt is made at the latest after a watch has begun. The
// holder may have changed between the last attempt and that, to one with a shorter
// TTL: then it is not true any more when the lock is stale at the latest, and who
// watches is told only of what happened since.
const secondLook = time.Second

// sleep waits until another attempt is worth making. A watch that is fresh began
// after held was seen.
func (c *contender) sleep(ctx context.Context, held *HeldError, fresh bool) error {
	var early time.Duration
	// Attempts between timed retries are free, so they come further and further
	// apart when they do not succeed: a store that promises too much, or a crowd
	// at a stale lock, must not become a busy loop.
	pace := min(time.Second, 4*time.Millisecond<<min(c.early, 10))
	switch {
	case held == nil: // unavailable
		early = min(max(pace, 50*time.Millisecond), c.w.terms.RetryInterval)
	case held.RetryAfter > 0:
		early = max(held.RetryAfter-time.Since(c.answered), pace)
	}
	if fresh && early > secondLook {
		early = secondLook
	}
	wake := c.wake
	if c.wakes > 16 { // it wakes for nothing, and again and again
		wake = nil
		if early == 0 || early > time.Second {
			early = time.Second
		}
	}
	begun := time.Now()
	why, err := c.w.sleep(ctx, c.l, wake, early)
	c.wakes = max(0, c.wakes-int(min(time.Since(begun)/(200*time.Millisecond), 100)))
	switch why {
	case sleptRetry:
		c.early, c.wakes = 0, 0
	case sleptEarly:
		c.early++
	case sleptWake:
		c.early++
		c.wakes++
	case sleptClosed:
		c.early++
		c.wakes++
		c.wake, c.ended = nil, true
	}
	return err
}

// finish leaves nothing of the contention behind but the lease, if granted.
func (c *contender) finish(ctx context.Context, granted bool) {
	if c.stop != nil {
		c.l.endWatch(ctx, c.key, c.stop, granted)
		c.stop, c.wake, c.ended = nil, nil, false
	}
	if c.unknown && !granted {
		c.unknown = false
		claim := c.claim
		// not waited for: the caller's wait ends with its context
		c.l.background.Go(func() { c.l.withdraw(ctx, c.key, claim) })
	}
}

func (l *locker) endWatch(ctx context.Context, key string, stop func(context.Context, bool) error, granted bool) {
	l.background.Go(func() {
		bctx, cancel := l.opts.bounded(ctx)
		defer cancel()
		if err := stop(bctx, granted); err != nil {
			l.emit(Event{Kind: EventWarning, Key: key, Err: fmt.Errorf("a waiter could not be removed; it expires by itself: %w", err)})
		}
	})
}

// withdraw frees what a claim of unknown outcome may hold.
func (l *locker) withdraw(ctx context.Context, key string, claim backend.Claim) {
	bctx, cancel := l.opts.bounded(ctx)
	defer cancel()
	g := backend.Grant{Key: key, ID: claim.ID, Holder: claim.Holder, TTL: claim.TTL}
	err := retryUnknown(bctx, l.life.Done(), func() error { return l.b.Release(bctx, g) })
	if err != nil && !errors.Is(err, ErrLost) {
		l.emit(Event{Kind: EventWarning, Key: key, Err: fmt.Errorf("a claim of unknown outcome could not be withdrawn; it expires after %v: %w", claim.TTL, err)})
	}
}

// retryUnknown repeats f, with growing pauses, while its outcome is unknown and
// the context lasts. Once closed is closed there is one more call, at once, and no
// other: what Close waits for must not go on against a store that refuses. For
// what is worth that wait closed is nil.
func retryUnknown(ctx context.Context, closed <-chan struct{}, f func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		final := false
		select {
		case <-closed:
			final = true
		default:
		}
		err := f()
		if err == nil || errors.Is(err, ErrLost) || !isUnknown(err) || final {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-closed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// emitAttempt counts a look at the lock, and tells of it.
func (l *locker) emitAttempt(key string, w *wait) {
	w.attempts++
	l.emit(Event{Kind: EventAttempt, Key: key, Acquire: w.id, Attempt: w.attempts})
}

func (l *locker) emitWaiting(key string, w *wait) {
	now := time.Now()
	e := Event{Kind: EventWaiting, Key: key, Acquire: w.id, Attempt: w.attempts, Waited: now.Sub(w.start), Left: w.sched.left(now)}
	var held *HeldError
	if errors.As(w.last, &held) {
		e.Blocker = held.Record
	} else {
		e.Err = w.last
	}
	l.emit(e)
}
