package efs

import (
	"time"

	"golang.org/x/sys/unix"
)

// statFresh is statx with AT_STATX_FORCE_SYNC: one GETATTR on a network file
// system, which also tells the client whether what it has cached is still good.
func statFresh(fd int, name string) (info, error) {
	flags := unix.AT_STATX_FORCE_SYNC | unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	for {
		err := unix.Statx(fd, name, flags, unix.STATX_BASIC_STATS, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return info{}, err
		}
		break
	}
	return info{
		id:    fileID{uint64(st.Dev_major)<<32 | uint64(st.Dev_minor), st.Ino},
		mode:  goMode(uint32(st.Mode)),
		mtime: time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)),
		size:  int64(st.Size),
		nlink: uint64(st.Nlink),
		uid:   st.Uid,
	}, nil
}

// touchFd sets mtime to the server's time: utimensat without times, on the
// descriptor. With a path it could reach a file that has been replaced, and with
// times it would send this host's.
func touchFd(fd int) error {
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

func renameNoReplace(dir int, from, to string) error {
	return unix.Renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
}
