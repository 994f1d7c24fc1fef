//go:build unix

package simfs

import (
	"io/fs"
	"strings"
	"syscall"
)

// A Local file system has no server: every process sees what there is. Requests can be
// slow, and are carried out once or, if their process dies, not at all.
type Local struct {
	// RenameNew: it has a rename that spares what exists.
	RenameNew bool
}

// Lower makes all that is below a path, and is there now, part of an overlay's lower
// layer: its directories cannot be moved.
func (s *Server) Lower(path string) {
	for _, p := range s.Tree(path) {
		if n := s.At(p); n.dir {
			n.lower = true
		}
	}
}

// readableBy tells whether a user may read a file: its owner, or anybody if it is for others.
func (n *Node) readableBy(user int) bool { return n.user == user || n.mode&0o004 != 0 }

// notADir is what is said of a path that goes on below n, which is none.
func (n *Node) notADir() error {
	if n.mode&fs.ModeSymlink != 0 { // those that there are lead nowhere
		return syscall.ENOENT
	}
	return syscall.ENOTDIR
}

// Content is what is in a file, or where a link leads.
func (n *Node) Content() string { return string(n.data) }

// Gone tells whether n has no name any more.
func (n *Node) Gone() bool { return n.gone }

// Names are those in a directory.
func (n *Node) Names() (names []string) {
	for _, e := range n.entries {
		names = append(names, e.name)
	}
	return names
}

// Put is what a person does: it makes a file, a link, or a directory, by the mode. What is
// there goes, unless a directory has something in it.
func (s *Server) Put(path, content string, mode fs.FileMode, user int, tag any) *Node {
	i := strings.LastIndexByte(path, '/')
	dir, name := s.At(path[:i]), path[i+1:]
	if dir == nil || !dir.dir {
		return nil
	}
	if old := dir.find(name); old != nil {
		if old.dir && len(old.entries) > 0 {
			return nil
		}
		s.unlink(dir, name)
	}
	n := s.node(mode.IsDir())
	n.data, n.mode, n.user, n.Tag = []byte(content), mode, user, tag
	dir.put(name, n)
	s.touched(dir)
	return n
}

// Paths are the names of n.
func (s *Server) Paths(n *Node) (paths []string) {
	for _, path := range s.Tree("/r") {
		if s.At(path) == n {
			paths = append(paths, path)
		}
	}
	return paths
}
