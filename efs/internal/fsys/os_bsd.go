//go:build unix && !linux

package fsys

import (
	"time"

	"golang.org/x/sys/unix"
)

// stat with fresh opens a directory anew, which revalidates it on these systems:
// they have no way to ask past the cache. A file is as the client remembers it.
func stat(path string, fresh bool) (Info, error) {
	if fresh {
		if fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
			defer shut(fd)
			return fstat(fd)
		}
	}
	var st unix.Stat_t
	var err error
	for {
		if err = unix.Fstatat(unix.AT_FDCWD, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.EINTR {
			break
		}
	}
	return infoOf(&st), err
}

func fstat(fd int) (Info, error) {
	var st unix.Stat_t
	var err error
	for {
		if err = unix.Fstat(fd, &st); err != unix.EINTR {
			break
		}
	}
	return infoOf(&st), err
}

func fstatFresh(fd int) (Info, error) { return fstat(fd) }

func infoOf(st *unix.Stat_t) Info {
	return Info{
		ID:    ID{uint64(st.Dev), uint64(st.Ino)},
		Mode:  goMode(uint32(st.Mode)),
		Mtime: time.Unix(st.Mtim.Unix()),
		Ctime: time.Unix(st.Ctim.Unix()),
		Size:  st.Size,
		Nlink: uint64(st.Nlink),
		UID:   st.Uid,
	}
}

// touch sets mtime to the server's time, by a write: futimes would send this host's.
func touch(fd int) error {
	_, err := unix.Pwrite(fd, []byte{'\n'}, 0)
	return err
}

func renameNew(string, string) error { return unix.ENOSYS }
