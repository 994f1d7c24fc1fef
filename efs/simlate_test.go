//go:build unix

package efs

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/simfs"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// Faults that histories have found and that other histories of the same seeds would not show.

// onNetwork runs f in a network file system with two hosts, on which what is remembered is looked up
// anew now and then: so several times.
func onNetwork(t *testing.T, lockFile LockFile, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			w := newWorld(seed, nil)
			w.ttl, w.timeout, w.lockFile, w.tick = time.Second, 2*time.Second, lockFile, 1
			f(t, w)
			if w.failed() != "" {
				t.Error(w.failed())
			}
		}
	})
}

// heldBack keeps the requests that it is told to, which have no answer, until they are carried out.
type heldBack struct {
	keep func(*simfs.Request) bool
	kept []*simfs.Request
}

func (l *heldBack) before(r *simfs.Request) error {
	if !l.keep(r) {
		return nil
	}
	if err := r.Resolve(); err != nil {
		return err
	}
	l.kept = append(l.kept, r)
	return syscall.ETIMEDOUT
}

// carryOut returns how many there were.
func (l *heldBack) carryOut() int {
	for _, r := range l.kept {
		_ = r.Apply()
	}
	return len(l.kept)
}

// A break of an EfsLock file that is carried out late takes nobody's guard away.
func TestStagedLateBreak(t *testing.T) {
	for _, seal := range []bool{false, true} {
		onNetwork(t, Directory, func(t *testing.T, w *world) {
			l := &heldBack{keep: func(r *simfs.Request) bool { return r.Op == "rename" && r.Path == lockPath }}
			operator, other := w.open(w.hosts[0], 0, l.before), w.open(w.hosts[1], 0, undisturbed)
			if seal {
				if err := other.Seal(ctxBG, simKey, "elsewhere"); err != nil {
					t.Fatal(err)
				}
				w.server.RemoveAll(lockPath)
			}
			w.server.Put(lockPath, "9000000000.5\n1\nother\nLinux\n", 0o666, 0, nil)
			if err := operator.Break(ctxBG, simKey, 0); !errors.Is(err, backend.ErrUnavailable) {
				t.Fatalf("a break without an answer: %v", err)
			}
			w.server.RemoveAll(lockPath) // its process has released it
			if seal {
				if err := other.Seal(ctxBG, simKey, "elsewhere"); err != nil {
					t.Fatal(err)
				}
			} else {
				for i := range 10 {
					_, err := other.Acquire(ctxBG, simKey, testClaim("first", w.ttl))
					if err == nil {
						break
					}
					if i == 9 {
						t.Fatal(err)
					}
					time.Sleep(w.ttl)
				}
			}
			if l.carryOut() == 0 || w.server.At(lockPath+"/"+guard.Entry) == nil {
				t.Errorf("%d late requests, sealed %v: no guard stands", len(l.kept), seal)
			}
		})
	}
}

// Who finds in a heartbeat that its guard is gone keeps the lock from others until its release,
// which comes when it has been told.
func TestStagedLossIsToldFirst(t *testing.T) {
	for _, lockFile := range []LockFile{Directory, File} {
		onNetwork(t, lockFile, func(t *testing.T, w *world) {
			holder, other := w.open(w.hosts[0], 0, undisturbed), w.open(w.hosts[1], 0, undisturbed)
			g, err := holder.Acquire(ctxBG, simKey, testClaim("holder", w.ttl))
			if err != nil {
				t.Fatal(err)
			}
			w.server.RemoveAll(lockPath)
			w.server.Put(lockPath, database, 0o666, 1, nil)
			for range 2 {
				if _, err = holder.Renew(ctxBG, g); !errors.Is(err, backend.ErrLost) {
					t.Errorf("renew: %v", err)
				}
			}
			if _, err = holder.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: 1}); !errors.Is(err, backend.ErrLost) {
				t.Errorf("set a value: %v", err)
			}
			w.server.RemoveAll(lockPath)
			if _, err := other.Acquire(ctxBG, simKey, testClaim("other", w.ttl)); !errors.Is(err, backend.ErrHeld) {
				t.Errorf("before the release: %v", err)
			}
			for range 2 {
				if err := holder.Release(ctxBG, g); !errors.Is(err, backend.ErrLost) {
					t.Errorf("release: %v", err)
				}
			}
			if _, err := other.Acquire(ctxBG, simKey, testClaim("other", w.ttl)); err != nil {
				t.Errorf("after the release: %v", err)
			}
		})
	}
}

// A state directory that is made too late, when others have swept what was being made and a
// person has removed the one that they had, comes with a baton or not at all.
func TestStagedStateDirectoryArrivesLate(t *testing.T) {
	onNetwork(t, NoLockFile, func(t *testing.T, w *world) {
		l := &heldBack{keep: func(r *simfs.Request) bool { return r.Op == "rename" && r.To == stateDir }}
		first := w.open(w.hosts[0], 0, l.before)
		if _, err := first.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); !errors.Is(err, backend.ErrUnavailable) {
			t.Fatal(err)
		}
		swept := false
		second := w.open(w.hosts[1], 0, func(r *simfs.Request) error {
			if r.Op == "rmdir" && strings.Contains(r.Path, ".boot0") && !swept { // what was in it is gone
				swept = true
				w.server.RemoveAll(stateDir)
				l.carryOut()
			}
			return nil
		})
		_, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl))
		if n := w.server.At(stateDir); len(l.kept) == 0 || !swept || n != nil && len(n.Names()) == 0 {
			t.Errorf("%d late, swept %v, then %v: the state directory is empty", len(l.kept), swept, err)
		}
	})
}

// A claim that has the baton, by an attempt of which it does not know that, is not told that
// it has not got the lock, when a later request in the same call is refused.
func TestStagedRefusedAsItsOwnHolder(t *testing.T) {
	for _, refused := range []string{"rename", "open"} {
		onNetwork(t, NoLockFile, func(t *testing.T, w *world) {
			taken, later := false, 0
			b := w.open(w.hosts[0], 0, func(r *simfs.Request) error {
				if taken && r.Op == refused && strings.HasPrefix(r.Path, stateDir) {
					if later++; refused == "rename" || later > 1 { // it may look once, after the attempt
						return syscall.EACCES
					}
				}
				if r.Op != "rename" || !strings.Contains(r.To, ".held.") {
					return nil
				}
				taken = true
				if err := errors.Join(r.Resolve(), r.Apply()); err != nil {
					return err
				}
				// it is carried out, a waiter's name is put in, and the answer is that of a repetition
				putWaiter(w)
				return fs.ErrNotExist
			})
			if _, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); later == 0 || !errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("after %d times %s: %v", later, refused, err)
			}
		})
	}
}

// Nothing is called wrong from a client's memory of what a person has put right since.
func TestStagedPutRight(t *testing.T) {
	onNetwork(t, NoLockFile, func(t *testing.T, w *world) {
		first, second := w.open(w.hosts[0], 0, undisturbed), w.open(w.hosts[1], 0, undisturbed)
		w.server.Put(lockPath, "nowhere", fs.ModeSymlink|0o777, 1, nil)
		if _, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl)); !errors.Is(err, backend.ErrCorrupt) {
			t.Fatalf("with a link at the path: %v", err)
		}
		w.server.RemoveAll(lockPath)
		g, err := second.Acquire(ctxBG, simKey, testClaim("second", w.ttl))
		if err != nil {
			t.Fatalf("without the link: %v", err)
		}
		if g, err = second.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: 1, Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
		name := valuesDir + "/" + w.server.At(valuesDir).Names()[0]
		content, _, err := (&simfs.Client{Host: w.hosts[1], Do: func(r *simfs.Request) error { return errors.Join(r.Resolve(), r.Apply()) }}).Read(name, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		w.server.RemoveAll(name)
		if _, err := first.Value(ctxBG, simKey); !errors.Is(err, backend.ErrCorrupt) {
			t.Fatalf("without the value's file: %v", err)
		}
		w.server.Put(name, string(content), 0o666, 0, nil)
		if v, err := first.Value(ctxBG, simKey); err != nil || string(v.Data) != "data" {
			t.Errorf("with the value's file: %q, %v", v.Data, err)
		}
	})
}

// A value that was published, by an attempt that was told otherwise, is not removed when a
// second heartbeat in the same call is refused.
func TestStagedPublishedAndRefused(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		moved, full := 0, true
		b := w.open(w.hosts[0], 0, func(r *simfs.Request) error {
			if r.Op != "rename" || !strings.Contains(r.To, ".held.") || !strings.Contains(r.To, ".v") {
				return nil
			}
			if moved++; moved > 1 && full {
				return syscall.EDQUOT
			} else if moved > 1 {
				return nil
			}
			if err := errors.Join(r.Resolve(), r.Apply()); err != nil {
				return err
			}
			putWaiter(w)
			return fs.ErrNotExist
		})
		g, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl))
		if err != nil {
			t.Fatal(err)
		}
		v := backend.Value{Token: g.Token, Seq: 1, Data: []byte("data")}
		if _, err := b.SetValue(ctxBG, g, v); !errors.Is(err, backend.ErrUnavailable) || moved != 2 {
			t.Errorf("after %d moves of the baton: %v", moved, err)
		}
		other := w.open(w.hosts[1], 0, undisturbed)
		if v, err := other.Value(ctxBG, simKey); err != nil || string(v.Data) != "data" {
			t.Errorf("the value: %q, %v", v.Data, err)
		}
		full = false
		if _, err := b.SetValue(ctxBG, g, v); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

// putWaiter puts a waiter's name into the baton, as another process does.
func putWaiter(w *world) {
	for _, n := range w.server.At(stateDir).Names() {
		if held, ok := statedir.Parse(n); ok {
			waits := held.With(func(b *statedir.Baton) { b.Waiters = []statedir.Waiter{{ID: "w", Since: 1}} })
			w.server.RemoveAll(stateDir + "/" + n)
			w.server.Put(stateDir+"/"+waits.Name(), "", 0o666, 0, nil)
		}
	}
}

// A dead holder's late move down has met an EfsLock process's file, since a person had removed
// the guard. It is not put up in place of the file of the next EfsLock process.
func TestStagedFileAtRest(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		l := &heldBack{keep: func(r *simfs.Request) bool { return r.Op == "rename" && r.Path == lockPath }}
		holder := w.open(w.hosts[0], 0, l.before)
		g, err := holder.Acquire(ctxBG, simKey, testClaim("holder", w.ttl))
		if err != nil {
			t.Fatal(err)
		}
		_ = holder.Release(ctxBG, g)
		file := func() {
			w.server.RemoveAll(lockPath)
			w.server.WriteOld(lockPath, "9000000000.5\n1\nother\nLinux\n", w.now())
		}
		file()
		l.carryOut()
		if w.server.At(lockPath) != nil {
			t.Fatalf("%d requests were late", len(l.kept))
		}
		file()
		n := w.server.At(lockPath)
		time.Sleep(2 * w.ttl)
		other := w.open(w.hosts[1], 0, undisturbed)
		if _, err := other.Acquire(ctxBG, simKey, testClaim("other", w.ttl)); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("acquire: %v", err)
		}
		if w.server.At(lockPath) != n {
			t.Errorf("its file is at %q", w.server.Paths(n))
		}
	})
}

// With lockfile=file, a person's file that was moved aside by mistake stays aside if something
// else is at the path by then.
func TestStagedNotPutBackOver(t *testing.T) {
	onNetwork(t, File, func(t *testing.T, w *world) {
		w.off = 0
		oldLockFile(w)
		var n *simfs.Node
		b := w.open(w.hosts[0], 0, func(r *simfs.Request) error {
			switch {
			case r.Op == "rename" && r.Path == lockPath && n == nil:
				w.server.RemoveAll(lockPath)
				n = w.server.Put(lockPath, database, 0o644, 1, nil)
			case r.Op == "link" && r.To == lockPath && n != nil:
				w.server.Put(lockPath, database, 0o644, 1, nil)
			}
			return nil
		})
		if _, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); !errors.Is(err, backend.ErrCorrupt) {
			t.Errorf("acquire: %v", err)
		}
		if n == nil || len(w.server.Paths(n)) != 1 {
			t.Errorf("it is at %q", w.server.Paths(n))
		}
	})
}

// A guard of a removed state that one has looked at too late, when another has taken the lock
// and made the guard its own, has not been seen to stand: the state may be removed again.
func TestStagedStoodForAnother(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		holder := w.open(w.hosts[0], 0, undisturbed)
		if _, err := holder.Acquire(ctxBG, simKey, testClaim("holder", w.ttl)); err != nil {
			t.Fatal(err)
		}
		w.server.RemoveAll(stateDir) // its holder dies, too
		other := w.open(w.hosts[1], 0, undisturbed)
		var slow *Backend
		done, looks := false, 0
		slow = w.open(w.hosts[2], 0, func(r *simfs.Request) error {
			// the first look at the guard at the path by one that has the baton comes after
			// another has waited for its TTL and taken over
			if r.Op == "stat fresh" && r.Path == lockPath && !done {
				if looks++; looks == 1 {
					done = true
					for i := 0; ; i++ {
						if _, err := other.Acquire(ctxBG, simKey, testClaim("other", w.ttl)); err == nil {
							break
						}
						if i == 100 {
							t.Fatal("the other one has not got the lock")
						}
						time.Sleep(w.ttl / 20)
					}
				}
			}
			return nil
		})
		if _, err := slow.Acquire(ctxBG, simKey, testClaim("slow", w.ttl)); err == nil || !done {
			t.Fatalf("too late: %v, %v", done, err)
		}
		time.Sleep(w.ttl / 2)
		w.server.RemoveAll(stateDir) // again; the other one would find out at its next heartbeat
		time.Sleep(w.ttl * 6 / 10)
		if _, err := slow.Acquire(ctxBG, simKey, testClaim("again", w.ttl)); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("in the new state: %v", err)
		}
	})
}

// The same beside a holder that has not found out yet: it keeps the lock, and ends dirty, so
// that who comes next deals with what is late.
func TestStagedLateBreakBesideAHolder(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		l := &heldBack{keep: func(r *simfs.Request) bool { return r.Op == "rename" && r.Path == lockPath }}
		operator, holder := w.open(w.hosts[0], 0, l.before), w.open(w.hosts[1], 0, undisturbed)
		g, err := holder.Acquire(ctxBG, simKey, testClaim("holder", w.ttl))
		if err != nil {
			t.Fatal(err)
		}
		file := func() *simfs.Node {
			w.server.RemoveAll(lockPath)
			return w.server.Put(lockPath, "9000000000.5\n1\nother\nLinux\n", 0o666, 0, nil)
		}
		file()
		if err := operator.Break(ctxBG, simKey, 0); !errors.Is(err, backend.ErrUnavailable) {
			t.Fatalf("a break without an answer: %v", err)
		}
		w.server.RemoveAll(lockPath) // its process has released it
		if g, err = holder.Renew(ctxBG, g); err != nil {
			t.Errorf("renew: %v", err)
		}
		if err := holder.Release(ctxBG, g); !errors.Is(err, backend.ErrLost) { // another has been in
			t.Errorf("release: %v", err)
		}
		if _, b := w.baton(); b.State != statedir.Dirty {
			t.Errorf("it ends %s", b.State)
		}
		n := file() // of another, which the late request takes away, and which is brought back
		if l.carryOut() == 0 || w.server.At(lockPath) == n {
			t.Fatalf("%d late requests", len(l.kept))
		}
		if _, err := holder.Acquire(ctxBG, simKey, testClaim("next", w.ttl)); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("beside the other: %v", err)
		}
		if w.server.At(lockPath) != n {
			t.Errorf("its file is at %q", w.server.Paths(n))
		}
	})
}

// The same in the moment in which the holder has taken its guard down and has the lock still.
func TestStagedLateBreakBesideARelease(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		l := &heldBack{keep: func(r *simfs.Request) bool { return r.Op == "rename" && r.Path == lockPath }}
		operator := w.open(w.hosts[0], 0, l.before)
		free := 0
		holder := w.open(w.hosts[1], 0, func(r *simfs.Request) error {
			if strings.Contains(r.To, ".free.") {
				if free++; free == 1 {
					w.server.Put(lockPath, "9000000000.5\n1\nother\nLinux\n", 0o666, 0, nil)
					if err := operator.Break(ctxBG, simKey, 0); !errors.Is(err, backend.ErrUnavailable) {
						t.Errorf("a break without an answer: %v", err)
					}
				}
			}
			return nil
		})
		for i := range 2 { // the first one begins dirty, and may end so
			g, err := holder.Acquire(ctxBG, simKey, testClaim("holder"+string(rune('0'+i)), w.ttl))
			if err == nil {
				err = holder.Release(ctxBG, g)
			}
			if err != nil {
				t.Fatal(err)
			}
			if free > 0 {
				break
			}
		}
		if _, b := w.baton(); free == 0 || len(l.kept) != 1 || b.State != statedir.Dirty {
			t.Errorf("%d releases, %d late requests: it ends %s", free, len(l.kept), b.State)
		}
	})
}

// A file that everybody may read, and that the server refuses to read for a moment, is not
// taken for another user's lock file, and removed when it is old.
func TestStagedReadingRefused(t *testing.T) {
	for _, lockFile := range []LockFile{Directory, File} {
		onNetwork(t, lockFile, func(t *testing.T, w *world) {
			w.off = 0
			w.server.WriteOld(lockPath, database, w.now().Add(-time.Hour))
			n := w.server.At(lockPath)
			b := w.open(w.hosts[0], 0, func(r *simfs.Request) error {
				if r.Op == "read" {
					return syscall.EACCES
				}
				return nil
			})
			for range 3 {
				if _, err := b.Acquire(ctxBG, simKey, testClaim("first", w.ttl)); err == nil {
					t.Error("acquired")
				}
				time.Sleep(2 * w.timeout)
			}
			if w.server.At(lockPath) != n {
				t.Errorf("it is at %q", w.server.Paths(n))
			}
		})
	}
}

// One whose lease has run out removes no guard that is at rest: it may be that of who has
// taken over.
func TestStagedFenceBeyondTheLease(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		holder := w.open(w.hosts[0], 0, undisturbed)
		if _, err := holder.Acquire(ctxBG, simKey, testClaim("holder", w.ttl)); err != nil {
			t.Fatal(err)
		}
		_, held := w.baton()
		rest := stateDir + "/" + statedir.RestName(held.Epoch) + "/guard"
		w.server.Put(rest, "", fs.ModeDir|0o777, 0, nil) // a second one
		w.server.Put(rest+"/"+guard.Entry, "", 0o666, 0, nil)
		slow := false
		taker := w.open(w.hosts[1], 0, func(r *simfs.Request) error {
			if r.Op == "rmdir" && strings.HasSuffix(r.Path, statedir.RestName(held.Epoch)) && !slow {
				slow = true
				time.Sleep(2 * w.ttl)
			}
			return nil
		})
		for i := 0; i < 100 && !slow; i++ {
			_, _ = taker.Acquire(ctxBG, simKey, testClaim("taker", w.ttl))
			time.Sleep(w.ttl / 20)
		}
		if !slow || w.server.At(rest+"/"+guard.Entry) == nil {
			t.Errorf("slow %v: the guard at rest is gone", slow)
		}
	})
}

// A guard that its maker brings to its rest late keeps its entry, although another is
// removing what was being made.
func TestStagedGuardMadeLate(t *testing.T) {
	onNetwork(t, Directory, func(t *testing.T, w *world) {
		making := func(r *simfs.Request) bool {
			return r.Op == "rename" && strings.HasSuffix(r.To, "/guard") && r.Path != lockPath
		}
		first := true
		l := &heldBack{keep: func(r *simfs.Request) bool { return making(r) && !first }}
		holder := w.open(w.hosts[0], 0, l.before)
		g, err := holder.Acquire(ctxBG, simKey, testClaim("holder", w.ttl))
		if err != nil {
			t.Fatal(err)
		}
		first = false
		w.server.RemoveAll(lockPath) // by hand
		_, _ = holder.Renew(ctxBG, g)
		late := false
		taker := w.open(w.hosts[1], 0, func(r *simfs.Request) error {
			if r.Op == "remove" && strings.HasSuffix(r.Path, "/"+guard.Entry) && !late {
				late = true
				l.carryOut()
			}
			return nil
		})
		for i := 0; ; i++ {
			if _, err = taker.Acquire(ctxBG, simKey, testClaim("taker", w.ttl)); err == nil || i == 100 {
				break
			}
			time.Sleep(w.ttl / 20)
		}
		if err != nil || len(l.kept) == 0 || !late || w.server.At(lockPath+"/"+guard.Entry) == nil {
			t.Errorf("%d late, %v: %v", len(l.kept), late, err)
		}
	})
}
