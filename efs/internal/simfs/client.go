//go:build unix

package simfs

import (
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// A Client is one process on a host.
type Client struct {
	Host *Host
	// Do makes a request, and returns what it answered.
	Do func(*Request) error
	// Who is who checks knows it by.
	Who any
	// User owns what it makes, and may not read what another has kept for himself.
	User int
}

var _ fsys.FS = (*Client)(nil)

// A Request is made in two steps. A name may be remembered, and then the answer needs no
// server.
type Request struct {
	Op, Path, To string
	// Changes: it may be carried out late, or twice.
	Changes bool
	// Resolve finds out what is to be sent. An error is the answer, and nothing is sent.
	Resolve func() error
	// Apply is what the server does.
	Apply func() error
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

func (c *Client) do(op, path, to string, changes bool, resolve, apply func() error) error {
	if c.Host.s.Local != nil { // nothing is remembered, so it is looked up when it is carried out
		first, then := resolve, apply
		resolve = nothing
		apply = func() error {
			if err := first(); err != nil {
				return err
			}
			return then()
		}
	}
	return pathError(op, path, c.Do(&Request{Op: op, Path: path, To: to, Changes: changes, Resolve: resolve, Apply: apply}))
}

func nothing() error { return nil }

// Stat implements fsys.FS.
func (c *Client) Stat(path string, fresh bool) (i fsys.Info, err error) {
	h := c.Host
	op := "stat"
	if fresh {
		op = "stat fresh"
	}
	err = c.do(op, path, "", false, nothing, func() error {
		return h.node(path, func(n *Node) error {
			if strings.HasSuffix(path, "/.") && !n.dir {
				return n.notADir()
			}
			if known, ok := h.attrs[n]; ok && !fresh && h.s.Local == nil && !h.s.Coin(4) {
				i = known
				return nil
			}
			err := h.revalidate(n)
			i = h.attrs[n]
			return err
		})
	})
	return i, err
}

// List implements fsys.FS. What changes between its two requests may show or not.
func (c *Client) List(dir string) (all []string, before fsys.Info, err error) {
	var n *Node
	var first []entry
	err = c.do("open", dir, "", false, nothing, func() error {
		return c.Host.node(dir, func(d *Node) error {
			if !d.dir {
				return d.notADir()
			}
			err := c.Host.revalidate(d)
			n, before, first = d, d.info(), append([]entry(nil), d.entries...)
			return err
		})
	})
	if err != nil {
		return nil, before, err
	}
	err = c.do("list", dir, "", false, nothing, func() error {
		all = nil
		if n.gone && c.Host.s.Coin(2) {
			return c.Host.s.removed()
		}
		for _, e := range first {
			if n.find(e.name) == e.node || c.Host.s.Coin(2) {
				all = append(all, e.name)
			}
		}
		for _, e := range n.entries {
			old := false
			for _, f := range first {
				old = old || f == e
			}
			if !old && c.Host.s.Coin(2) {
				all = append(all, e.name)
			}
		}
		return nil
	})
	return all, before, err
}

// Rename implements fsys.FS.
func (c *Client) Rename(from, to string) error {
	return c.rename(from, to, false)
}

// rename is Rename, or RenameNew if what exists is to be spared.
func (c *Client) rename(from, to string, spare bool) error {
	h := c.Host
	var a, b *Node
	var an, bn string
	return c.do("rename", from, to, true, func() error {
		return h.walk(from, func(dir *Node, name string, anew bool) error {
			a, an = dir, name
			src, err := h.find(dir, name, anew)
			if err != nil {
				return err
			}
			return h.walk(to, func(dir *Node, name string, anew bool) error {
				b, bn = dir, name
				dst, err := h.find(dir, name, anew)
				switch {
				case err != nil:
					return err
				case src == nil:
					return syscall.ENOENT
				case h.s.Local != nil: // it is the server
				case a != b && (h.unseat(a, an, src) || dst != nil && h.unseat(b, bn, dst)):
					return syscall.ESTALE
				case dst != nil && src.dir && !dst.dir:
					return syscall.ENOTDIR
				case dst != nil && !src.dir && dst.dir:
					return syscall.EISDIR
				}
				return nil
			})
		})
	}, func() error {
		n, old := (*Node)(nil), (*Node)(nil)
		if !a.gone {
			n = a.find(an)
		}
		if !b.gone {
			old = b.find(bn)
		}
		if spare && n != nil && old != nil {
			return syscall.EEXIST
		}
		err := h.s.rename(a, an, b, bn)
		if err == nil {
			h.note(a, an, nil)
			h.note(b, bn, n)
			if h.s.Replaced != nil && old != nil && old != n {
				h.s.Replaced(c, old, to)
			}
			if h.s.Moved != nil {
				h.s.Moved(c, n, from, to)
			}
		}
		return err
	})
}

// RenameNew implements fsys.FS.
func (c *Client) RenameNew(from, to string) error {
	if l := c.Host.s.Local; l == nil || !l.RenameNew {
		return pathError("rename", to, fsys.ErrNoRenameNew)
	}
	return c.rename(from, to, true)
}

// Link implements fsys.FS.
func (c *Client) Link(from, to string) error {
	h := c.Host
	var src, b *Node
	var bn string
	return c.do("link", from, to, true, func() error {
		return h.node(from, func(n *Node) error {
			if src = n; n.dir {
				return syscall.EPERM
			}
			return h.walk(to, func(dir *Node, name string, _ bool) error {
				b, bn = dir, name
				return nil
			})
		})
	}, func() error {
		switch {
		case src.gone || b.gone:
			return h.s.removed()
		case b.find(bn) != nil:
			return syscall.EEXIST
		}
		b.put(bn, src)
		src.links++
		src.ctime = h.s.Now()
		h.s.touched(b)
		h.note(b, bn, src)
		return nil
	})
}

// Remove implements fsys.FS.
func (c *Client) Remove(path string) error { return c.remove("remove", path, false) }

// RemoveDir implements fsys.FS.
func (c *Client) RemoveDir(path string) error { return c.remove("rmdir", path, true) }

func (c *Client) remove(op, path string, isDir bool) error {
	h := c.Host
	var d *Node
	var dn string
	return c.do(op, path, "", true, func() error {
		return h.walk(path, func(dir *Node, name string, anew bool) error {
			d, dn = dir, name
			n, err := h.lookup(dir, name, anew)
			switch {
			case err != nil:
				return err
			case n == nil:
				return syscall.ENOENT
			case isDir && !n.dir:
				return syscall.ENOTDIR
			case !isDir && n.dir:
				return syscall.EISDIR
			}
			return nil
		})
	}, func() error {
		n := (*Node)(nil)
		if !d.gone {
			n = d.find(dn)
		}
		err := h.s.remove(d, dn)
		if err == nil {
			h.note(d, dn, nil)
			if h.s.Removed != nil {
				h.s.Removed(c, n, path)
			}
		}
		return err
	})
}

// verifierTimes are what the mtime of a file that was made exclusively may be, until its
// maker's next request: it is what that client sent to be known by, which differs from file
// to file.
var verifierTimes = [2]time.Time{time.Unix(1<<20, 0), time.Unix(1<<31-1<<16, 0)}

// MakeDir implements fsys.FS.
func (c *Client) MakeDir(path string, mode fs.FileMode) error {
	_, err := c.create("mkdir", path, true, mode)
	return err
}

func (c *Client) create(op, path string, isDir bool, mode fs.FileMode) (made *Node, err error) {
	h := c.Host
	var d *Node
	var dn string
	err = c.do(op, path, "", true, func() error {
		return h.walk(path, func(dir *Node, name string, _ bool) error {
			d, dn = dir, name
			return nil
		})
	}, func() error {
		switch {
		case d.gone:
			return h.s.removed()
		case d.find(dn) != nil:
			return syscall.EEXIST
		}
		n := h.s.node(isDir)
		n.mode = n.mode&fs.ModeDir | mode
		n.Tag, n.user = c.Who, c.User
		if !isDir && h.s.Local == nil { // no time, until the file is written
			h.s.made++
			n.mtime = verifierTimes[n.ino%2].Add(time.Duration(h.s.made) * time.Second)
		}
		d.put(dn, n)
		h.s.touched(d)
		h.note(d, dn, n)
		made = n
		return nil
	})
	return made, err
}

// Create implements fsys.FS. Between its two requests the file is empty.
func (c *Client) Create(path string, content []byte, mode fs.FileMode) error {
	_, err := c.CreateFile(path, content, mode)
	return err
}

// Store implements fsys.FS.
func (c *Client) Store(path string, content []byte, mode fs.FileMode) error {
	return c.Create(path, content, mode)
}

// SyncDir implements fsys.FS: on a network it asks for nothing.
func (c *Client) SyncDir(path string) error {
	if c.Host.s.Local == nil {
		return nil
	}
	return c.do("sync", path, "", false, nothing, func() error {
		return c.Host.node(path, func(*Node) error { return nil })
	})
}

// CreateFile is Create. It tells also what was made if the content could not be written.
func (c *Client) CreateFile(path string, content []byte, mode fs.FileMode) (*Node, error) {
	n, err := c.create("create", path, false, mode)
	if err != nil || len(content) == 0 {
		return n, err
	}
	return n, c.do("write", path, "", true, nothing, func() error {
		if n.gone && c.Host.s.Local == nil {
			return syscall.ESTALE
		}
		n.data = append([]byte(nil), content...)
		h := c.Host
		h.s.touched(n)
		return nil
	})
}

// Read implements fsys.FS. Opening a file finds out whether it still has the name.
func (c *Client) Read(path string, most int) (content []byte, i fsys.Info, err error) {
	h := c.Host
	err = c.do("read", path, "", false, nothing, func() error {
		return h.walk(path, func(dir *Node, name string, anew bool) error {
			n, err := h.lookup(dir, name, anew)
			if err == nil && n != nil && !n.dir {
				n, err = h.lookup(dir, name, true)
			}
			switch {
			case err != nil:
				return err
			case n == nil:
				return syscall.ENOENT
			}
			if err := h.revalidate(n); err != nil {
				return err
			}
			if i = n.info(); !n.mode.IsRegular() {
				return fsys.ErrNotRegular
			}
			if !n.readableBy(c.User) {
				i = fsys.Info{}
				return syscall.EACCES
			}
			content = append([]byte(nil), n.data[:min(len(n.data), most)]...)
			return nil
		})
	})
	return content, i, err
}

// Overwrite implements fsys.FS. Another may have the name when the content is written.
func (c *Client) Overwrite(path string, content []byte, ours func([]byte) bool) error {
	var n *Node
	var has []byte
	err := c.do("read", path, "", false, nothing, func() error {
		return c.Host.walk(path, func(dir *Node, name string, _ bool) error {
			var err error
			if n, err = c.Host.lookup(dir, name, true); err != nil {
				return err
			} else if n == nil {
				return syscall.ENOENT
			} else if n.dir {
				return syscall.EISDIR
			} else if !n.readableBy(c.User) {
				return syscall.EACCES
			}
			has = append([]byte(nil), n.data...)
			return nil
		})
	})
	switch {
	case err != nil:
		return err
	case !ours(has):
		return pathError("write", path, fsys.ErrReplaced)
	}
	return c.do("write", path, "", true, nothing, func() error {
		if n.gone && c.Host.s.Local == nil {
			return syscall.ESTALE
		}
		copy(n.data, content)
		c.Host.s.touched(n)
		if c.Host.s.Written != nil {
			c.Host.s.Written(c, n, path)
		}
		return nil
	})
}

// Touch implements fsys.FS.
func (c *Client) Touch(path string, mode fs.FileMode) (now time.Time, err error) {
	h := c.Host
	err = c.do("touch", path, "", true, nothing, func() error {
		return h.walk(path, func(dir *Node, name string, _ bool) error {
			if dir.gone {
				return h.s.removed()
			}
			n := dir.find(name)
			if n == nil {
				n = h.s.node(false)
				n.mode, n.user = mode, c.User
				dir.put(name, n)
				h.s.touched(dir)
			}
			h.note(dir, name, n)
			h.s.touched(n)
			if h.s.Touched != nil { // by a client that sets its own time
				n.mtime = h.s.Touched()
			}
			now = n.mtime
			return nil
		})
	})
	return now, err
}
