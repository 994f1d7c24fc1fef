package hasp

import (
	"time"
)

// A reading is one look at both of a process's clocks.
type reading struct {
	mono time.Time // carries the monotonic reading
	wall time.Time // stripped of it
}

// readClocks is replaced by tests that make the wall clock jump.
func readClocks() reading {
	now := time.Now()
	return reading{mono: now, wall: now.Round(0)}
}

// since returns how much time has passed from then to r: the larger of the two
// clocks' answers. The monotonic clock stands still while a laptop or a VM is
// suspended, and the wall clock is set back now and then, but not both. A wall
// clock that is set forward ends leases early, which costs work and no safety.
func (r reading) since(then reading) time.Duration {
	return max(r.mono.Sub(then.mono), r.wall.Sub(then.wall))
}
