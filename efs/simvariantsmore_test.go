//go:build unix

package efs

import (
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// The variants that strangers, a host's own file system, refusals and clocks see through.

// anyFile takes what is no lock file for an old one.
type anyFile struct{ fsys.FS }

func (f anyFile) Read(path string, most int) ([]byte, fsys.Info, error) {
	content, i, err := f.FS.Read(path, most)
	if err == nil && strings.HasPrefix(string(content), database) {
		content, i.Size, i.Mtime = []byte("1000000000.5\n"), 13, time.Unix(1e9, 0)
	}
	return content, i, err
}

// noLinks removes a symbolic link from the lock's path.
type noLinks struct{ fsys.FS }

func (f noLinks) Stat(path string, fresh bool) (fsys.Info, error) {
	i, err := f.FS.Stat(path, fresh)
	if err == nil && path == lockPath && i.Mode&fs.ModeSymlink != 0 {
		_ = f.FS.Remove(path)
		return i, syscall.ENOENT
	}
	return i, err
}

// oldJunk goes on seeing what was in the state directory once.
type oldJunk struct {
	fsys.FS
	names []string
}

func (f *oldJunk) List(dir string) ([]string, fsys.Info, error) {
	names, i, err := f.FS.List(dir)
	if err != nil || dir != stateDir {
		return names, i, err
	}
	for _, n := range names {
		_, baton := statedir.Parse(n)
		if _, rest := statedir.ParseRest(n); !baton && !rest && n[0] != '.' && !slices.Contains(f.names, n) {
			f.names = append(f.names, n)
		}
	}
	for _, n := range f.names {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, i, err
}

// notBack says that a file was put back, and does nothing.
type notBack struct{ fsys.FS }

func (f notBack) Link(from, to string) error {
	if to == lockPath && strings.Contains(from, "old.") {
		return nil
	}
	return f.FS.Link(from, to)
}

// sparesNothing has no rename that spares what exists, and does not say so.
type sparesNothing struct{ fsys.FS }

func (f sparesNothing) RenameNew(from, to string) error { return f.FS.Rename(from, to) }

// refusedIsDone takes a move that was refused for done.
type refusedIsDone struct{ fsys.FS }

func (f refusedIsDone) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if fsys.Definite(err) && !fsys.IsMissing(err) && !fsys.IsFull(err) {
		return nil
	}
	return err
}
