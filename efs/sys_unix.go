//go:build unix

package efs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxLockFile is how much of a lock file is read: four lines and a few of ours.
const maxLockFile = 4096

func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// stat looks at name in d, or at d itself if name is empty, and asks the server
// even if the client believes it knows. It does not follow a symbolic link.
func (s *sys) stat(d *os.File, name string) (i info, err error) {
	err = s.step("stat", func() error {
		i, err = statFresh(int(d.Fd()), name)
		return fail("stat", orSelf(d, name), err)
	})
	return i, err
}

func orSelf(d *os.File, name string) string {
	if name == "" {
		return d.Name()
	}
	return name
}

// openState opens the directory name in d.
func (s *sys) openState(d *os.File, name string) (f *os.File, err error) {
	err = s.step("open-state", func() error {
		fd, err := openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open", name, err)
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}

// openat retries EINTR: an open has no effect that a second could spoil.
func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	for range 100 {
		if fd, err = unix.Openat(dir, name, flags, mode); !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return fd, err
}

// rename is the bare system call. os.Rename looks at the target first and
// repeats what was interrupted; here every answer but success is followed by a
// look at the directory instead.
func (s *sys) rename(d *os.File, from, to string) error {
	return s.step("rename", func() error {
		return fail("rename", from, unix.Renameat(int(d.Fd()), from, int(d.Fd()), to))
	})
}

func (s *sys) link(d *os.File, from, to string) error {
	return s.step("link", func() error {
		return fail("link", to, unix.Linkat(int(d.Fd()), from, int(d.Fd()), to, 0))
	})
}

// renameNew is rename, but fails with EEXIST if the target exists; errNoRenameNew
// where the system or the file system has no such call.
func (s *sys) renameNew(d *os.File, from, to string) error {
	return s.step("rename-new", func() error {
		err := renameNoReplace(int(d.Fd()), from, to)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
			err = errNoRenameNew
		}
		return fail("rename", to, err)
	})
}

func (s *sys) unlink(d *os.File, name string) error {
	return s.step("unlink", func() error { return fail("unlink", name, unix.Unlinkat(int(d.Fd()), name, 0)) })
}

func (s *sys) rmdir(d *os.File, name string) error {
	return s.step("rmdir", func() error {
		return fail("rmdir", name, unix.Unlinkat(int(d.Fd()), name, unix.AT_REMOVEDIR))
	})
}

// mkdir makes a directory with exactly this mode, whatever the umask.
func (s *sys) mkdir(d *os.File, name string, mode fs.FileMode) error {
	err := s.step("mkdir", func() error {
		return fail("mkdir", name, unix.Mkdirat(int(d.Fd()), name, uint32(mode.Perm())))
	})
	if err != nil {
		return err
	}
	return s.step("chmod", func() error {
		return fail("chmod", name, unix.Fchmodat(int(d.Fd()), name, uint32(mode.Perm())|setgid(mode), 0))
	})
}

func setgid(m fs.FileMode) uint32 {
	if m&fs.ModeSetgid != 0 {
		return unix.S_ISGID
	}
	return 0
}

// create makes a new file with this content. Errors of close count: that is where
// a network file system says that it is full.
func (s *sys) create(d *os.File, name string, content []byte) error {
	var fd int
	err := s.step("create", func() (err error) {
		fd, err = openat(int(d.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
		return fail("create", name, err)
	})
	if err != nil {
		if fd > 0 {
			_ = unix.Close(fd)
		}
		return err
	}
	if len(content) > 0 {
		err = s.step("write", func() error {
			n, err := unix.Write(fd, content)
			if err == nil && n < len(content) {
				err = io.ErrShortWrite
			}
			return fail("write", name, err)
		})
	}
	closed := false
	cerr := s.step("close", func() error {
		closed = true
		return fail("close", name, unix.Close(fd))
	})
	if !closed {
		_ = unix.Close(fd)
	}
	if err == nil {
		err = cerr
	}
	return err
}

// read returns a small file's content and what fstat says of it. What is not a
// regular file gives an error, a named pipe without waiting for a writer.
func (s *sys) read(d *os.File, name string) (content []byte, i info, err error) {
	err = s.step("read", func() error {
		fd, err := openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open", name, err)
		}
		defer unix.Close(fd)
		content, i, err = contentOf(fd)
		return fail("read", name, err)
	})
	return content, i, err
}

// contentOf reads the file that is open as fd, as long as it is now. An os.File would
// cost more than the rest of it together.
func contentOf(fd int) (content []byte, i info, err error) {
	i, err = statFresh(fd, "")
	switch {
	case err != nil:
		return nil, i, err
	case i.mode.IsDir():
		return nil, i, unix.EISDIR
	case !i.mode.IsRegular():
		return nil, i, errNotRegular
	}
	content = make([]byte, min(i.size, maxLockFile))
	for at := 0; at < len(content); {
		n, err := unix.Pread(fd, content[at:], int64(at))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, i, err
		case n == 0: // it was cut short
			return content[:at], i, nil
		default:
			at += n
		}
	}
	return content, i, nil
}

// overwrite writes content at the start of name, if what it has is ours: it stays
// this file while it is open, whoever else has its name by then. Errors of close
// count, as for create.
func (s *sys) overwrite(d *os.File, name string, content []byte, ours func([]byte) bool) error {
	return s.step("overwrite", func() error {
		fd, err := openat(int(d.Fd()), name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open", name, err)
		}
		has, _, err := contentOf(fd)
		if err == nil && !ours(has) {
			err = errReplaced
		}
		if err == nil {
			var n int
			n, err = unix.Pwrite(fd, content, 0)
			for err == unix.EINTR {
				n, err = unix.Pwrite(fd, content, 0)
			}
			if err == nil && n < len(content) {
				err = io.ErrShortWrite
			}
		}
		if cerr := unix.Close(fd); err == nil {
			err = cerr
		}
		return fail("write", name, err)
	})
}

// touch makes sure that name exists, sets its mtime to the server's present time
// and returns that. Others may do the same to the same name at the same time: the
// answer is then the time of a later touch, which is before now all the same.
func (s *sys) touch(d *os.File, name string) (now time.Time, err error) {
	err = s.step("touch", func() error {
		fd, err := openat(int(d.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return fail("create", name, err)
		}
		defer unix.Close(fd)
		if err := touchFd(fd); err != nil {
			return fail("touch", name, err)
		}
		i, err := statFresh(fd, "")
		now = i.mtime
		return fail("stat", name, err)
	})
	return now, err
}

func goMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFREG:
	default:
		mode |= fs.ModeIrregular
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}
