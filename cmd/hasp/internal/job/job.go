// Package job runs a command so that a lease can be enforced on it: in a
// process group of its own, with the terminal if there is one, and never longer
// than the process that started it, nor than a deadline that it moves on.
package job

import (
	"errors"
	"os"
	"time"
)

// ErrUnsupported: this system has no process groups.
var ErrUnsupported = errors.New("running a command under a lock is not supported on this system: it has no process groups")

// Spec says what to run. Standard input, output and error are the caller's, except
// that there may be a Stdout.
type Spec struct {
	Path string   // the program's file
	Args []string // with the program's name first
	Env  []string
	// Stdout is the command's standard output; nil for the caller's.
	Stdout *os.File
	// Grace is how long before the deadline (see Job.Extend) the guard asks the
	// group to end if nobody else does.
	Grace time.Duration
	// Then, unless nil, returns what the guard gives to Guard's function when this
	// process has died and nobody of the group runs any more. It may be secret, and
	// has no line ends. One longer than MaxThen is left out. It is called when there
	// is going to be a guard.
	Then func() string
}

// MaxThen is the longest text of Spec.Then in bytes.
const MaxThen = 4000

// Status is how a command ended.
type Status struct {
	Code   int // as a shell has it: 128 + n after signal n
	Signal int // the signal that ended it, or 0
}
