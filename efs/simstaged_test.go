//go:build unix

package efs

import (
	"errors"
	"io/fs"
	"path"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/simfs"
)

// What comes once in too many histories to be waited for, each by itself.

// A guard that a late request has moved aside is at rest again, also where there is another.
func TestStagedGuardMovedAside(t *testing.T) {
	for _, another := range []bool{false, true} {
		staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
			oldLockFile(w)
			moved := false
			b := open(0, func(r *simfs.Request) error {
				if r.Op == "rename" && r.Path == lockPath && !moved {
					moved = true
					w.server.RemoveAll(r.To)
					w.server.RemoveAll(lockPath)
					w.server.Put(lockPath, "", fs.ModeDir|0o777, 0, nil)
					w.server.Put(lockPath+"/"+guard.Entry, "", 0o666, 0, nil)
					if !another {
						w.server.RemoveAll(path.Dir(r.To) + "/guard")
					}
				}
				return nil
			})
			acquired := errors.New("never")
			for range 8 {
				if _, acquired = b.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); acquired == nil {
					break
				}
			}
			if n := w.server.At(lockPath + "/" + guard.Entry); acquired != nil || !moved || n == nil {
				t.Errorf("acquire: %v, moved %v, entry %v", acquired, moved, n)
			}
		})
	}
}

// A guard of a sealed lock that a person has removed is put up again, but not while an
// EfsLock process is in.
func TestStagedSealAgain(t *testing.T) {
	staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
		b := open(0, undisturbed)
		seal := func() error { return b.Seal(ctxBG, simKey, "elsewhere") }
		if err := seal(); err != nil {
			t.Fatal(err)
		}
		w.server.RemoveAll(lockPath)
		w.server.Put(lockPath, "1000000000.5\n1\nother\nLinux\n", 0o666, 1, nil)
		if err := seal(); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("an EfsLock process is in: %v", err)
		}
		w.server.Put(lockPath, database, 0o666, 1, nil)
		if err := seal(); !errors.Is(err, backend.ErrCorrupt) {
			t.Errorf("a database is there: %v", err)
		}
		w.server.RemoveAll(lockPath)
		if err := seal(); err != nil || w.server.At(lockPath+"/"+guard.Entry) == nil {
			t.Errorf("no guard stands: %v", err)
		}
	})
}

// With lockfile=file, a person's directory or file that was moved aside is put back.
func TestStagedMovedAsideByAFile(t *testing.T) {
	for name, put := range map[string]fs.FileMode{"directory": fs.ModeDir | 0o755, "file": 0o644} {
		t.Run(name, func(t *testing.T) {
			staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
				w.lockFile = File
				oldLockFile(w)
				var n *simfs.Node
				b := open(0, func(r *simfs.Request) error {
					if r.Op == "rename" && r.Path == lockPath && n == nil {
						w.server.RemoveAll(lockPath)
						n = w.server.Put(lockPath, database, put, 1, nil)
					}
					return nil
				})
				if _, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); !errors.Is(err, backend.ErrCorrupt) {
					t.Errorf("acquire: %v", err)
				}
				if w.server.At(lockPath) != n || len(w.server.Paths(n)) != 1 {
					t.Errorf("it is at %q", w.server.Paths(n))
				}
			})
		})
	}
}

// A TTL of less than two steps of file times is refused, the second time without a trial.
func TestStagedCoarseTimes(t *testing.T) {
	staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
		w.tick = time.Second
		requests := 0
		b := open(0, func(*simfs.Request) error {
			requests++
			return nil
		})
		for range 2 {
			requests = 0
			if _, err := b.Acquire(ctxBG, simKey, testClaim("short", 1500*time.Millisecond)); !errors.Is(err, backend.ErrUnsupported) {
				t.Errorf("acquire: %v", err)
			}
		}
		if requests > 20 {
			t.Errorf("%d requests, the second time", requests)
		}
		if _, err := b.Acquire(ctxBG, simKey, testClaim("long", 10*time.Second)); err != nil {
			t.Error(err)
		}
	})
}

// A value whose file is missing is told as lost to its next setter.
func TestStagedValueLost(t *testing.T) {
	staged(t, func(t *testing.T, w *world, open func(int, func(*simfs.Request) error) *Backend) {
		set := func(b *Backend, claim string) error {
			g, err := b.Acquire(ctxBG, simKey, testClaim(claim, w.ttl))
			if err != nil {
				return err
			}
			g, err = b.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: 1, Data: []byte(claim)})
			return errors.Join(err, b.Release(ctxBG, g))
		}
		if err := set(open(0, undisturbed), "first"); err != nil {
			t.Fatal(err)
		}
		for _, n := range w.server.At(valuesDir).Names() {
			w.server.RemoveAll(valuesDir + "/" + n)
		}
		if err := set(open(0, undisturbed), "second"); !errors.Is(err, backend.ErrCorrupt) {
			t.Error(err)
		}
	})
}

// What is said of a lock is not what this host remembers from a time when nobody had it yet.
func TestStagedLockIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) { // what is remembered is looked up anew now and then
			w := newWorld(seed, nil)
			w.ttl, w.lockFile = time.Second, Directory
			here, there := w.open(w.hosts[0], 0, undisturbed), w.open(w.hosts[1], 0, undisturbed)
			if r, err := here.Inspect(ctxBG, simKey); err != nil || r.State != backend.Free {
				t.Fatalf("before: %v, %v", r, err)
			}
			g, err := there.Acquire(ctxBG, simKey, testClaim("other", w.ttl))
			if err != nil {
				t.Fatal(err)
			}
			if r, err := here.Inspect(ctxBG, simKey); err != nil || r.State != backend.Held || r.Token != g.Token {
				t.Errorf("it is held with token %d, and another host says: %v, %v", g.Token, r, err)
			}
		}
	})
}

// The same of an operator's word.
func TestStagedBreakOfANewLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			w := newWorld(seed, nil)
			w.ttl, w.lockFile = time.Second, Directory
			here, there := w.open(w.hosts[0], 0, undisturbed), w.open(w.hosts[1], 0, undisturbed)
			if err := here.Break(ctxBG, simKey, 1); !errors.Is(err, backend.ErrNotHeld) {
				t.Fatalf("before: %v", err)
			}
			g, err := there.Acquire(ctxBG, simKey, testClaim("other", w.ttl))
			if err == nil {
				err = here.Break(ctxBG, simKey, g.Token)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
}
