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
	l   *locker
	key string

	since reading // when it was acquired

	mu    sync.Mutex
	grant backend.Grant
	base  reading // the request that last set the TTL was made then
	state leaseState
	err   error // why it is not held any more
	// Made when first asked for: most leases are never watched, and a process
	// may hold a great many.
	done   chan struct{}
	ctx    context.Context
	cancel context.CancelCauseFunc
	parent context.Context

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

// grant makes a lease of what the backend granted; nil if the Locker was closed.
func (l *locker) grant(ctx context.Context, g backend.Grant, before reading, w *wait) *Lease {
	le := &Lease{l: l, key: g.Key, since: before, base: before, grant: g, parent: context.WithoutCancel(ctx)}
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
	l.heart.add(le)
	l.emit(Event{Kind: EventAcquired, Key: le.key, Token: g.Token, Attempt: w.attempts, Waited: time.Since(w.start)})
	return le
}

// Key returns the lock's name.
func (le *Lease) Key() string { return le.key }

// Token returns the fencing token: greater than that of every earlier lease of
// this key, by whichever process.
func (le *Lease) Token() uint64 { return le.Grant().Token }

// Holder returns what others see as the holder.
func (le *Lease) Holder() backend.Holder { return le.l.opts.holder }

// Grant returns the backend's own view of the lease, for functions of backend
// packages that need it.
func (le *Lease) Grant() backend.Grant {
	le.mu.Lock()
	defer le.mu.Unlock()
	return le.grant
}

// Deadline returns when the lease is lost unless it is renewed before: the time
// the last successful request was made, plus TTL, less Options.Margin. Time that
// the process was suspended counts, so the answer moves when it wakes up.
func (le *Lease) Deadline() time.Time { return le.deadline(le.l.now()) }

func (le *Lease) deadline(now reading) time.Time {
	le.mu.Lock()
	defer le.mu.Unlock()
	return now.mono.Add(le.left(now))
}

// valid is how long a lease lives from the request that last set its TTL, and
// left how much there is of that. Both are called with mu held.
func (le *Lease) valid() time.Duration           { return le.grant.TTL - le.l.opts.Margin }
func (le *Lease) left(now reading) time.Duration { return le.valid() - now.since(le.base) }

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
func (le *Lease) Release(ctx context.Context) error {
	l := le.l
	return le.release(func(g backend.Grant) error {
		_, err := call(context.WithoutCancel(ctx), l, false, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, retryUnknown(ctx, func() error { return l.b.Release(ctx, g) })
		}, nil)
		return err
	})
}

// release ends the lease; free is to free it in the store.
func (le *Lease) release(free func(backend.Grant) error) error {
	le.expire(le.l.now())
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
		err = free(g)
	} else {
		// The store may still have it, which only keeps others waiting. Not waited
		// for here, since whoever has lost a lock has to hear of it soon.
		l.background.Go(func() { _ = free(g) })
		err = lost
	}
	if err != nil {
		err = &Error{"release", le.key, err}
	}
	le.releaseErr = err
	// before the key is passed on, so that events come in the order of what happened
	l.emit(Event{Kind: EventReleased, Key: le.key, Token: g.Token, HeldFor: l.now().since(le.since), Err: err})
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
		Key: le.key, State: backend.Held, ID: le.grant.ID, Holder: le.l.opts.holder,
		Token: le.grant.Token, TTL: le.grant.TTL, HeldFor: now.since(le.since),
		Remaining: max(0, le.grant.TTL-now.since(le.base)),
	}
}
