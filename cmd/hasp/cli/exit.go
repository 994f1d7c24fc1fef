package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// The exit statuses besides the command's own. From 64 to 78 they have the
// meanings, as near as can be, of BSD's sysexits.
const (
	exitOK          = 0
	exitUsage       = 64 // arguments, key or URL are wrong
	exitCorrupt     = 65 // what the store has for the key was not written by hasp
	exitUnavailable = 69 // the store does not answer
	exitInternal    = 70 // anything that fits nowhere else
	exitCantCreate  = 73 // no space, read-only, or no directory where one has to be
	exitIO          = 74 // the file system failed
	exitHeld        = 75 // not acquired: another holds the lock
	exitLost        = 76 // the lease was lost, and the command stopped
	exitPermission  = 77 // the lock may not be read or written
	exitConfig      = 78 // the configuration is out of date: the lock has moved, or a migration does not admit the phase, or a step
	exitCannotRun   = 126
	exitNotFound    = 127
	exitSignal      = 128 // + the signal's number
)

// exitHelp is what the help of run and once says of them.
const exitHelp = `Exit status: the command's own, 128 + n if signal n ended it; or else
   64  the arguments, the key or the URL are wrong
   65  what the store has for KEY is not something hasp wrote
   69  the store does not answer
   70  an error that fits nowhere else
   73  the lock cannot be created: no space, read-only, not a directory
   74  the file system failed
   75  not acquired: another holds the lock, and the message says who
   76  the lock was lost, and the command was stopped
   77  no permission
   78  the lock has moved to another store, or its migration does not admit this
       phase (hasp migrate status): the message says what to configure
  126  the command was found and cannot be run
  127  the command was not found; nothing was locked`

// exitError ends the program with this status; err, unless nil, is printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(err error) *exitError { return &exitError{exitUsage, err} }

func usagef(format string, args ...any) *exitError { return usage(fmt.Errorf(format, args...)) }

// fail gives err the status that fits what it matches.
func fail(err error) *exitError {
	var e *exitError
	var sig *signalError
	var refused *migrate.RefusedError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &sig):
		return &exitError{exitSignal + sig.number(), err}
	case errors.As(err, &refused):
		if refused.Passes {
			return &exitError{exitHeld, err}
		}
		return &exitError{exitConfig, err}
	case errors.Is(err, migrate.ErrPhase):
		return &exitError{exitConfig, err}
	case errors.Is(err, hasp.ErrLost):
		return &exitError{exitLost, err}
	case errors.Is(err, hasp.ErrHeld):
		return &exitError{exitHeld, err}
	case errors.Is(err, hasp.ErrInvalidKey), errors.Is(err, hasp.ErrUnsupported):
		return &exitError{exitUsage, err}
	case errors.Is(err, hasp.ErrMoved):
		return &exitError{exitConfig, err}
	case errors.Is(err, backend.ErrCorrupt):
		return &exitError{exitCorrupt, err}
	}
	if code := systemCode(err); code != 0 {
		return &exitError{code, err}
	}
	return &exitError{exitInternal, err}
}

// failOpen is fail for opening a backend, where an error that the system had no
// part in is about the URL.
func failOpen(err error) *exitError {
	if e := fail(err); e.code != exitInternal {
		return e
	}
	return usage(err)
}

// systemCode looks for what the system said. A file system's refusal comes
// first: it is the same to ask again, although some count as unavailable.
func systemCode(err error) int {
	var errno syscall.Errno
	errors.As(err, &errno)
	var netErr *net.OpError // not net.Error: every errno is one of those
	switch {
	case errors.Is(err, fs.ErrPermission):
		return exitPermission
	case errno == syscall.ENOSPC, errno == syscall.EDQUOT, errno == syscall.EROFS, errno == syscall.ENOTDIR,
		errno == syscall.EISDIR, errno == syscall.ENAMETOOLONG, errno == syscall.ELOOP:
		return exitCantCreate
	case errors.Is(err, hasp.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr):
		return exitUnavailable
	case errno != 0:
		return exitIO
	}
	return 0
}

// message is err as hasp prints it, with the program's name once.
func message(err error) string {
	s := backend.Text(err)
	if !strings.HasPrefix(s, "hasp: ") {
		s = "hasp: " + s
	}
	return s
}
