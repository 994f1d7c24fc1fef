//go:build unix

package fsys

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/hasplock/hasp/backend"
)

var (
	// ErrNotRegular: a directory, a symbolic link, a device or a pipe.
	ErrNotRegular = errors.New("not a regular file")
	// ErrReplaced: the file at the path is another by now.
	ErrReplaced = errors.New("another file has this name by now")
	// ErrNoRenameNew: no rename that spares what exists.
	ErrNoRenameNew = errors.New("no rename that spares what exists")
)

// Everything that is concluded from an error of a file system is concluded here.

// IsGone tells whether a name, or the directory it was to be in, is not there any
// more.
func IsGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE)
}

// IsMissing is IsGone without ESTALE: the name is not there, and its directory is.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// IsTaken tells whether a name could not be made because it exists.
func IsTaken(err error) bool { return errors.Is(err, fs.ErrExist) }

// IsFull tells whether a directory could not be removed or replaced because
// something is in it, in the words of the file systems there are: EEXIST comes from
// xfs, EXDEV from union file systems, EPERM from file transfer protocols, ENOTDIR
// and EISDIR from clients that remember something else under the name.
func IsFull(err error) bool {
	return isAny(err, syscall.ENOTEMPTY, syscall.EEXIST, syscall.ENOTDIR, syscall.EISDIR, syscall.EXDEV, syscall.EPERM)
}

// IsCross tells whether a directory cannot be moved by rename at all.
func IsCross(err error) bool { return isAny(err, syscall.EXDEV) }

// IsUnreadable tells whether a file exists and this user may not read it. EINVAL is
// what a server says of a file whose owner's host has died and not come back.
func IsUnreadable(err error) bool {
	return isAny(err, syscall.EACCES, syscall.EPERM, syscall.EINVAL)
}

// IsForbidden tells whether it is by a permission that a request was refused.
func IsForbidden(err error) bool { return isAny(err, syscall.EACCES, syscall.EPERM) }

// NoLinks tells whether hard links cannot be had.
func NoLinks(err error) bool {
	return isAny(err, syscall.EPERM, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EMLINK)
}

// Definite tells whether a request that failed like this has had no effect, and
// never will.
func Definite(err error) bool {
	return isAny(err, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT,
		syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EMFILE, syscall.ENFILE,
		syscall.EMLINK, syscall.EXDEV, syscall.EINVAL, syscall.ENOENT, syscall.ENOTEMPTY, syscall.EEXIST)
}

// Classify turns an error of a verb, whose effect has been looked at, into one that
// the engine understands: definite if nothing can have come of it, else one that
// matches backend.ErrUnavailable.
func Classify(err error) error {
	if err == nil || Definite(err) {
		return err
	}
	for _, e := range []error{backend.ErrCorrupt, backend.ErrInvalidKey, backend.ErrTokensExhausted,
		backend.ErrHeld, backend.ErrLost, backend.ErrNotHeld, backend.ErrClosed, backend.ErrUnsupported, backend.ErrOldValue, backend.ErrMoved} {
		if errors.Is(err, e) {
			return err
		}
	}
	return backend.Unavailable(err)
}

func isAny(err error, codes ...syscall.Errno) bool {
	if err == nil {
		return false
	}
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e == c {
			return true
		}
	}
	return false
}

func fail(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// IsNoDir tells whether something else than a directory is where one was to be opened.
func IsNoDir(err error) bool { return isAny(err, syscall.ENOTDIR, syscall.ELOOP, syscall.EMLINK) }

// ErrNoDir is what the system says of a path in which something is no directory.
var ErrNoDir error = syscall.ENOTDIR
