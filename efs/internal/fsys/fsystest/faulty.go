//go:build unix

// Package fsystest is for tests: a file system that fails at a chosen request.
package fsystest

import (
	"io/fs"
	"sync"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// Faulty counts the requests made of another file system, and lets Hit make one of
// them.
type Faulty struct {
	fsys.FS
	// At is the number of the request that is cut, counted from 1 when it was armed.
	At int
	// Hit makes the request that is cut: it may call do, or not, or return another
	// error than do did, or never return.
	Hit func(op string, do func() error) error
	// Around, if not nil, makes every request.
	Around func(op string, do func() error) error

	mu    sync.Mutex
	armed bool
	n     int
	op    string
}

// Arm begins to count, or ends it.
func (f *Faulty) Arm(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = on
}

// Count is how many requests were made while it was armed, and what the one was that
// was cut.
func (f *Faulty) Count() (n int, cut string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n, f.op
}

// Changes are the requests that change something: only those can have been carried
// out although the answer is an error.
var Changes = []string{"rename", "rename-new", "link", "remove", "rmdir", "mkdir", "store"}

func (f *Faulty) step(op string, do func() error) error {
	f.mu.Lock()
	cut := false
	if f.armed {
		f.n++
		if cut = f.n == f.At; cut {
			f.op = op
		}
	}
	f.mu.Unlock()
	if cut {
		return f.Hit(op, do)
	}
	if f.Around != nil {
		return f.Around(op, do)
	}
	return do()
}

func (f *Faulty) Stat(path string, fresh bool) (i fsys.Info, err error) {
	err = f.step("stat", func() (err error) { i, err = f.FS.Stat(path, fresh); return err })
	return i, err
}

func (f *Faulty) List(dir string) (names []string, before fsys.Info, err error) {
	err = f.step("list", func() (err error) { names, before, err = f.FS.List(dir); return err })
	return names, before, err
}

func (f *Faulty) Rename(from, to string) error {
	return f.step("rename", func() error { return f.FS.Rename(from, to) })
}

func (f *Faulty) RenameNew(from, to string) error {
	return f.step("rename-new", func() error { return f.FS.RenameNew(from, to) })
}

func (f *Faulty) Link(from, to string) error {
	return f.step("link", func() error { return f.FS.Link(from, to) })
}

func (f *Faulty) Remove(path string) error {
	return f.step("remove", func() error { return f.FS.Remove(path) })
}

func (f *Faulty) RemoveDir(path string) error {
	return f.step("rmdir", func() error { return f.FS.RemoveDir(path) })
}

func (f *Faulty) MakeDir(path string, mode fs.FileMode) error {
	return f.step("mkdir", func() error { return f.FS.MakeDir(path, mode) })
}

func (f *Faulty) Create(path string, content []byte, mode fs.FileMode) error {
	return f.step("create", func() error { return f.FS.Create(path, content, mode) })
}

func (f *Faulty) Store(path string, content []byte, mode fs.FileMode) error {
	return f.step("store", func() error { return f.FS.Store(path, content, mode) })
}

func (f *Faulty) SyncDir(dir string) error {
	return f.step("sync", func() error { return f.FS.SyncDir(dir) })
}

func (f *Faulty) Read(path string, most int) (content []byte, i fsys.Info, err error) {
	err = f.step("read", func() (err error) { content, i, err = f.FS.Read(path, most); return err })
	return content, i, err
}

func (f *Faulty) Overwrite(path string, content []byte, ours func([]byte) bool) error {
	return f.step("overwrite", func() error { return f.FS.Overwrite(path, content, ours) })
}

func (f *Faulty) Touch(path string, mode fs.FileMode) (now time.Time, err error) {
	err = f.step("touch", func() (err error) { now, err = f.FS.Touch(path, mode); return err })
	return now, err
}
