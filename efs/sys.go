//go:build unix

package efs

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/hasplock/hasp/backend"
)

// fileID tells one file from another.
type fileID struct{ dev, ino uint64 }

// info is what the protocol wants to know of a file.
type info struct {
	id    fileID
	mode  fs.FileMode
	mtime time.Time
	size  int64
	nlink uint64
	uid   uint32
}

// sys makes the file-system calls. Each call that another host could see, or
// whose answer the protocol acts on, is one step, and tests cut the protocol at
// every step.
type sys struct {
	// fault, if not nil, is asked to make the call: it may do so, or not, or
	// return another error than do did, or never return.
	fault func(op string, do func() error) error
}

func (s *sys) step(op string, do func() error) error {
	if s.fault == nil {
		return do()
	}
	return s.fault(op, do)
}

// mkdirAll makes a directory and its missing parents under root.
func (s *sys) mkdirAll(root *os.Root, dir string) error {
	return s.step("mkdir-parents", func() error { return root.MkdirAll(dir, 0o777) })
}

// openDir opens a directory under root; symbolic links that lead out of it are
// refused.
func (s *sys) openDir(root *os.Root, dir string) (f *os.File, err error) {
	err = s.step("open-parent", func() error {
		f, err = root.Open(dir)
		return err
	})
	if err == nil {
		if fi, serr := f.Stat(); serr == nil && !fi.IsDir() {
			err = &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
		}
	}
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}

// names lists d anew.
func (s *sys) names(d *os.File) (names []string, err error) {
	err = s.step("list", func() error {
		if _, err := d.Seek(0, 0); err != nil {
			return err
		}
		names, err = d.Readdirnames(-1)
		return err
	})
	return names, err
}

// classify turns an error of a call whose effect has been looked at, or that has
// none, into one that a user can act on and the engine understands: definite if
// the call cannot have had an effect and never will.
func classify(err error) error {
	if err == nil {
		return nil
	}
	for _, e := range []error{syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ENOSPC, syscall.EDQUOT,
		syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EMFILE, syscall.ENFILE,
		syscall.EMLINK, syscall.EXDEV, syscall.EINVAL, syscall.ENOENT,
		backend.ErrCorrupt, backend.ErrInvalidKey, backend.ErrTokensExhausted, backend.ErrHeld, backend.ErrLost, backend.ErrNotHeld, backend.ErrClosed} {
		if errors.Is(err, e) {
			return err
		}
	}
	return backend.Unavailable(err)
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
