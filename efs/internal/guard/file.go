//go:build unix

package guard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// File is the guard that EfsLock processes take for one of their own: a lock file, as
// their protocol has it, whose time each heartbeat refreshes. They take it over by
// themselves when its holder's host is dead. And they remove it, alive, in ways that
// nothing here can prevent; PROTOCOL.md has them.
type File struct {
	Options
	// UseLink is set where no rename spares what exists. On a network file system there is
	// none, and it is not tried: a lost reply could not be settled there.
	UseLink *atomic.Bool
}

var _ Guard = File{}

// settleFor is how long a process of the other protocol may need from a look at the path
// to the removal of what it takes that for.
func settleFor(ttl time.Duration) time.Duration { return min(ttl/10, 300*time.Millisecond) }

// newPath is where a lock file is written before it is put in place. The names are made
// of the generation, so that whoever takes over knows them.
func newPath(d *statedir.Dir, gen uint64) string { return fmt.Sprintf("%s/.new.%d", d.Path(), gen) }

// fileAside is where a lock file is moved before it is removed. A generation uses each of
// asides numbers at most once: the last for its own file, the others for those it finds.
func fileAside(d *statedir.Dir, gen uint64, n int) string {
	return fmt.Sprintf("%s/.old.%d.%d", d.Path(), gen, n)
}

const asides = 3

// Up implements Guard.
func (g File) Up(ctx context.Context, h *statedir.Hold) (Stand, error) {
	if h.Old.State == statedir.Held {
		g.sweep(h.Dir, h.Old.Gen)
	}
	stand, err := g.put(ctx, h)
	if err != nil && !errors.Is(err, backend.ErrHeld) && !errors.Is(err, backend.ErrCorrupt) {
		h.Unknown = true
	}
	if err != nil {
		g.remove(h)
	}
	return stand, err
}

func (g File) put(ctx context.Context, h *statedir.Hold) (Stand, error) {
	// A release a moment ago is enough: a process that met it between its create and its
	// open removes the path next.
	recent, err := h.Dir.ChangedWithin(settleFor(h.Baton.TTL))
	if err != nil {
		return Stand{}, err
	}
	name := newPath(h.Dir, h.Baton.Gen)
	if err := g.write(h, name); err != nil {
		return Stand{}, err
	}
	gone := false // name has become the lock file
	defer func() {
		if !gone {
			h.Dir.Discard(name)
		}
	}()
	for n, none := 0, 0; ; {
		if ctx.Err() != nil {
			return Stand{}, backend.Unavailable(context.Cause(ctx))
		}
		if gone, err = g.place(h.Dir, name, h.Baton.Claim); err == nil {
			break
		}
		if !fsys.IsTaken(err) {
			return Stand{}, err
		}
		s, err := g.look(h.Dir, fsys.Info{})
		switch {
		case err != nil:
			return Stand{}, err
		case s.kind == nothing:
			if none++; none == 64 {
				return Stand{}, backend.Unavailable(fmt.Errorf("whenever a lock file is to be put at %s there is one, and none when it is looked at", h.Dir.LockPath()))
			}
			continue
		case s.kind == ourDir:
			return Stand{}, statedir.Corrupt("%s is a guard that a hasp process without lockfile=file has put there: all processes on a directory have to use the same; hasp clear takes it away when no such process is left", h.Dir.LockPath())
		case s.of(h.Baton.Claim) && s.gen == h.Baton.Gen:
			return Stand{}, nil // put there by an earlier try
		}
		if err := g.judge(h, s); err != nil {
			return Stand{}, err
		}
		if n == asides-1 {
			return Stand{}, &backend.HeldError{Record: backend.Record{Key: h.Dir.Key, State: backend.Held, Note: "by lock files that come faster than they go stale"}, RetryAfter: settleFor(h.Baton.TTL)}
		}
		if err := g.moveAside(h.Dir, s, fileAside(h.Dir, h.Baton.Gen, n)); err != nil {
			return Stand{}, err
		}
		n++
		recent = true
	}
	if recent {
		return Stand{}, g.settle(ctx, h)
	}
	return Stand{}, nil
}

func (g File) write(h *statedir.Hold, name string) error {
	now, err := h.Dir.Now()
	if err != nil {
		return err
	}
	mode, err := h.Dir.Mode()
	if err != nil {
		return err
	}
	content := formatLockFile(h.Baton, now)
	err = h.Dir.FS().Create(name, content, mode&0o666|0o444)
	if fsys.IsTaken(err) { // of an earlier try of this very grant
		h.Dir.Discard(name)
		err = h.Dir.FS().Create(name, content, mode&0o666|0o444)
	}
	if err != nil {
		h.Dir.Discard(name)
		return fmt.Errorf("write lock file %s: %w", h.Dir.LockPath(), err)
	}
	return nil
}

// place gives claim's finished file the lock's path. It is complete from the first
// moment, and what is there already is spared. gone tells whether name is not there any
// more.
func (g File) place(d *statedir.Dir, name, claim string) (gone bool, err error) {
	f := d.FS()
	if !g.UseLink.Load() {
		err := f.RenameNew(name, d.LockPath())
		if err == nil || fsys.IsTaken(err) {
			return err == nil, err
		}
		if !errors.Is(err, fsys.ErrNoRenameNew) {
			if s, serr := g.peek(d, d.LockPath()); serr == nil && s.of(claim) {
				return true, nil // it was made, whatever the answer
			}
			return false, fmt.Errorf("put lock file %s in place: %w", d.LockPath(), err)
		}
		g.UseLink.Store(true)
	}
	lerr := f.Link(name, d.LockPath())
	if lerr == nil || g.linked(d, name) { // it was made, whatever the answer
		return false, nil
	}
	switch {
	case fsys.IsTaken(lerr):
		return false, lerr
	case fsys.NoLinks(lerr):
		return false, fmt.Errorf("put lock file %s in place: %w: hard links do not work on this file system, and lockfile=file needs them; without it none are needed", d.LockPath(), lerr)
	}
	return false, fmt.Errorf("put lock file %s in place: %w", d.LockPath(), lerr)
}

// linked tells whether name has a second link.
func (g File) linked(d *statedir.Dir, name string) bool {
	i, err := d.FS().Stat(name, true)
	return err == nil && i.Nlink == 2
}

// settle waits until nobody can be about to remove the new file in the belief that it is
// an old one, and checks that nobody has.
func (g File) settle(ctx context.Context, h *statedir.Hold) error {
	timer := time.NewTimer(settleFor(h.Baton.TTL))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return backend.Unavailable(context.Cause(ctx))
	}
	s, err := g.look(h.Dir, fsys.Info{})
	switch {
	case err != nil:
		return err
	case s.of(h.Baton.Claim):
		return nil
	case s.kind != aFile:
		r := backend.Record{Key: h.Dir.Key, State: backend.Held, Note: "a process of the EfsLock protocol took over at the same time, and is about to write its file"}
		return &backend.HeldError{Record: r, RetryAfter: time.Millisecond}
	}
	r, err := g.record(h.Dir, s)
	if err != nil {
		return err
	}
	r.State, r.Note = backend.Held, "by a lock file; it took over at the same time"
	return backend.RefusedBy(r)
}

// remove takes the lock file away if it is h's. there says what was found.
func (g File) remove(h *statedir.Hold) (s seen, err error) {
	if s, err = g.look(h.Dir, fsys.Info{}); err != nil || !s.of(h.Baton.Claim) {
		return s, err
	}
	return s, g.moveAside(h.Dir, s, fileAside(h.Dir, h.Baton.Gen, asides-1))
}

// Down implements Guard.
func (g File) Down(h *statedir.Hold, stand Stand) (bool, error) {
	s, err := g.remove(h)
	switch {
	case errors.Is(err, backend.ErrCorrupt):
		return true, fmt.Errorf("%w: its lock file was replaced while it was held: %w", backend.ErrLost, err)
	case err != nil:
		return true, fsys.Classify(err)
	case s.kind == nothing && !h.Unknown:
		return true, fmt.Errorf("%w: its lock file %s was removed while it was held, so another may have been in", backend.ErrLost, h.Dir.LockPath())
	case !s.of(h.Baton.Claim) && s.kind != nothing:
		return true, fmt.Errorf("%w: its lock file %s was replaced by that of %s while it was held", backend.ErrLost, h.Dir.LockPath(), s.holder)
	case stand.Removed:
		return true, fmt.Errorf("%w: its lock file %s was removed while it was held, and put back by a heartbeat: another may have been in meanwhile", backend.ErrLost, h.Dir.LockPath())
	}
	return true, nil
}

// Check implements Guard: the file's time is refreshed in place, so that the other kind
// sees a live holder. If it is missing it is put back.
func (g File) Check(ctx context.Context, h *statedir.Hold, stand Stand) (Stand, error) {
	now, err := h.Dir.Now()
	if err != nil {
		return stand, err
	}
	for range 3 {
		s, err := g.look(h.Dir, fsys.Info{})
		switch {
		case errors.Is(err, backend.ErrCorrupt):
			return stand, fmt.Errorf("%w: its lock file was replaced: %w", backend.ErrLost, err)
		case err != nil:
			return stand, err
		case s.kind == nothing:
			stand.Removed = true
			if _, err = g.put(ctx, h); err != nil {
				var held *backend.HeldError
				if errors.As(err, &held) {
					return stand, fmt.Errorf("%w: its lock file was removed, and now %s", backend.ErrLost, held.Record)
				}
				return stand, err
			}
			// Was the lease still alive when the file appeared?
			if ok, err := h.Next(func(*statedir.Baton) {}); err != nil || !ok {
				_, _ = g.remove(h)
				if err == nil {
					err = backend.ErrLost
				}
				return stand, err
			}
			return stand, nil
		case !s.of(h.Baton.Claim):
			return stand, fmt.Errorf("%w: its lock file was replaced by that of %s", backend.ErrLost, s.holder)
		}
		err = h.Dir.FS().Overwrite(h.Dir.LockPath(), []byte(formatStamp(now)), func(content []byte) bool {
			return parseLockFile(content).of(h.Baton.Claim)
		})
		if err == nil {
			return stand, nil
		}
		if !fsys.IsGone(err) && !errors.Is(err, fsys.ErrReplaced) {
			return stand, fmt.Errorf("refresh lock file %s: %w", h.Dir.LockPath(), err)
		}
	}
	return stand, backend.Unavailable(fmt.Errorf("lock file %s changes faster than it can be read", h.Dir.LockPath()))
}

// Peer implements Guard.
func (g File) Peer(d *statedir.Dir, token uint64) (backend.Record, bool, bool, error) {
	return g.peer(d, token)
}

// Fits implements Guard.
func (g File) Fits(d *statedir.Dir) error { return g.fits(d) }

// Oust implements Guard.
func (g File) Oust(h *statedir.Hold) error {
	_, err := g.oust(h)
	return err
}

// sweep removes what the holder of generation gen, who is stale, may have left when it was
// cut short.
func (g File) sweep(d *statedir.Dir, gen uint64) {
	d.Discard(newPath(d, gen))
	for n := range asides {
		if aside := fileAside(d, gen, n); !g.settleFile(d, aside) {
			d.Later(func() bool { return g.settleFile(d, aside) })
		}
	}
}
