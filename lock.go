// Package hasp lets only one process in a fleet do a thing at a time.
//
// A [Locker] takes locks by name on whatever store all the processes can reach:
// a shared directory on AWS EFS or any NFS (package efs), Redis (redislock),
// etcd (etcdlock), memory (memlock), or a backend of your own. Waiting, retry,
// timeouts and heartbeats are the same with all of them:
//
//	l, err := hasp.Open(ctx, "efs:///mnt/efs/sweeps", nil)
//	...
//	err = hasp.Do(ctx, l, "foo", func(ctx context.Context, lease *hasp.Lease) error {
//		return createSweep(ctx, lease.Token())
//	})
//
// # What a lock is worth
//
// A lease is valid until its [Lease.Deadline], which heartbeats move on. When
// they fail for too long the lease is lost: [Lease.Done] is closed and
// [Lease.Context] is cancelled with cause ErrLost, by this process's own clocks
// and before anyone else may take the lock over. A process that was stopped in
// between finds out when it runs again, and may have written something in the
// instant before it looks. If that matters, have the resource that the lock
// protects refuse a [Lease.Token] lower than one it has seen: tokens strictly
// increase from one acquisition of a key to the next.
package hasp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/hasplock/hasp/backend"
)

// Locker takes locks. Its methods may be called concurrently; goroutines that
// want the same key are served first come, first served, and only the first of
// them contends with other processes.
type Locker interface {
	// Acquire waits for key by the retry policy and returns a lease on it. Errors:
	// *TimeoutError when the waiting is used up; the context's error, joined with
	// the holder last seen, when ctx ends; ErrUnavailable; ErrInvalidKey;
	// ErrClosed. Nothing is left in the store when it fails.
	Acquire(ctx context.Context, key string, opts ...AcquireOption) (*Lease, error)
	// TryAcquire makes one attempt. If another has the lock the error is a
	// *HeldError, inside an *Error.
	TryAcquire(ctx context.Context, key string, opts ...AcquireOption) (*Lease, error)
	// Inspect tells who holds key now.
	Inspect(ctx context.Context, key string) (Record, error)
	// List returns the records of the keys that are held (or stale) and start with
	// prefix, in the keys' byte order. One that cannot be read is a record in state
	// Unknown. Errors: ErrUnsupported if the store cannot list; ErrUnavailable; ErrClosed.
	List(ctx context.Context, prefix string) ([]Record, error)
	// Break is an operator's forced release: it frees key, whose holder has this
	// token, stale or not. Its holder is told that the lease is lost, as soon as the
	// store can tell it and at its next heartbeat at the latest, and may work on until
	// then. If another holds key by now nothing is changed and the error is a
	// *HeldError; ErrNotHeld if nobody does; ErrUnsupported.
	Break(ctx context.Context, key string, token uint64) error
	// Warnings returns what the backend found suspicious when it was opened, one
	// sentence each.
	Warnings() []string
	// Value returns what Lease.SetValue set for key last, by whichever process, and
	// whoever holds key now. The error matches ErrNoValue if nothing was set, or it
	// was deleted. A store that does not answer is asked again for up to
	// Options.MaxUnavailable. Other errors: the context's; ErrUnavailable;
	// ErrUnsupported if the backend keeps no values; ErrInvalidKey; ErrClosed.
	Value(ctx context.Context, key string) ([]byte, error)
	// Close releases the leases that are still held, ends every Acquire with
	// ErrClosed, and closes the backend. A claim of unknown outcome, and a lease that
	// was lost, get one more try to be freed. If the store does not answer Close takes
	// up to Options.RequestTimeout, and so may an Acquire that has no way to be
	// cancelled. Options.Observer and Logger are told of what happened until then,
	// which takes a second at most. Another Close does nothing and returns nil.
	Close() error
}

// New returns a Locker on b, which it owns from then on: Close closes it. It
// panics if opts are not valid in themselves (see Options), which is a mistake
// in the program; Open returns an error instead.
func New(b backend.Backend, opts *Options) Locker {
	l, err := newLocker(b, opts)
	if err != nil {
		panic(err)
	}
	return l
}

// Open opens the backend that url names and returns a Locker on it. The
// package of the backend must have been imported, for its side effect at least:
//
//	import _ "github.com/hasplock/hasp/efs"
//
// A bare path is a directory of lock files.
func Open(ctx context.Context, url string, opts *Options) (Locker, error) {
	if _, err := opts.resolve(); err != nil {
		return nil, fmt.Errorf("hasp: %w", err)
	}
	b, err := backend.Open(ctx, url)
	if err != nil {
		return nil, err
	}
	return newLocker(b, opts)
}

type locker struct {
	b     backend.Backend
	given Options // what opts was made of
	opts  resolved
	now   func() reading

	mu     sync.Mutex
	keys   map[string]*slot  // keys that a goroutine here holds or contends for
	leases map[string]*Lease // by claim ID: those held
	closed bool

	observer, logger *sink // nil if there is none
	acquires         atomic.Uint64

	life     context.Context // ends with Close
	end      context.CancelFunc
	prompt   bool // the backend's calls heed their context
	punctual bool // they heed its deadline
	requests requests
	heart    heart
	// The terms of Acquires without options.
	waited, tried terms
	background    tasks  // calls and clean-ups that outlive their caller
	unsub         func() // ends the backend's loss notifications
}

func newLocker(b backend.Backend, opts *Options) (*locker, error) {
	r, err := opts.resolve()
	if err != nil {
		return nil, fmt.Errorf("hasp: %w", err)
	}
	l := &locker{
		b: b, opts: r, now: readClocks,
		keys:   map[string]*slot{},
		leases: map[string]*Lease{},
	}
	if opts != nil {
		l.given = *opts
	}
	l.waited, l.tried = terms{resolved: r}, terms{resolved: r, try: true}
	l.life, l.end = context.WithCancel(context.Background())
	l.prompt, l.punctual = backend.IsPrompt(b), backend.IsPunctual(b)
	l.makeSinks()
	l.heart.init(l)
	if n, ok := backend.AsLossNotifier(b); ok {
		l.unsub = n.OnLoss(l.backendLost)
	}
	for _, w := range backend.Warnings(b) {
		l.emit(Event{Kind: EventWarning, Err: errors.New(w)})
	}
	return l, nil
}

func (t *terms) claim() backend.Claim {
	return backend.Claim{ID: rand.Text(), Holder: t.holder, TTL: t.TTL, TokenFloor: t.floor}
}

func (l *locker) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// backendLost is told by the backend that a grant is gone.
func (l *locker) backendLost(key, id string) {
	l.mu.Lock()
	le := l.leases[id]
	l.mu.Unlock()
	if le != nil && le.key == key {
		le.lose(fmt.Errorf("%w: the store says so", ErrLost))
	}
}

func (l *locker) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	held := make([]*Lease, 0, len(l.leases))
	for _, le := range l.leases {
		held = append(held, le)
	}
	l.mu.Unlock()
	l.end()
	l.requests.close()

	errs := l.releaseAll(held)
	l.heart.stop()
	l.background.close()
	if !l.background.wait(l.opts.RequestTimeout) {
		errs = multierror.Append(errs, fmt.Errorf("hasp: close: calls to the backend are still hanging after %v", l.opts.RequestTimeout))
	}
	if l.unsub != nil {
		l.unsub()
	}
	if err := l.b.Close(); err != nil {
		errs = multierror.Append(errs, fmt.Errorf("hasp: close: %w", err))
	}
	l.closeSinks()
	if errs != nil {
		errs.ErrorFormat = inOneLine
	}
	return errs.ErrorOrNil()
}

// inOneLine is the form of all errors here: "hasp: OP "KEY": why", several joined by
// semicolons.
func inOneLine(errs []error) string { return backend.Text(errors.Join(errs...)) }

// releaseAll releases leases, some at a time. Once the store has let the request
// timeout pass without freeing one of them, the rest are left to their TTL: a
// Close that waited for each would take hours on a dead mount.
func (l *locker) releaseAll(held []*Lease) (errs *multierror.Error) {
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		progress = time.Now()
		left     int
		limit    = make(chan struct{}, 32)
	)
	for _, le := range held {
		limit <- struct{}{}
		mu.Lock()
		dead := time.Since(progress) >= l.opts.RequestTimeout
		mu.Unlock()
		if dead {
			<-limit
			left++
			_ = le.release(l.now(), func(backend.Grant, bool) error { return ErrUnavailable })
			continue
		}
		wg.Go(func() {
			defer func() { <-limit }()
			lost := errors.Is(le.Err(), ErrLost) // its holder has been told
			err := le.Release(context.Background())
			mu.Lock()
			defer mu.Unlock()
			if !isUnknown(err) {
				progress = time.Now()
			}
			if err != nil && !lost {
				errs = multierror.Append(errs, err)
			}
		})
	}
	wg.Wait()
	if left > 0 {
		errs = multierror.Append(errs, fmt.Errorf("hasp: close: %d more leases are left to expire: %w", left, ErrUnavailable))
	}
	return errs
}
