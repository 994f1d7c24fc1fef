package redislock

import (
	"math"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// The longest TTL there is has, in whole milliseconds, more than a Duration holds. Within
// the millisecond of its grant all of that is left, and the lock was called stale.
func TestLongestTTLIsHeld(t *testing.T) {
	ms := wholeMillis(math.MaxInt64)
	value := "7 id " + millis(math.MaxInt64) + " 3600000 0 1 - {}"
	r, err := (&Backend{}).inspected("k", []any{value, ms, "1", int64(0)}, nil)
	if err != nil || r.State != backend.Held || r.Remaining != math.MaxInt64 || r.TTL != math.MaxInt64 {
		t.Errorf("Inspect of a lock with %d ms left tells %s, %v left of %v, %v", ms, r.State, r.Remaining, r.TTL, err)
	}
	held, ok := (&Backend{}).heldError("k", []any{value, ms, int64(1)}).(*backend.HeldError)
	if !ok || held.Record.State != backend.Held || held.RetryAfter < 100*365*24*time.Hour {
		t.Errorf("a claim of that lock is told %+v", held)
	}
	if g := ceilMillis(math.MaxInt64); g != math.MaxInt64 {
		t.Errorf("the longest TTL is granted as %v", g)
	}
}
