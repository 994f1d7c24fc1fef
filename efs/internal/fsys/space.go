//go:build unix

package fsys

import "golang.org/x/sys/unix"

// Space is how much room is left on a file system for this user.
type Space struct {
	Bytes, FreeBytes uint64
	Files, FreeFiles uint64 // 0 of 0: it has no fixed number of them
}

// SpaceOf asks for the room on the file system that dir is on.
func SpaceOf(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, fail("statfs", dir, err)
	}
	size := uint64(st.Bsize)
	return Space{uint64(st.Blocks) * size, uint64(st.Bavail) * size, uint64(st.Files), uint64(st.Ffree)}, nil
}
