package hasp

import (
	"errors"
	"fmt"
	"time"
)

// An AcquireOption changes, for one Acquire and the lease that comes of it, what the
// Locker's Options say. So one Locker serves jobs of ten seconds and of an hour.
type AcquireOption func(*acquireOptions)

// WithTTL is Options.TTL for this lease. Heartbeat, Margin and the number of retries
// follow it where Options leaves them to their defaults; an Options.Heartbeat or
// Options.Margin that does not fit d is an error.
func WithTTL(d time.Duration) AcquireOption {
	return func(o *acquireOptions) {
		if o.TTL = d; d == 0 {
			o.refuse("WithTTL(0): a lock has to be valid for some time")
		}
	}
}

// WithMaxWait is Options.MaxWait for this Acquire, and alone decides: Options.MaxRetries
// does not count, Options.Retry says when attempts are made. To make one attempt and not
// wait at all use NoWait.
func WithMaxWait(d time.Duration) AcquireOption {
	return func(o *acquireOptions) {
		o.MaxWait, o.MaxRetries = d, 0
		if d <= 0 {
			o.refuse(fmt.Sprintf("WithMaxWait(%v): it has to be positive; NoWait makes one attempt", d))
		}
	}
}

// NoWait makes one attempt: Acquire with it is TryAcquire. It is for Do and Once.
func NoWait() AcquireOption { return func(o *acquireOptions) { o.try = true } }

// WithOwner is Options.Owner for this lease.
func WithOwner(name string) AcquireOption { return func(o *acquireOptions) { o.Owner = name } }

// WithTokenFloor asks for a token greater than floor, for a resource that has seen
// floor from another store.
func WithTokenFloor(floor uint64) AcquireOption { return func(o *acquireOptions) { o.floor = floor } }

// acquireOptions is what AcquireOptions change: a copy of the Locker's Options.
type acquireOptions struct {
	Options
	try   bool
	floor uint64
	errs  []error
}

func (o *acquireOptions) refuse(why string) { o.errs = append(o.errs, errors.New(why)) }

// terms are what one Acquire and its lease go by.
type terms struct {
	resolved
	try   bool
	floor uint64
}

// terms returns the Locker's own ones as long as nothing is to be changed: most
// Acquires have no options.
func (l *locker) terms(try bool, opts []AcquireOption) (*terms, error) {
	if len(opts) == 0 {
		if try {
			return &l.tried, nil
		}
		return &l.waited, nil
	}
	o := acquireOptions{Options: l.given, try: try}
	for _, opt := range opts {
		opt(&o)
	}
	if o.errs != nil {
		return nil, fmt.Errorf("options: %w", errors.Join(o.errs...))
	}
	r, err := o.resolve()
	if err != nil {
		return nil, err
	}
	return &terms{r, o.try, o.floor}, nil
}
