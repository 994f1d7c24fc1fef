//go:build unix

package fsys

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the file system of this host.
type OS struct{}

var _ FS = OS{}

func (OS) Stat(path string, fresh bool) (Info, error) {
	i, err := stat(path, fresh)
	return i, fail("stat", path, err)
}

func (OS) List(dir string) ([]string, Info, error) {
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, Info{}, fail("open", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer closed(fd)
	defer f.Close()
	before, err := fstat(fd) // the open has asked the server
	if err != nil {
		return nil, before, fail("stat", dir, err)
	}
	names, err := f.Readdirnames(-1)
	return names, before, err
}

// Rename is the bare system call. os.Rename looks at the target first and repeats
// what was interrupted; here every answer but success is followed by a look instead.
func (OS) Rename(from, to string) error {
	return fail("rename", from, unix.Renameat(unix.AT_FDCWD, from, unix.AT_FDCWD, to))
}

func (OS) RenameNew(from, to string) error {
	err := renameNew(from, to)
	if isAny(err, unix.EINVAL, unix.ENOSYS, unix.ENOTSUP) {
		err = ErrNoRenameNew
	}
	return fail("rename", to, err)
}

func (OS) Link(from, to string) error {
	return fail("link", to, unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, 0))
}

func (OS) Remove(path string) error {
	return fail("remove", path, unix.Unlinkat(unix.AT_FDCWD, path, 0))
}

func (OS) RemoveDir(path string) error {
	return fail("rmdir", path, unix.Unlinkat(unix.AT_FDCWD, path, unix.AT_REMOVEDIR))
}

func (s OS) MakeDir(path string, mode fs.FileMode) error {
	if err := unix.Mkdirat(unix.AT_FDCWD, path, uint32(mode.Perm())); err != nil {
		return fail("mkdir", path, err)
	}
	if i, err := s.Stat(path, false); err == nil && i.Mode == mode|fs.ModeDir {
		return nil
	}
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail("open", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer closed(fd)
	defer f.Close()
	// By now another directory of this user's may be there, if others may write the one
	// above. A new one is empty, and an empty one has nothing to hide.
	if _, err := f.Readdirnames(1); err != io.EOF {
		return fail("chmod", path, errors.Join(ErrReplaced, err))
	}
	return fail("chmod", path, setMode(fd, mode))
}

// setMode changes the mode of what is open as fd, if this user has made it and the
// umask has taken something away. It is never done by name: who may write the
// directory could have put a link to another's file in its place.
func setMode(fd int, mode fs.FileMode) error {
	i, err := fstat(fd)
	if err != nil || i.Mode&modeBits == mode&modeBits || int(i.UID) != unix.Geteuid() || i.Mode.IsRegular() && i.Nlink != 1 {
		return err
	}
	// Some file systems have no modes, or the same for all that is in them. Who may not
	// use what is made there is told so when he tries.
	if err := unix.Fchmod(fd, sysMode(mode)); err != nil && !isAny(err, unix.EPERM, unix.ENOSYS, unix.ENOTSUP, unix.EINVAL) {
		return err
	}
	return nil
}

const modeBits = fs.ModePerm | fs.ModeSetgid | fs.ModeSticky

func sysMode(m fs.FileMode) uint32 {
	s := uint32(m.Perm())
	if m&fs.ModeSetgid != 0 {
		s |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		s |= unix.S_ISVTX
	}
	return s
}

// Create counts errors of close: that is where a network file system says that it is
// full.
func (OS) Create(path string, content []byte, mode fs.FileMode) error {
	return create(path, content, mode, func(int) error { return nil })
}

func (OS) Store(path string, content []byte, mode fs.FileMode) error {
	return create(path, content, mode, fsync)
}

func fsync(fd int) error {
	for {
		if err := unix.Fsync(fd); err != unix.EINTR {
			return err
		}
	}
}

func (OS) SyncDir(dir string) error {
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail("open", dir, err)
	}
	defer shut(fd)
	if err = fsync(fd); isAny(err, unix.EINVAL, unix.ENOSYS, unix.ENOTSUP, unix.EBADF, unix.EISDIR) {
		err = nil // there is no such thing here
	}
	return fail("sync", dir, err)
}

func create(path string, content []byte, mode fs.FileMode, end func(fd int) error) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, uint32(mode.Perm()))
	if err != nil {
		return fail("create", path, err)
	}
	err = setMode(fd, mode.Perm())
	if err == nil && len(content) > 0 {
		var n int
		n, err = unix.Write(fd, content)
		if err == nil && n < len(content) {
			err = io.ErrShortWrite
		}
	}
	if err == nil {
		err = end(fd)
	}
	if cerr := shut(fd); err == nil {
		err = cerr
	}
	return fail("write", path, err)
}

func (OS) Read(path string, most int) ([]byte, Info, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		if isAny(err, unix.ELOOP, unix.EMLINK, unix.ENXIO) { // FreeBSD says EMLINK of a link
			err = errors.Join(ErrNotRegular, err)
		}
		return nil, Info{}, fail("open", path, err)
	}
	defer shut(fd)
	content, i, err := contentOf(fd, most)
	return content, i, fail("read", path, err)
}

// contentOf reads the file that is open as fd, as long as it is now. An os.File would
// cost more than the rest of it together.
func contentOf(fd, most int) ([]byte, Info, error) {
	i, err := fstatFresh(fd)
	switch {
	case err != nil:
		return nil, i, err
	case !i.Mode.IsRegular():
		return nil, i, ErrNotRegular
	}
	content := make([]byte, min(i.Size, int64(most)))
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

// Overwrite: the file stays this one while it is open, whoever has its name by then.
func (OS) Overwrite(path string, content []byte, ours func([]byte) bool) error {
	fd, err := open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail("open", path, err)
	}
	has, _, err := contentOf(fd, MaxRead)
	if err == nil && !ours(has) {
		err = ErrReplaced
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
	if cerr := shut(fd); err == nil {
		err = cerr
	}
	return fail("write", path, err)
}

// Touch: others may do the same to the same name at the same time. The answer is then
// the time of a later touch, which is before now all the same.
func (OS) Touch(path string, mode fs.FileMode) (now time.Time, err error) {
	// The mode is set of nothing but what this call has made: who may write the directory
	// could have given the name to a private file of this user's.
	const flags = unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	fd, err := open(path, flags|unix.O_CREAT|unix.O_EXCL, uint32(mode.Perm()))
	made := err == nil
	if err == unix.EEXIST {
		fd, err = open(path, flags, 0)
	}
	if err != nil {
		return now, fail("create", path, err)
	}
	defer shut(fd)
	if made {
		if err := setMode(fd, mode.Perm()); err != nil {
			return now, fail("chmod", path, err)
		}
	}
	if err := touch(fd); err != nil {
		return now, fail("touch", path, err)
	}
	i, err := fstatFresh(fd)
	return i.Mtime, fail("stat", path, err)
}

// open retries EINTR: an open has no effect that a second could spoil.
func open(path string, flags int, mode uint32) (fd int, err error) {
	for range 100 {
		if fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode); err != unix.EINTR {
			break
		}
	}
	if err == unix.EMFILE || err == unix.ENFILE {
		return openSpare(path, flags, mode)
	}
	return fd, err
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
