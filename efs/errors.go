//go:build unix

package efs

import (
	"errors"
	"fmt"

	"github.com/hasplock/hasp/backend"
)

var (
	errNotRegular  = errors.New("not a regular file")
	errReplaced    = errors.New("another file has this name by now")
	errNoRenameNew = errors.New("no rename that spares what exists")
	errClockStands = errors.New("file times do not advance on this file system")
	// errGone: the state directory that was open is not the one at its path any
	// more, or there is none.
	errGone = errors.New("the state directory is gone")
)

// corrupt says that something in the way is not what hasp, or a process of the
// lock-file protocol, would have put there.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", backend.ErrCorrupt, fmt.Sprintf(format, args...))
}
