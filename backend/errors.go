package backend

import (
	"errors"
	"time"
)

// The errors that backends return and the engine acts on. Package hasp has the
// same values under the same names.
var (
	// ErrHeld is what every *HeldError matches.
	ErrHeld = errors.New("lock is held by another")
	// ErrLost means that a grant does not hold its key any more. It is definite.
	ErrLost = errors.New("lock was lost")
	// ErrUnavailable means that the store did not answer, or not in a way that
	// tells whether it acted.
	ErrUnavailable = errors.New("lock store is unavailable")
	// ErrInvalidKey means that the backend has no way to store this key.
	ErrInvalidKey = errors.New("invalid key")
	// ErrClosed means that the backend or the Locker was closed before.
	ErrClosed = errors.New("closed")
	// ErrNotHeld means that nobody holds the key that was to be broken.
	ErrNotHeld = errors.New("lock is not held")
	// ErrUnsupported means that this backend lacks an optional capability.
	ErrUnsupported = errors.New("not supported by this backend")
	// ErrTokensExhausted means that no token is greater than the last one, or the
	// floor. Nothing was changed.
	ErrTokensExhausted = errors.New("tokens are used up: the last one is the greatest there is")
	// ErrMoved means that the key was sealed: its lock is kept in another store by now,
	// which the error names. It is definite, and waiting does not help.
	ErrMoved = errors.New("lock has moved")
	// ErrCorrupt means that what the store has for a key is not something hasp
	// wrote. Nothing was changed; a person has to look.
	ErrCorrupt = errors.New("lock state is corrupt")
)

// HeldError says that another holds the key. It matches ErrHeld.
type HeldError struct {
	Record Record
	// RetryAfter is how long until another attempt can succeed even if the
	// holder never says anything more; 0 if unknown. The engine tries again by
	// then, if its own retry is not due before.
	RetryAfter time.Duration
}

// RefusedBy is the answer to an attempt at a key that is held as r says: another can
// succeed when r.Remaining is over. Of a holder in its last moment, whose Remaining is 0
// by a clock that counts in milliseconds or seconds, RetryAfter is a millisecond, for 0
// would say that nobody knows.
func RefusedBy(r Record) *HeldError {
	return &HeldError{Record: r, RetryAfter: max(r.Remaining, time.Millisecond)}
}

func (e *HeldError) Error() string { return e.Record.String() }

// Is makes errors.Is(err, ErrHeld) true.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// Unavailable wraps what a store's client returned so that it matches both
// ErrUnavailable and cause.
func Unavailable(cause error) error {
	if cause == nil || errors.Is(cause, ErrUnavailable) {
		return cause
	}
	return &unavailable{cause}
}

type unavailable struct{ cause error }

func (e *unavailable) Error() string   { return ErrUnavailable.Error() + ": " + Text(e.cause) }
func (e *unavailable) Unwrap() []error { return []error{ErrUnavailable, e.cause} }
