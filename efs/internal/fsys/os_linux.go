package fsys

import (
	"time"

	"golang.org/x/sys/unix"
)

// stat with fresh is statx with AT_STATX_FORCE_SYNC: one GETATTR on a network file
// system, which also tells the client whether the names that it remembers are still
// good. Without, it is AT_STATX_DONT_SYNC: a name that is still good costs nothing.
func stat(path string, fresh bool) (Info, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_DONT_SYNC
	if fresh {
		flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_FORCE_SYNC
	}
	return statx(unix.AT_FDCWD, path, flags)
}

func fstat(fd int) (Info, error) {
	return statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC)
}

func fstatFresh(fd int) (Info, error) {
	return statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC)
}

func statx(fd int, path string, flags int) (Info, error) {
	var st unix.Statx_t
	for {
		err := unix.Statx(fd, path, flags, unix.STATX_BASIC_STATS, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Info{}, err
		}
		break
	}
	return Info{
		ID:    ID{uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), st.Ino},
		Mode:  goMode(uint32(st.Mode)),
		Mtime: time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)),
		Ctime: time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec)),
		Size:  int64(st.Size),
		Nlink: uint64(st.Nlink),
		UID:   st.Uid,
	}, nil
}

// touch sets mtime to the server's time: utimensat without times, on the descriptor.
// With a path it could reach a file that has been replaced, and with times it would
// send this host's.
func touch(fd int) error {
	for {
		_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, 0, 0, 0, 0)
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return e
		}
	}
}

func renameNew(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}
