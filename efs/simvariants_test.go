//go:build unix

package efs

import (
	"context"
	"io/fs"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A variant is a wrong version of the protocol, which the simulation has to see through.
type variant struct {
	name  string
	from  uint64 // where the histories begin: one soon after this sees through it
	blind string // why it is not seen through
	fs    func(fsys.FS) fsys.FS
	guard func(guard.Guard) guard.Guard
}

func (v *variant) has(name string) bool { return v != nil && v.name == name }

func (v *variant) apply(b *Backend) {
	if v == nil {
		return
	}
	if v.fs != nil {
		b.fs = v.fs(b.fs)
	}
	if v.guard != nil {
		b.guard = v.guard(b.guard)
	}
}

var variants = []*variant{
	{name: "deadline after the answer"},
	{name: "release without the alive check", blind: behind},
	{name: "break to free"},
	{name: "believe ENOENT", from: 145}, // the guard is looked at without asking the server first
	{name: "no fence", from: 125, fs: func(f fsys.FS) fsys.FS { return noFence{f} }},
	{name: "clean after an unknown answer", from: 190, guard: func(g guard.Guard) guard.Guard { return alwaysClean{g} }},
	{name: "no look after the move up", blind: behind, fs: func(f fsys.FS) fsys.FS { return &noLook{FS: f} }},
	{name: "names reused", blind: "a file has to be late under a name that two generations use, which comes once in too many histories", fs: func(f fsys.FS) fsys.FS { return sameAside{f} }},
	{name: "age counted twice", fs: func(f fsys.FS) fsys.FS { return doubleAge{f} }},
	{name: "baton freed before the guard is moved", guard: func(g guard.Guard) guard.Guard { return batonFirst{g} }},
	{name: "on after an unknown move aside", fs: func(f fsys.FS) fsys.FS { return asideKnown{f} }},
	{name: "time of the listing believed", from: 660, fs: func(f fsys.FS) fsys.FS { return &oldTime{FS: f} }},
	{name: "a lost answer is success", fs: func(f fsys.FS) fsys.FS { return lostIsDone{f} }},
	{name: "a lost answer is failure", fs: func(f fsys.FS) fsys.FS { return lostIsGone{f} }},
	{name: "a value without an answer is taken for written", from: withValues, fs: func(f fsys.FS) fsys.FS { return storedAnyway{f} }},
	{name: "a value is removed although it may be published", from: withValues, fs: func(f fsys.FS) fsys.FS { return hastyRemoval{f} }},
	{name: "the former value is removed first", from: withValues, fs: func(f fsys.FS) fsys.FS { return formerFirst{f} }},
	{name: "values swept without proof of holding", from: withValues | 5800, fs: func(f fsys.FS) fsys.FS { return &blindSweep{FS: f} }},
	{name: "a value's name remembered", from: withValues, fs: func(f fsys.FS) fsys.FS { return &oldNames{FS: f} }},
	{name: "an empty file's mtime believed", fs: func(f fsys.FS) fsys.FS { return emptyTime{f} }},
	{name: "a database is taken for a stale lock file", from: withStrangers, fs: func(f fsys.FS) fsys.FS { return anyFile{f} }},
	{name: "a symbolic link is replaced", from: withStrangers, fs: func(f fsys.FS) fsys.FS { return noLinks{f} }},
	{name: "a stranger's file is remembered", from: withStrangers, fs: func(f fsys.FS) fsys.FS { return &oldJunk{FS: f} }},
	{name: "what was moved aside is not put back", from: withStrangers | 900, fs: func(f fsys.FS) fsys.FS { return notBack{f} }},
	{name: "a rename that spares nothing", from: withLocal | withStrangers, fs: func(f fsys.FS) fsys.FS { return sparesNothing{f} }},
	{name: "a refusal is success", from: withRefusals, fs: func(f fsys.FS) fsys.FS { return refusedIsDone{f} }},
	{name: "a foreign clock believed", from: withClocks},
	{name: "no look at the lease", blind: behind, guard: func(g guard.Guard) guard.Guard { return forever{g} }},
}

const behind = "other checks stand behind this one: nothing was found in about 6,000 histories"

var restDir = regexp.MustCompile(`/rest\.[0-9]+$`)

// noFence lets the resting place of the last epoch stay.
type noFence struct{ fsys.FS }

func (f noFence) RemoveDir(path string) error {
	if restDir.MatchString(path) {
		return nil
	}
	return f.FS.RemoveDir(path)
}

// alwaysClean says that the guard is at rest after each move down.
type alwaysClean struct{ guard.Guard }

func (g alwaysClean) Up(ctx context.Context, h *statedir.Hold) (guard.Stand, error) {
	s, err := g.Guard.Up(ctx, h)
	h.Unknown = false
	return s, err
}

func (g alwaysClean) Down(h *statedir.Hold, s guard.Stand) (bool, error) {
	_, err := g.Guard.Down(h, s)
	return !h.Baton.Unsettled, err
}

// noLook believes a move up that was answered, without a look at what has been moved.
type noLook struct {
	fsys.FS
	skip int
}

func (f *noLook) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	f.skip = 0
	if to == lockPath && err == nil {
		f.skip = 3
	}
	return err
}

func (f *noLook) Stat(path string, fresh bool) (fsys.Info, error) {
	if f.skip > 0 {
		f.skip--
		return fsys.Info{ID: fsys.ID{Ino: 1}, Mode: fs.ModeDir | 0o777}, nil
	}
	return f.FS.Stat(path, fresh)
}

// sameAside gives all files that are moved aside in an epoch one name.
type sameAside struct{ fsys.FS }

var asideName = regexp.MustCompile(`/old\.[^/]*$`)

func (f sameAside) name(path string) string { return asideName.ReplaceAllString(path, "/old.1") }

func (f sameAside) Rename(from, to string) error { return f.FS.Rename(f.name(from), f.name(to)) }
func (f sameAside) Link(from, to string) error   { return f.FS.Link(f.name(from), to) }
func (f sameAside) Remove(path string) error     { return f.FS.Remove(f.name(path)) }
func (f sameAside) Stat(path string, fresh bool) (fsys.Info, error) {
	return f.FS.Stat(f.name(path), fresh)
}
func (f sameAside) Read(path string, most int) ([]byte, fsys.Info, error) {
	return f.FS.Read(f.name(path), most)
}

// doubleAge counts the time since the last sign of life twice.
type doubleAge struct{ fsys.FS }

func (f doubleAge) Stat(path string, fresh bool) (fsys.Info, error) {
	i, err := f.FS.Stat(path, fresh)
	if path == stateDir {
		i.Mtime = i.Mtime.Add(min(0, time.Until(i.Mtime)))
	}
	return i, err
}

func (f doubleAge) List(dir string) ([]string, fsys.Info, error) {
	names, i, err := f.FS.List(dir)
	if dir == stateDir {
		i.Mtime = i.Mtime.Add(min(0, time.Until(i.Mtime)))
	}
	return names, i, err
}

// batonFirst lets go of the baton and takes the guard down then.
type batonFirst struct{ guard.Guard }

func (g batonFirst) Down(h *statedir.Hold, s guard.Stand) (bool, error) {
	if ok, err := h.Free(!h.Unknown && !h.Baton.Unsettled); err != nil || !ok {
		return false, err
	}
	return g.Guard.Down(h, s)
}

// asideKnown goes on although it is not known whether a file was moved aside.
type asideKnown struct{ fsys.FS }

func (f asideKnown) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if from == lockPath && strings.Contains(to, "/old.") && err != nil && !fsys.Definite(err) {
		return nil
	}
	return err
}

// oldTime takes the directory's time from before its listing for that of the name.
type oldTime struct {
	fsys.FS
	last fsys.Info
}

func (f *oldTime) List(dir string) (names []string, i fsys.Info, err error) {
	names, i, err = f.FS.List(dir)
	if dir == stateDir {
		f.last = i
	}
	return names, i, err
}

func (f *oldTime) Stat(path string, fresh bool) (fsys.Info, error) {
	if path == stateDir {
		return f.last, nil
	}
	return f.FS.Stat(path, fresh)
}

// emptyTime takes a file's mtime for the time at which it was made.
type emptyTime struct{ fsys.FS }

func (f emptyTime) Read(path string, most int) ([]byte, fsys.Info, error) {
	content, i, err := f.FS.Read(path, most)
	i.Ctime = i.Mtime
	return content, i, err
}

// lostIsDone takes every move without an answer for done, and lostIsGone for not done.
type lostIsDone struct{ fsys.FS }

func (f lostIsDone) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if err != nil && !fsys.Definite(err) {
		return nil
	}
	return err
}

type lostIsGone struct{ fsys.FS }

func (f lostIsGone) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if err != nil && !fsys.Definite(err) {
		return syscall.EACCES
	}
	return err
}

const valuesDir = stateDir + "/.values"

// storedAnyway believes that a value was written, whatever the answer.
type storedAnyway struct{ fsys.FS }

func (f storedAnyway) Store(path string, content []byte, mode fs.FileMode) error {
	err := f.FS.Store(path, content, mode)
	if err != nil && !fsys.Definite(err) {
		return nil
	}
	return err
}

// publishes tells which value a rename of the baton replaces, and by which.
func publishes(from, to string) (former, next string, ok bool) {
	a, ok1 := statedir.Parse(strings.TrimPrefix(from, stateDir+"/"))
	b, ok2 := statedir.Parse(strings.TrimPrefix(to, stateDir+"/"))
	return a.Value, b.Value, ok1 && ok2 && a.Value != b.Value
}

// hastyRemoval removes a value after any error of its publication.
type hastyRemoval struct{ fsys.FS }

func (f hastyRemoval) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if _, next, ok := publishes(from, to); ok && err != nil {
		_ = f.FS.Remove(valuesDir + "/" + next)
	}
	return err
}

// formerFirst removes the value that is there before it publishes another.
type formerFirst struct{ fsys.FS }

func (f formerFirst) Rename(from, to string) error {
	if former, _, ok := publishes(from, to); ok && former != "" {
		_ = f.FS.Remove(valuesDir + "/" + former)
	}
	return f.FS.Rename(from, to)
}

// blindSweep sweeps before it has found out whether it still has the baton.
type blindSweep struct {
	fsys.FS
	names []string
}

func (f *blindSweep) List(dir string) ([]string, fsys.Info, error) {
	names, i, err := f.FS.List(dir)
	if f.names = nil; dir == valuesDir {
		f.names = names
	}
	return names, i, err
}

func (f *blindSweep) Store(path string, content []byte, mode fs.FileMode) error {
	f.names = nil
	return f.FS.Store(path, content, mode)
}

func (f *blindSweep) Rename(from, to string) error {
	now, ok := statedir.Parse(strings.TrimPrefix(from, stateDir+"/"))
	for _, n := range f.names {
		if ok && n != now.Value {
			_ = f.FS.Remove(valuesDir + "/" + n)
		}
	}
	f.names = nil
	return f.FS.Rename(from, to)
}

// oldNames reads the state directory from memory for as long as it is told the same time.
type oldNames struct {
	fsys.FS
	names []string
	info  fsys.Info
}

func (f *oldNames) List(dir string) (names []string, i fsys.Info, err error) {
	if dir != stateDir {
		return f.FS.List(dir)
	}
	if i, err := f.FS.Stat(dir, false); err == nil && f.names != nil && i.Mtime.Equal(f.info.Mtime) {
		return f.names, i, nil
	}
	f.names, f.info, err = f.FS.List(dir)
	return f.names, f.info, err
}

// forever believes its lease to run for ever.
type forever struct{ guard.Guard }

func (g forever) Up(ctx context.Context, h *statedir.Hold) (guard.Stand, error) {
	h.Beat = h.Beat.Add(time.Hour)
	return g.Guard.Up(ctx, h)
}

func (g forever) Down(h *statedir.Hold, s guard.Stand) (bool, error) {
	h.Beat = h.Beat.Add(time.Hour)
	return g.Guard.Down(h, s)
}

// Each wrong variant is found out, but for those that say why not.
func TestSimulationSeesThrough(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			if v.blind != "" {
				t.Skip(v.blind)
			}
			start := time.Now()
			n, failed := simulate(t, v, v.from, 1<<30, 2*time.Minute, 1) // most take less than one
			for seed, failure := range failed {
				t.Logf("in %d histories, %v, with seed %d: %s", n, time.Since(start).Round(time.Millisecond), seed, failure)
			}
			if len(failed) == 0 {
				t.Errorf("nothing was found in %d histories", n)
			}
		})
	}
}
