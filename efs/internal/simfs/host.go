//go:build unix

package simfs

import (
	"strings"
	"syscall"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// A Host is what a client's system remembers of the server, for all its processes. A name
// that is remembered, or remembered to be missing, may be believed until its directory
// was asked for; attributes until their file was.
type Host struct {
	s     *Server
	names map[*Node]*names
	attrs map[*Node]fsys.Info
	// seats are where directories were seen last: one has one place in a host's memory.
	seats map[*Node]seat
}

type seat struct {
	dir  *Node
	name string
}

type names struct {
	change uint64 // of the directory when it was asked for last
	known  map[string]*Node
}

// NewHost remembers nothing.
func NewHost(s *Server) *Host {
	return &Host{s: s, names: map[*Node]*names{}, attrs: map[*Node]fsys.Info{}, seats: map[*Node]seat{}}
}

func (h *Host) namesIn(dir *Node) *names {
	n := h.names[dir]
	if n == nil {
		n = &names{known: map[string]*Node{}}
		h.names[dir] = n
	}
	return n
}

func (h *Host) note(dir *Node, name string, n *Node) {
	h.namesIn(dir).known[name] = n
	h.sit(dir, name, n)
}

// sit remembers that n, which is nil if there is nothing, is in dir.
func (h *Host) sit(dir *Node, name string, n *Node) {
	if n != nil && n.dir {
		h.seats[n] = seat{dir, name}
	}
}

// unseat tells whether a rename of n out of dir is refused, without a request: n was seen in
// another directory last, and what looks up by a rename cannot move it in the host's
// memory. It is not while anybody looks it up where it is, or the host forgets it.
func (h *Host) unseat(dir *Node, name string, n *Node) bool {
	was, ok := h.seats[n]
	if !n.dir || !ok || was.dir == dir || h.s.Coin(8) {
		return false
	}
	delete(h.namesIn(dir).known, name)
	return true
}

// revalidate asks for the attributes of n, which tells whether the names in it that are
// remembered are still good.
func (h *Host) revalidate(n *Node) error {
	if n.gone {
		return h.s.removed()
	}
	h.attrs[n] = n.info()
	if ns := h.namesIn(n); n.dir && ns.change != n.change {
		clear(ns.known)
		ns.change = n.change
	}
	return nil
}

// lookup finds a name in a directory; n is nil if it is, or is remembered as, missing.
func (h *Host) lookup(dir *Node, name string, anew bool) (n *Node, err error) {
	n, err = h.find(dir, name, anew)
	h.sit(dir, name, n)
	return n, err
}

// find is lookup as a rename does it: a directory keeps its place in the host's memory.
func (h *Host) find(dir *Node, name string, anew bool) (n *Node, err error) {
	if !dir.dir {
		return nil, syscall.ENOTDIR
	}
	ns := h.namesIn(dir)
	if n, ok := ns.known[name]; ok && !anew && h.s.Local == nil && !h.s.Coin(4) {
		return n, nil
	}
	if dir.gone {
		return nil, h.s.removed()
	}
	n = dir.find(name)
	for old, was := range h.seats { // what was there is not, to this host's knowledge
		if was == (seat{dir, name}) && old != n {
			delete(h.seats, old)
		}
	}
	ns.known[name] = n
	return n, nil
}

// parent walks to the directory that path is in.
func (h *Host) parent(path string, anew bool) (dir *Node, name string, err error) {
	path = strings.TrimSuffix(path, "/.")
	dir = h.s.root
	path = path[1:]
	for {
		first, rest, more := strings.Cut(path, "/")
		if !more {
			return dir, first, nil
		}
		n, err := h.lookup(dir, first, anew)
		switch {
		case err != nil:
			return nil, "", err
		case n == nil:
			return nil, "", syscall.ENOENT
		case !n.dir:
			return nil, "", n.notADir()
		}
		dir, path = n, rest
	}
}

// walk calls f with path's directory and name. A handle that is stale is mostly looked
// up again, once.
func (h *Host) walk(path string, f func(dir *Node, name string, anew bool) error) error {
	err := error(syscall.ESTALE)
	for try := range 2 {
		dir, name, perr := h.parent(path, try > 0)
		if err = perr; err == nil {
			err = f(dir, name, try > 0)
		}
		if err != syscall.ESTALE || h.s.Coin(4) {
			break
		}
	}
	return err
}

// node calls f with what is at path.
func (h *Host) node(path string, f func(n *Node) error) error {
	return h.walk(path, func(dir *Node, name string, anew bool) error {
		n, err := h.lookup(dir, name, anew)
		switch {
		case err != nil:
			return err
		case n == nil:
			return syscall.ENOENT
		}
		return f(n)
	})
}
