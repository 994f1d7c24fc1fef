//go:build unix

package statedir

import (
	"testing"
	"time"
)

// A clock that is carried on is never ahead of the one that it was read from.
func TestServerClockLags(t *testing.T) {
	var c Clock
	if _, ok := c.last(time.Hour); ok {
		t.Error("a clock that was never read tells the time")
	}
	read := time.Unix(1000, 0)
	c.set(read, time.Now().Add(-10*time.Second))
	got, ok := c.last(time.Minute)
	if d := got.Sub(read); !ok || d > 10*time.Second+500*time.Millisecond || d < 9900*time.Millisecond {
		t.Errorf("10 s later it says %v, %v", d, ok)
	}
	if _, ok := c.last(9 * time.Second); ok {
		t.Error("older than asked for")
	}
}
