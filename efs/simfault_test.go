//go:build unix

package efs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/simfs"
)

// Faults that the simulation has found, each by itself, on a host's own file system in
// memory, where time is virtual.

// staged runs f. The processes that it makes by open ask before what comes before each of
// their requests; an error of that is the answer.
func staged(t *testing.T, f func(t *testing.T, w *world, open func(user int, before func(*simfs.Request) error) *Backend)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(withLocal, nil)
		w.ttl, w.timeout, w.lockFile, w.tick = time.Second, 2*time.Second, Directory, 1
		w.server.Local.RenameNew = true
		f(t, w, func(user int, before func(*simfs.Request) error) *Backend { return w.open(w.hosts[0], user, before) })
		if w.failed() != "" {
			t.Error(w.failed())
		}
	})
}

// open is a process's Backend, whose requests are carried out at once.
func (w *world) open(h *simfs.Host, user int, before func(*simfs.Request) error) *Backend {
	p := &proc{w: w, kind: haspProc, rng: rand.New(rand.NewPCG(1, 1))}
	p.client = &simfs.Client{Host: h, Who: p, User: user, Do: func(r *simfs.Request) error {
		if err := errors.Join(before(r), r.Resolve()); err != nil {
			return err
		}
		return r.Apply()
	}}
	return p.backend()
}

func undisturbed(*simfs.Request) error { return nil }

func oldLockFile(w *world) {
	w.server.WriteOld(lockPath, "1000000000.5\n1\nold\nLinux\n", w.now().Add(-time.Hour))
}

// A guard whose state was removed is not taken for one that has stood, by one who saw it stand
// before its holder moved it down and up.
func TestStagedGuardThatWasMoved(t *testing.T) {
	staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
		first, second := open(0, undisturbed), open(0, undisturbed)
		if _, err := first.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); err != nil {
			t.Fatal(err)
		}
		w.server.RemoveAll(stateDir)
		for range 3 {
			if _, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl)); !errors.Is(err, backend.ErrHeld) {
				t.Errorf("acquire: %v", err)
			}
			time.Sleep(w.ttl / 2)
			if err := errors.Join(first.fs.Rename(lockPath, "/r/down"), first.fs.Rename("/r/down", lockPath)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(w.ttl / 2)
		if _, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl)); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("it has stood for %v: %v", w.ttl/2, err)
		}
		time.Sleep(w.ttl)
		if _, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl)); err != nil {
			t.Error(err)
		}
	})
}

// A guard of an image that has a person's file in it can neither be moved nor removed. It keeps
// its entry, and the next holder knows it.
func TestStagedGuardOfAnImage(t *testing.T) {
	staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
		b := open(0, undisturbed)
		g, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl))
		if err != nil {
			t.Fatal(err)
		}
		w.server.Lower("/r")
		w.server.Put(lockPath+"/notes", "mine", 0o644, 1, nil)
		if err := b.Release(ctxBG, g); err != nil {
			t.Error(err)
		}
		if w.server.At(lockPath+"/"+guard.Entry) == nil {
			t.Error("it has no entry any more")
		}
		if _, err := b.Acquire(ctxBG, simKey, testClaim("second", w.ttl)); err != nil {
			t.Error(err)
		}
	})
}

// A placeholder is known as one by all users, and by one who could not read it for a moment: it
// is never put back as a lock file.
func TestStagedPlaceholder(t *testing.T) {
	for name, user := range map[string]int{"for a moment": 0, "another user's": 2} {
		t.Run(name, func(t *testing.T) {
			staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
				oldLockFile(w)
				dead, refused := false, 0
				first := open(user, func(r *simfs.Request) error {
					if dead = dead || r.Op == "rename" && r.Path == lockPath; dead {
						return syscall.EIO
					}
					return nil
				})
				if _, err := first.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); !errors.Is(err, backend.ErrUnavailable) {
					t.Fatal(err)
				}
				w.server.RemoveAll(lockPath)
				time.Sleep(2 * w.ttl)
				second := open(0, func(r *simfs.Request) error {
					if user == 0 && r.Op == "read" && strings.Contains(r.Path, "/old.") && refused == 0 {
						refused++
						return syscall.EACCES
					}
					return nil
				})
				if _, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl)); err != nil {
					t.Error(err)
				}
				if n := w.server.At(lockPath); n == nil || !n.IsDir() {
					t.Error("no guard stands")
				}
			})
		})
	}
}

// A person's directory that was moved aside, in place of a stale lock file, is brought back.
func TestStagedDirectoryMovedAside(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "with data": "data"} {
		t.Run(name, func(t *testing.T) {
			staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
				oldLockFile(w)
				var dir *simfs.Node
				b := open(0, func(r *simfs.Request) error {
					if r.Op == "rename" && r.Path == lockPath && dir == nil { // it is late: others have settled what was there
						w.server.RemoveAll(r.To)
						w.server.RemoveAll(lockPath)
						if dir = w.server.Put(lockPath, "", fs.ModeDir|0o755, 1, nil); content != "" {
							w.server.Put(lockPath+"/"+content, "mine", 0o644, 1, nil)
						}
					}
					return nil
				})
				if _, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); !errors.Is(err, backend.ErrCorrupt) {
					t.Errorf("acquire: %v", err)
				}
				if w.server.At(lockPath) != dir {
					t.Errorf("it is at %v", w.server.Paths(dir))
				}
			})
		})
	}
}
