//go:build unix

package job

import (
	"fmt"
	"testing"
	"time"
)

// A guard that reads a line late counts the deadline from when it was written; a clock
// that was set back since then does not put it off.
func TestGuardReadsLate(t *testing.T) {
	const left = time.Minute
	for _, tc := range []struct {
		name  string
		since time.Duration // from the line's time to now
		most  time.Duration
	}{
		{"at once", 0, left},
		{"20 s late", 20 * time.Second, 40 * time.Second},
		{"too late", 2 * time.Minute, -time.Minute},
		{"the clock was set back", -time.Hour, left},
	} {
		var w watchman
		w.heed(fmt.Sprintf("left %d %d", left, time.Now().Add(-tc.since).UnixNano()))
		if got := w.left(); got > tc.most || got < tc.most-10*time.Second {
			t.Errorf("%s: %v left, want %v", tc.name, got, tc.most)
		}
	}
	var w watchman
	w.heed(leftLine(left))
	if got := w.left(); got > left || got < left-10*time.Second {
		t.Errorf("%v left of %v", got, left)
	}
}
