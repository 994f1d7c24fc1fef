package hasp

import (
	"context"
	"errors"
)

// Do acquires key, runs fn and releases key. fn's context is ctx, cancelled
// besides when the lease is lost, with a cause that matches ErrLost: fn must stop
// then. Do's error joins fn's with what went wrong about the lock: if the lease was
// lost while fn ran it matches ErrLost, even if fn returned nil.
func Do(ctx context.Context, l Locker, key string, fn func(ctx context.Context, lease *Lease) error) error {
	lease, err := l.Acquire(ctx, key)
	if err != nil {
		return err
	}
	return hold(ctx, lease, fn)
}

func hold(ctx context.Context, lease *Lease, fn func(ctx context.Context, lease *Lease) error) (err error) {
	// deferred: a panic in fn must not leave the lock to its TTL
	defer func() {
		if rerr := lease.Release(ctx); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	fctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	held := lease.Context()
	defer context.AfterFunc(held, func() { cancel(context.Cause(held)) })()
	return fn(fctx, lease)
}

// Once runs fn under the lock unless done says that it has been done: it asks
// done, acquires key, asks done again (another may have done it in the meantime),
// and then runs fn. ran tells whether fn was called. fn's context and the error are
// as Do's.
func Once(ctx context.Context, l Locker, key string, done func(ctx context.Context) (bool, error), fn func(ctx context.Context, lease *Lease) error) (ran bool, err error) {
	if ok, err := done(ctx); ok || err != nil {
		return false, err
	}
	err = Do(ctx, l, key, func(ctx context.Context, lease *Lease) error {
		ok, err := done(ctx)
		if ok || err != nil {
			return err
		}
		ran = true
		return fn(ctx, lease)
	})
	return ran, err
}
