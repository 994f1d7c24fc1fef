package hasp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Lease is a lock that is held. Its methods may be called concurrently.
type Lease struct {
	l    *locker
	key  string
	opts *resolved // what it was acquired with

	since reading // when it was acquired

	mu    sync.Mutex
	grant backend.Grant
	base  reading // the request that last set the TTL was made then
	// renewed is set by the first renewal.
	renewed bool
	// late: an attempt of its claim had no answer, and may arrive when it is released.
	late  bool
	state leaseState
	err   error // why it is not held any more
	// Made when first asked for: most leases are never watched, and a process
	// may hold a great many.
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelCauseFunc
	parent context.Context

	values  uint64        // how many values it was asked to set: the last one's Seq
	setting chan struct{} // holds one element while a value is set; nil before the first

	releasing  chan struct{} // closed when Release has finished; nil before it began
	releaseErr error

	beat beat // the scheduler's
}

type leaseState uint8

const (
	leaseHeld leaseState = iota
	leaseLost
	leaseReleased
)

// grant makes a lease of what the backend granted now, when it was asked before; nil if the
// Locker was closed.
func (l *locker) grant(ctx context.Context, g backend.Grant, before, now reading, w *wait, late bool) *Lease {
	le := &Lease{l: l, key: g.Key, opts: &w.terms.resolved, since: before, base: before, grant: g, late: late, parent: context.WithoutCancel(ctx)}
	l.mu.Lock()
	if l.closed { // Close would not see it
		l.mu.Unlock()
		return nil
	}
	l.leases[g.ID] = le
	if s := l.keys[le.key]; s != nil {
		s.lease = le
	}
	l.mu.Unlock()
	l.heart.add(le, now)
	l.emit(Event{Kind: EventAcquired, Key: le.key, Acquire: w.id, Token: g.Token, Attempt: w.attempts, Waited: now.mono.Sub(w.start)})
	return le
}

// Key returns the lock's name.
func (le *Lease) Key() string { return le.key }

// Token returns the fencing token: greater than that of every earlier lease of
// this key, by whichever process.
func (le *Lease) Token() uint64 { return le.Grant().Token }

// Holder returns what others see as the holder.
func (le *Lease) Holder() backend.Holder { return le.opts.holder }

// Grant returns the backend's own view of the lease, for functions of backend
// packages that need it.
func (le *Lease) Grant() backend.Grant {
	le.mu.Lock()
	defer le.mu.Unlock()
	return le.grant
}

// Deadline returns when the lease is lost unless it is renewed before: the time
// the last successful request was made, plus TTL, less Options.Margin. Time that
// the process was suspended counts, so the answer moves when it wakes up. It is
// near at first if the backend has granted less than the TTL to begin with, which
// is made up for at once in the background: see backend.Grant.
func (le *Lease) Deadline() time.Time { return le.deadline(le.l.now()) }

func (le *Lease) deadline(now reading) time.Time {
	le.mu.Lock()
	defer le.mu.Unlock()
	return now.mono.Add(le.left(now))
}

// valid is how long a lease lives from the request that last set its TTL, and
// left how much there is of that. Both are called with mu held.
func (le *Lease) valid() time.Duration           { return le.opts.valid(le.grant) }
func (le *Lease) left(now reading) time.Duration { return le.valid() - now.since(le.base) }

// short tells whether the grant is shorter than was claimed and has not been renewed
// yet: see backend.Grant.TTL. Called with mu held.
func (le *Lease) short() bool { return !le.renewed && le.grant.TTL < le.opts.TTL }

func (le *Lease) held() bool {
	le.mu.Lock()
	defer le.mu.Unlock()
	return le.state == leaseHeld
}

// Err returns nil while the lease is held, and then why it is not: an error
// that matches ErrLost or ErrReleased. It looks at the clock, so it is right
// also in the moment after a suspended process runs again.
func (le *Lease) Err() error {
	le.expire(le.l.now())
	le.mu.Lock()
	defer le.mu.Unlock()
	return le.err
}

// Done returns a channel that is closed when the lease is lost or released.
func (le *Lease) Done() <-chan struct{} {
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.done == nil {
		le.done = make(chan struct{})
		if le.state != leaseHeld {
			close(le.done)
		}
	}
	return le.done
}

// Context returns a context that is cancelled when the lease is lost or
// released; context.Cause then matches ErrLost or ErrReleased. It has the values
// of the context given to Acquire, and neither its cancellation nor its deadline,
// which were for the waiting.
func (le *Lease) Context() context.Context {
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.ctx == nil {
		le.ctx, le.cancel = context.WithCancelCause(le.parent)
		if le.state != leaseHeld {
			le.cancel(le.err)
		}
	}
	return le.ctx
}

// Verify asks the backend, now, whether the lease still holds the lock. nil means
// that it did when the backend answered. An error that matches ErrLost or
// ErrReleased is definite; any other means that it could not be found out.
func (le *Lease) Verify(ctx context.Context) error {
	fail := func(err error) error { return &Error{"verify", le.key, err} }
	if err := le.Err(); err != nil {
		return fail(err)
	}
	g := le.Grant()
	rec, err := le.l.Inspect(ctx, le.key)
	if err != nil {
		return fail(errors.Unwrap(err))
	}
	if rec.State == backend.Free || rec.Token != g.Token || rec.ID != "" && rec.ID != g.ID {
		le.lose(fmt.Errorf("%w: now %s", ErrLost, rec))
	} else if rec.State == backend.Stale {
		// not taken over yet, but anyone may
		le.lose(fmt.Errorf("%w: its TTL of %v has run out", ErrLost, g.TTL))
	}
	if err := le.Err(); err != nil {
		return fail(err)
	}
	return nil
}

// Release frees the lock. It can be called any number of times and after ctx has
// ended: it takes Options.RequestTimeout at most. An error that matches ErrLost
// says that the lease had been lost before, so that others may have held the lock
// while this process believed it did. After any other error the lock frees
// itself when its TTL has run out; the lease has ended in each case.
//
// If the store's answer is lost, Release asks again. That the lock then has
// another holder is what a release leads to, and no error, unless that holder had
// the lock before Release was called.
func (le *Lease) Release(ctx context.Context) error {
	called := le.l.now()
	return le.release(called, func(g backend.Grant, lost bool) error { return le.free(ctx, g, called, lost) })
}

// free frees g in the store for a Release that was called then, or, if the lease was
// lost, what there may be left of it.
func (le *Lease) free(ctx context.Context, g backend.Grant, called reading, lost bool) error {
	l := le.l
	var closed <-chan struct{}
	if lost {
		closed = l.life.Done() // it keeps others waiting at most
	}
	_, err := call(context.WithoutCancel(ctx), l, called.mono, false, func(ctx context.Context) (struct{}, error) {
		tries := 0
		err := retryUnknown(ctx, closed, func() error {
			tries++
			return l.b.Release(ctx, g)
		})
		if (tries > 1 || backend.Repeats(l.b)) && errors.Is(err, ErrLost) {
			err = le.robbed(ctx, g, called)
		}
		return struct{}{}, err
	}, nil)
	return err
}

// robbed judges a Release, called then, whose first try had no answer, and a later
// one found that g does not hold its key. (The client library may have made both.) The lease was valid when Release
// was called, and nothing is done under it after that. So it is not lost if the
// first try freed the key, nor if it did not and the lease then ran out. It was lost
// if the key had been taken away before, and that shows if the next holder has had
// the key for longer than this Release has been under way. Short of that evidence
// it is no loss: a false alarm after each lost answer, whenever somebody waits,
// would say that good work has to be thrown away.
func (le *Lease) robbed(ctx context.Context, g backend.Grant, called reading) error {
	rec, err := le.l.b.Inspect(ctx, g.Key)
	if err != nil || rec.State == backend.Free || rec.ID == g.ID {
		return nil
	}
	// the margin, since the two clocks do not run at quite the same speed
	if rec.HeldFor <= le.l.now().since(called)+le.opts.Margin {
		return nil
	}
	return fmt.Errorf("%w: now %s", ErrLost, rec)
}

// release ends the lease, which it was asked to do then; free is to free it in the
// store.
func (le *Lease) release(called reading, free func(g backend.Grant, lost bool) error) error {
	le.expire(called)
	le.mu.Lock()
	if le.releasing != nil {
		le.mu.Unlock()
		<-le.releasing
		return le.releaseErr
	}
	le.releasing = make(chan struct{})
	lost := le.err // nil if held
	le.end(leaseReleased, ErrReleased)
	g := le.grant
	le.mu.Unlock()

	l := le.l
	l.heart.remove(le)
	var err error
	if lost == nil {
		err = free(g, false)
	} else {
		// The store may still have it, which only keeps others waiting. Not waited
		// for here, since whoever has lost a lock has to hear of it soon.
		l.background.Go(func() { _ = free(g, true) })
		err = lost
	}
	if err != nil {
		err = &Error{"release", le.key, err}
	}
	if le.late {
		// What was freed could be taken again, for nobody, by an attempt that was
		// given up and arrives now.
		claim := backend.Claim{ID: g.ID, Holder: g.Holder, TTL: g.TTL}
		l.background.Go(func() { l.withdraw(context.Background(), le.key, claim) })
	}
	le.releaseErr = err
	// before the key is passed on, so that events come in the order of what happened
	if l.observed() {
		l.emit(Event{Kind: EventReleased, Key: le.key, Token: g.Token, HeldFor: l.now().since(le.since), Err: err})
	}
	l.forget(le, lost == nil)
	close(le.releasing)
	return err
}

// forget drops the lease and, if it still has its key's slot, passes that on.
func (l *locker) forget(le *Lease, pass bool) {
	l.mu.Lock()
	delete(l.leases, le.grant.ID)
	l.mu.Unlock()
	if pass {
		l.exit(le.key)
	}
}

// expire loses the lease if its time is up.
func (le *Lease) expire(now reading) {
	le.mu.Lock()
	up := le.state == leaseHeld && le.left(now) <= 0
	ttl := le.grant.TTL
	le.mu.Unlock()
	if up {
		le.lose(fmt.Errorf("%w: not renewed within its TTL of %v", ErrLost, ttl))
	}
}

// lose ends the lease, unless it has ended already.
func (le *Lease) lose(cause error) {
	le.mu.Lock()
	if le.state != leaseHeld {
		le.mu.Unlock()
		return
	}
	le.end(leaseLost, cause)
	token := le.grant.Token
	le.mu.Unlock()
	l := le.l
	l.heart.remove(le)
	l.emit(Event{Kind: EventLost, Key: le.key, Token: token, HeldFor: l.now().since(le.since), Err: cause})
	l.forget(le, true)
}

// end sets the final state and tells those who watch. A lost lease that is then
// released stays lost. Called with mu held.
func (le *Lease) end(s leaseState, err error) {
	if le.state != leaseHeld {
		return
	}
	le.state, le.err = s, err
	// in this order, so that who sees Done closed finds the cause in the context
	if le.cancel != nil {
		le.cancel(err)
	}
	if le.done != nil {
		close(le.done)
	}
}

// record describes the lease to those who wait for it in the same process.
func (le *Lease) record(now reading) backend.Record {
	le.mu.Lock()
	defer le.mu.Unlock()
	return backend.Record{
		Key: le.key, State: backend.Held, ID: le.grant.ID, Holder: le.opts.holder,
		Token: le.grant.Token, TTL: le.grant.TTL, HeldFor: now.since(le.since),
		Remaining: max(0, le.grant.TTL-now.since(le.base)),
	}
}
