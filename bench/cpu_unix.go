//go:build unix

// Package bench measures hasp beside its alternatives, in one run: see
// docs/benchmarks.md for figures and `make bench` for how they are made.
package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used so far. Beside a busy neighbour it says
// more than the time that has passed.
func cpuTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
