// Package job runs a command so that a lease can be enforced on it: in a
// process group of its own, with the terminal if there is one, and never longer
// than the process that started it, nor than a deadline that it moves on.
package job

import (
	"errors"
	"time"
)

// ErrUnsupported: this system has no process groups.
var ErrUnsupported = errors.New("running a command under a lock is not supported on this system: it has no process groups")

// Spec says what to run. Standard input, output and error are the caller's.
type Spec struct {
	Path string   // the program's file
	Args []string // with the program's name first
	Env  []string
	// Grace is how long before the deadline (see Job.Extend) the guard asks the
	// group to end if nobody else does.
	Grace time.Duration
}

// Status is how a command ended.
type Status struct {
	Code   int // as a shell has it: 128 + n after signal n
	Signal int // the signal that ended it, or 0
}
