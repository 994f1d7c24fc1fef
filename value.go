package hasp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// MaxValueLen is the longest value, in bytes, that can be kept beside a key.
const MaxValueLen = backend.MaxValueLen

// SetValue keeps data beside the lock: Locker.Value finds it from then on, in
// every process, also when the lease has been released, lost or broken, until
// another value is set. The store looks whether the lease holds the lock in the same
// step, so nothing that is set under a lost lease is ever seen. It does not renew
// the lease. Values of one lease are set in the order of the calls.
//
// If the store does not answer SetValue asks again, until ctx ends, the lease is
// lost, or the store has said nothing for Options.MaxUnavailable. Errors: one that
// matches ErrUnavailable, or the context's, when it is not known whether data is set,
// and it may be set until the lease is released; ErrLost when the lease was lost,
// which ends it, and data is not set unless the error matches ErrUnavailable too;
// ErrReleased; ErrOldValue; ErrUnsupported if the backend keeps no values; or that
// data has over MaxValueLen bytes, and then nothing has changed.
func (le *Lease) SetValue(ctx context.Context, data []byte) error {
	return le.setValue(ctx, "set value", backend.Value{Data: bytes.Clone(data)})
}

// DeleteValue makes the store forget the lock's value: Locker.Value gives ErrNoValue
// from then on. That there was none is no error. Else it is as SetValue.
func (le *Lease) DeleteValue(ctx context.Context) error {
	return le.setValue(ctx, "delete value", backend.Value{Deleted: true})
}

func (le *Lease) setValue(ctx context.Context, op string, v backend.Value) error {
	fail := func(err error) error { return &Error{op, le.key, err} }
	if !backend.Has(le.l.b, backend.CapValues) {
		return fail(ErrUnsupported)
	}
	begun := time.Now()
	le.mu.Lock()
	if le.setting == nil {
		le.setting = make(chan struct{}, 1)
	}
	setting := le.setting
	le.mu.Unlock()
	select {
	case setting <- struct{}{}: // one after the other
	case <-ctx.Done():
		return fail(newCanceled(ctx, 0, time.Since(begun), nil))
	}
	defer func() { <-setting }()
	le.mu.Lock()
	le.values++
	v.Token, v.Seq = le.grant.Token, le.values
	le.mu.Unlock()
	if err := v.Validate(); err != nil {
		return fail(err)
	}
	s := &setter{le: le, v: v}
	err := le.l.patiently(ctx, le.Done(), func() error { return s.attempt(ctx) })
	switch {
	case err == nil:
		return nil
	case s.unknown != nil && !isUnknown(err) && !errors.Is(err, ErrOldValue):
		err = fmt.Errorf("%w; an earlier request may have set the value: %w", err, s.unknown)
	}
	return fail(err)
}

// setter is one SetValue.
type setter struct {
	le      *Lease
	v       backend.Value
	unknown error // what the last request gave whose outcome is not known
}

// attempt asks the store once. No heartbeat is sent meanwhile, also if the call hangs
// and is left behind.
func (s *setter) attempt(ctx context.Context) error {
	le, l := s.le, s.le.l
	if err := le.Err(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	wait, cancel := context.WithTimeout(ctx, max(l.opts.RequestTimeout, l.opts.MaxUnavailable))
	borrowed := l.heart.borrow(le, wait.Done())
	cancel()
	if !borrowed {
		if err := le.Err(); err != nil {
			return err
		}
		return backend.Unavailable(errors.New("a request for the same lease has not returned"))
	}
	le.mu.Lock()
	g, err := le.grant, le.err
	left := le.left(l.now())
	le.mu.Unlock()
	if err != nil {
		l.heart.giveBack(le)
		return err
	}
	// half of what is left, so that a heartbeat can follow on a request that vanished
	ctx, cancel = context.WithTimeout(ctx, max(left/2, time.Millisecond))
	defer cancel()
	_, err = call(ctx, l, time.Now(), true, func(ctx context.Context) (struct{}, error) {
		defer l.heart.giveBack(le)
		next, err := backend.SetValue(ctx, l.b, g, s.v)
		if err == nil {
			le.adopt(next)
		}
		return struct{}{}, err
	}, nil)
	switch {
	case errors.Is(err, ErrLost):
		le.lose(err)
		if ended := le.Err(); errors.Is(ended, ErrReleased) {
			return ended // Release came first: that is no loss
		}
	case isUnknown(err):
		s.unknown = backend.Unavailable(err)
		return s.unknown
	}
	return err
}

// adopt takes the grant that a request returned which has not renewed the lease.
func (le *Lease) adopt(g backend.Grant) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if le.state == leaseHeld {
		le.grant = g
	}
}

func (l *locker) Value(ctx context.Context, key string) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, &Error{"value", key, err} }
	if err := backend.ValidateKey(key); err != nil {
		return fail(err)
	}
	if l.isClosed() {
		return fail(ErrClosed)
	}
	if !backend.Has(l.b, backend.CapValues) {
		return fail(ErrUnsupported)
	}
	var v backend.Value
	err := l.patiently(ctx, nil, func() (err error) {
		v, err = call(ctx, l, time.Now(), true, func(ctx context.Context) (backend.Value, error) { return backend.ReadValue(ctx, l.b, key) }, nil)
		return err
	})
	switch {
	case err != nil:
		return fail(err)
	case !v.Exists():
		return fail(ErrNoValue)
	}
	return append([]byte{}, v.Data...), nil
}

// patiently repeats f while the store does not answer: until ctx or the Locker ends,
// ended is closed, or there was no answer for Options.MaxUnavailable.
func (l *locker) patiently(ctx context.Context, ended <-chan struct{}, f func() error) error {
	start, tries := time.Now(), 0
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		tries++
		switch {
		case err == nil || !isUnknown(err) || errors.Is(err, ErrLost):
			return err
		case ctx.Err() != nil:
			return newCanceled(ctx, tries, time.Since(start), err)
		case l.isClosed():
			return ErrClosed
		case time.Since(start) >= l.opts.MaxUnavailable:
			return backend.Unavailable(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-l.life.Done():
		case <-ended:
		}
		timer.Stop()
	}
}
