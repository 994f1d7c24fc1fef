package backend

import (
	"math"
	"time"
)

// NextToken is the rule for tokens, for stores that have a clock: one more than
// the last, more than the floor, and at least the store's time in microseconds
// since 1970. With the clock in it tokens keep rising when the store forgets
// the last one (a flushed server, a deleted directory). The error is
// ErrTokensExhausted.
func NextToken(last, floor uint64, now time.Time) (uint64, error) {
	if last == math.MaxUint64 || floor == math.MaxUint64 {
		return 0, ErrTokensExhausted
	}
	next := max(last, floor) + 1
	if us := now.UnixMicro(); us > 0 {
		next = max(next, uint64(us))
	}
	return next, nil
}
