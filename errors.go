package hasp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// The sentinels that errors of this package match with errors.Is.
var (
	// ErrHeld: another holds the lock. *HeldError and *TimeoutError match it.
	ErrHeld = backend.ErrHeld
	// ErrTimeout: the retries or MaxWait were used up. *TimeoutError matches it.
	ErrTimeout = errors.New("timed out")
	// ErrLost: the lease ended without its Release: another may hold the lock.
	ErrLost = backend.ErrLost
	// ErrReleased: the lease was ended by its own Release.
	ErrReleased = errors.New("lease was released")
	// ErrMoved: the lock was sealed, since it is kept in another store now; the error names it.
	ErrMoved = backend.ErrMoved
	// ErrUnavailable: the store did not answer, or not so that the outcome is known.
	ErrUnavailable = backend.ErrUnavailable
	// ErrInvalidKey: the key cannot be used with this backend.
	ErrInvalidKey = backend.ErrInvalidKey
	// ErrClosed: the Locker was closed.
	ErrClosed = backend.ErrClosed
	// ErrNoValue: no value is kept for the key.
	ErrNoValue = errors.New("there is no value")
	// ErrOldValue: a value was not set since the one that is set comes after it, by its
	// token. Tokens of one key rise, so it was set under a lease of another store, or
	// before the store lost its memory and its clock was set back.
	ErrOldValue = backend.ErrOldValue
	// ErrUnsupported: the backend lacks this capability.
	ErrUnsupported = backend.ErrUnsupported
	// ErrNotHeld: nobody holds the key that was to be broken.
	ErrNotHeld = backend.ErrNotHeld
	// ErrCorrupt: what the store has for the key was not written by hasp; a person has
	// to look.
	ErrCorrupt = backend.ErrCorrupt
	// ErrTokensExhausted: no token is greater than the last one, or the floor.
	ErrTokensExhausted = backend.ErrTokensExhausted
)

// Record is what a store knows of a key: who holds it, since when, for how long yet.
type Record = backend.Record

// Holder says who holds, or wants, a lock, in words for people.
type Holder = backend.Holder

// State is where a key is between free and held.
type State = backend.State

// The states of a Record.
const (
	Free    = backend.Free
	Held    = backend.Held
	Stale   = backend.Stale
	Sealed  = backend.Sealed
	Unknown = backend.Unknown
)

// HeldError names the holder that is in the way.
type HeldError = backend.HeldError

// Error says which operation failed, on which key, and why. Its text is one line and
// printable, whatever the key and the names of holders are.
type Error struct {
	Op  string // "acquire", "renew", "release", "verify", "inspect", "list", "break", "value", "set value", "delete value"
	Key string
	Err error
}

func (e *Error) Error() string {
	return fmt.Sprintf("hasp: %s %q: %s", e.Op, e.Key, backend.Text(e.Err))
}
func (e *Error) Unwrap() error { return e.Err }

// TimeoutError says that an Acquire gave up waiting, and for whom. It matches
// ErrTimeout, and ErrHeld if the lock was seen held.
type TimeoutError struct {
	Attempts int           // times the lock was looked at, at the backend or in the local queue
	Waited   time.Duration // from the call to its end
	Last     error         // what the last attempt returned, or nil if none was made
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("timed out after %d attempts in %s", e.Attempts, backend.Round(e.Waited))
	if e.Attempts == 1 {
		s = fmt.Sprintf("timed out after 1 attempt in %s", backend.Round(e.Waited))
	}
	if e.Last != nil {
		s += ": " + backend.Text(e.Last)
	}
	return s
}

// Is makes errors.Is(err, ErrTimeout) true.
func (e *TimeoutError) Is(target error) bool { return target == ErrTimeout }

// Unwrap gives what was last seen, so that errors.Is(err, ErrHeld) is true and
// errors.As finds the *HeldError.
func (e *TimeoutError) Unwrap() error { return e.Last }

// canceled joins why the caller stopped waiting with what was last seen.
type canceled struct {
	cause    error // context.Cause
	ctxErr   error // context.Canceled or context.DeadlineExceeded
	attempts int
	waited   time.Duration
	last     error
}

func newCanceled(ctx context.Context, attempts int, waited time.Duration, last error) error {
	return &canceled{context.Cause(ctx), ctx.Err(), attempts, waited, last}
}

func (e *canceled) Error() string {
	s := fmt.Sprintf("gave up after %s: %s", backend.Round(e.waited), backend.Text(e.cause))
	if e.last != nil {
		s += ": " + backend.Text(e.last)
	}
	return s
}

func (e *canceled) Unwrap() []error {
	errs := []error{e.ctxErr}
	if !errors.Is(e.ctxErr, e.cause) {
		errs = append(errs, e.cause)
	}
	if e.last != nil {
		errs = append(errs, e.last)
	}
	return errs
}
