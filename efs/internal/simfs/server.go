//go:build unix

// Package simfs is for tests: a network file system in memory, with a server, hosts
// that remember names and attributes, and requests that a scheduler carries out when,
// and as often, as it likes. It makes no goroutine and knows no time of its own.
package simfs

import (
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// A Node is a file or a directory on the server. The number of a removed one is given
// out again.
type Node struct {
	Tag any // whose file it is, for those who check

	ino     uint64
	dir     bool
	gone    bool
	entries []entry // in the order in which they were made
	data    []byte
	mode    fs.FileMode
	mtime   time.Time
	ctime   time.Time
	change  uint64
	links   int
	user    int
	lower   bool // a directory of an overlay's lower layer
}

type entry struct {
	name string
	node *Node
}

// A Server holds the files. One goroutine at a time uses it.
type Server struct {
	// Now is the server's clock, as file times have it.
	Now func() time.Time
	// Coin returns whether something that is possible happens: of n times, once.
	Coin func(n int) bool
	// Moved, Removed, Replaced (by a rename of another) and Written, if not nil, are told
	// what a request of client has done to a file or a directory.
	Moved    func(client *Client, n *Node, from, to string)
	Removed  func(client *Client, n *Node, path string)
	Replaced func(client *Client, n *Node, path string)
	Written  func(client *Client, n *Node, path string)
	// Local is not nil for a file system of one host.
	Local *Local
	// Touched, if not nil, is the clock by which a file that is touched gets its time.
	Touched func() time.Time

	root   *Node
	unused []uint64
	last   uint64
	made   int // files
}

// NewServer has an empty directory at /r.
func NewServer(now func() time.Time, coin func(n int) bool) *Server {
	s := &Server{Now: now, Coin: coin}
	s.root = s.node(true)
	s.root.put("r", s.node(true))
	return s
}

func (s *Server) node(dir bool) *Node {
	n := &Node{dir: dir, mtime: s.Now(), ctime: s.Now(), links: 1, mode: 0o666}
	if dir {
		n.mode = 0o777 | fs.ModeDir
	}
	if k := len(s.unused); k > 0 {
		n.ino, s.unused = s.unused[k-1], s.unused[:k-1]
	} else {
		s.last++
		n.ino = s.last
	}
	return n
}

func (n *Node) find(name string) *Node {
	for _, e := range n.entries {
		if e.name == name {
			return e.node
		}
	}
	return nil
}

func (n *Node) put(name string, child *Node) { n.entries = append(n.entries, entry{name, child}) }

func (n *Node) drop(name string) {
	for i, e := range n.entries {
		if e.name == name {
			n.entries = append(n.entries[:i:i], n.entries[i+1:]...)
			return
		}
	}
}

// touched sets a directory's time after a change.
func (s *Server) touched(n *Node) {
	n.mtime, n.ctime = s.Now(), s.Now()
	n.change++
}

// unlink takes a name away.
func (s *Server) unlink(dir *Node, name string) {
	n := dir.find(name)
	dir.drop(name)
	s.touched(dir)
	if n.links--; n.links == 0 || n.dir {
		n.gone = true
		s.unused = append(s.unused, n.ino)
	}
}

func (n *Node) info() fsys.Info {
	return fsys.Info{ID: fsys.ID{Dev: 1, Ino: n.ino}, Mode: n.mode, Mtime: n.mtime, Ctime: n.ctime, Size: int64(len(n.data)), Nlink: uint64(n.links)}
}

// IsDir tells what n is.
func (n *Node) IsDir() bool { return n.dir }

// Links is how many names n has.
func (n *Node) Links() int { return n.links }

// At returns what is at a path by now, or nil.
func (s *Server) At(path string) *Node {
	n := s.root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if n = n.find(name); n == nil {
			return nil
		}
	}
	return n
}

// Tree lists all paths below one.
func (s *Server) Tree(path string) []string {
	n := s.At(path)
	if n == nil {
		return nil
	}
	var all []string
	for _, e := range n.entries {
		p := path + "/" + e.name
		all = append(all, p)
		if e.node.dir {
			all = append(all, s.Tree(p)...)
		}
	}
	return all
}

// RemoveAll is what a person does.
func (s *Server) RemoveAll(path string) {
	i := strings.LastIndexByte(path, '/')
	if n := s.At(path); n != nil {
		for n.dir && len(n.entries) > 0 {
			s.RemoveAll(path + "/" + n.entries[0].name)
		}
		s.unlink(s.At(path[:i]), path[i+1:])
	}
}

// removed is what is said of a directory, or a file, that was removed while a client had
// it: a host's own file system knows no stale handles.
func (s *Server) removed() error {
	if s.Local != nil {
		return syscall.ENOENT
	}
	return syscall.ESTALE
}

// WriteOld leaves a file whose time is long ago.
func (s *Server) WriteOld(path string, content string, mtime time.Time) {
	i := strings.LastIndexByte(path, '/')
	dir := s.At(path[:i])
	n := s.node(false)
	n.data, n.mtime, n.ctime = []byte(content), mtime, mtime
	dir.put(path[i+1:], n)
	s.touched(dir)
}

// rename is RENAME: by handles of directories and names in them.
func (s *Server) rename(from *Node, a string, to *Node, b string) error {
	if from.gone || to.gone {
		return s.removed()
	}
	src, dst := from.find(a), to.find(b)
	switch {
	case src == nil:
		return syscall.ENOENT
	case src == dst:
		return nil
	case src.lower:
		return syscall.EXDEV
	case dst == nil:
	case src.dir && !dst.dir:
		if s.Coin(2) {
			return syscall.EEXIST
		}
		return syscall.ENOTDIR
	case !src.dir && dst.dir:
		if s.Coin(2) {
			return syscall.EEXIST
		}
		return syscall.EISDIR
	case src.dir && len(dst.entries) > 0:
		if s.Coin(3) {
			return syscall.EEXIST
		}
		return syscall.ENOTEMPTY
	}
	if dst != nil {
		s.unlink(to, b)
	}
	from.drop(a)
	to.put(b, src)
	src.ctime = s.Now()
	s.touched(from)
	s.touched(to)
	return nil
}

// remove is REMOVE, which takes a file and an empty directory alike.
func (s *Server) remove(dir *Node, name string) error {
	if dir.gone {
		return s.removed()
	}
	n := dir.find(name)
	switch {
	case n == nil:
		return syscall.ENOENT
	case n.dir && len(n.entries) > 0:
		if s.Coin(3) {
			return syscall.EEXIST
		}
		return syscall.ENOTEMPTY
	}
	s.unlink(dir, name)
	return nil
}
