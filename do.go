package hasp

import (
	"context"
	"errors"
)

// Do acquires key, runs fn and releases key. fn's context is ctx, cancelled
// besides when the lease is lost, with a cause that matches ErrLost: fn must stop
// then. Do's error joins fn's with what went wrong about the lock: if the lease was
// lost while fn ran it matches ErrLost, even if fn returned nil.
func Do(ctx context.Context, l Locker, key string, fn func(ctx context.Context, lease *Lease) error, opts ...AcquireOption) error {
	lease, err := l.Acquire(ctx, key, opts...)
	if err != nil {
		return err
	}
	return hold(ctx, lease, fn)
}

// DoURL is Do for a program that has one thing to do: it opens the backend that url
// names, as Open does, and closes it when fn has returned and the lock is free. With nil
// options it waits as Options says. A program with several keys keeps a Locker.
//
//	err := hasp.DoURL(ctx, "redis://cache:6379/0", "nightly", nil, func(ctx context.Context, lease *hasp.Lease) error { ... })
func DoURL(ctx context.Context, url, key string, opts *Options, fn func(ctx context.Context, lease *Lease) error) (err error) {
	l, err := Open(ctx, url, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return Do(ctx, l, key, fn)
}

func hold(ctx context.Context, lease *Lease, fn func(ctx context.Context, lease *Lease) error) (err error) {
	// deferred: a panic in fn must not leave the lock to its TTL
	defer func() {
		rerr := lease.Release(ctx)
		switch {
		case err == nil:
			err = rerr
		case rerr != nil:
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
func Once(ctx context.Context, l Locker, key string, done func(ctx context.Context) (bool, error), fn func(ctx context.Context, lease *Lease) error, opts ...AcquireOption) (ran bool, err error) {
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
	}, opts...)
	return ran, err
}

// OnceValue returns the value that is kept for key; where there is none it runs fn
// under the lock, and keeps what fn returns, for every process that comes later. It
// looks first without the lock, then acquires key, looks again (another may have set
// it in the meantime), runs fn, sets the value and releases. ran tells whether fn was
// called. fn's context is as Do's.
//
// A value that is not nil is decided, also if err, which is about the release alone
// then, is not nil. (Of no bytes it is empty, and not nil.) If fn fails, or the lease
// is lost before the value is set, nothing is kept and value is nil. If err matches
// ErrUnavailable and ran is true, the store may have the value or not: another
// OnceValue finds out, and runs fn again if need be. A backend that keeps no
// values gives ErrUnsupported before fn is run.
func OnceValue(ctx context.Context, l Locker, key string, fn func(ctx context.Context, lease *Lease) ([]byte, error), opts ...AcquireOption) (value []byte, ran bool, err error) {
	if value, err := l.Value(ctx, key); !errors.Is(err, ErrNoValue) {
		return value, false, err
	}
	err = Do(ctx, l, key, func(ctx context.Context, lease *Lease) (err error) {
		if value, err = l.Value(ctx, key); !errors.Is(err, ErrNoValue) {
			return err
		}
		ran = true
		made, err := fn(ctx, lease)
		if err != nil {
			return err
		}
		if err := lease.SetValue(ctx, made); err != nil {
			return err
		}
		value = append([]byte{}, made...)
		return nil
	}, opts...)
	return value, ran, err
}
