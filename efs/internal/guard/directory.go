//go:build unix

package guard

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// Directory is the guard that no EfsLock process can break: a directory with a file in
// it. It can be neither created over, nor read, nor removed by any of them. While nobody
// holds the lock it rests in the state directory, in a directory that belongs to an
// epoch:
//
//	dir/lock/held-by-hasp                     while the lock is held
//	dir/.lock.hasp/rest.<epoch>/guard/held-by-hasp   at rest
//
// Each holder moves it with two renames. A holder that was cut short may have a rename
// under way, which is carried out when another holds the lock. So who takes over from it
// begins a new epoch: the directory of the old one is removed, and the late rename has
// no target any more, or no source. PROTOCOL.md has the argument.
type Directory struct{ Options }

var _ Guard = Directory{}

func restGuard(d *statedir.Dir, epoch uint64) string { return d.Rest(epoch) + "/guard" }

// answer is what a move of the guard said, before anybody has looked.
type answer struct {
	moved bool
	new   bool  // by a request of this system's own, which replaces nothing: a look would tell no more
	gone  bool  // there was nothing to move
	cross bool  // a directory cannot be moved here
	err   error // what it said
}

// up moves the guard from its rest to the path.
func (g Directory) up(h *statedir.Hold) answer {
	from, to := restGuard(h.Dir, h.Baton.Epoch), h.Dir.LockPath()
	new, err := g.move(h.Dir, from, to)
	if fsys.IsGone(err) && g.Network {
		if !fsys.IsMissing(err) {
			staleHandle(h, from, to)
		}
		// The client may remember that it is not there from the time when it was not.
		switch _, serr := h.Dir.FS().Stat(path.Dir(from), true); {
		case serr == nil:
			err = h.Dir.FS().Rename(from, to)
		case fsys.IsMissing(serr):
			err = serr // there is no place where it could rest
		}
	}
	a := answer{moved: err == nil, new: new && err == nil, gone: fsys.IsMissing(err), cross: fsys.IsCross(err), err: err}
	if err != nil && !a.gone && !fsys.Definite(err) {
		h.Unknown = true
	}
	return a
}

// staleHandle is for a move that met a stale handle, which says nothing of what is there
// now, nor of what became of the move. It comes from any directory on the way; these are
// looked up anew. It also comes from Linux's client itself, without a request: a directory
// has one place in its memory, and a rename that finds it in another place than it
// was seen in last, since another host has moved it, refuses, for as long as nobody looks it
// up by its new name. So what is moved is looked up as well.
func staleHandle(h *statedir.Hold, from, to string) {
	h.Unknown = true
	f := h.Dir.FS()
	for _, p := range []string{path.Dir(h.Dir.LockPath()), h.Dir.Path(), h.Dir.Rest(h.Baton.Epoch), from, to} {
		_, _ = f.Stat(p, true)
	}
}

// move moves the guard to the path. A rename would replace an empty directory, somebody's
// own. On a network there is no request that spares it, and a look before would be one
// more: an empty directory has nothing that could be lost. New tells which it was.
func (g Directory) move(d *statedir.Dir, from, to string) (new bool, err error) {
	if !g.Network {
		if err := d.FS().RenameNew(from, to); !errors.Is(err, fsys.ErrNoRenameNew) {
			return true, err
		}
	}
	return false, d.FS().Rename(from, to)
}

// Up implements Guard.
func (g Directory) Up(ctx context.Context, h *statedir.Hold) (Stand, error) {
	var s Stand
	var err error
	if h.Baton.Unsettled {
		s, err = g.settle(ctx, h)
	} else {
		s, err = g.raise(ctx, h)
	}
	if err != nil && !errors.Is(err, backend.ErrHeld) && !errors.Is(err, backend.ErrCorrupt) {
		h.Unknown = true // it may stand
	}
	return s, err
}

// raise is the short way: the guard is at rest, and nobody else's request can reach it.
func (g Directory) raise(ctx context.Context, h *statedir.Hold) (Stand, error) {
	asides := 0
	var a answer
	for range 8 {
		if err := ctx.Err(); err != nil {
			return Stand{}, backend.Unavailable(context.Cause(ctx))
		}
		a = g.up(h)
		if !h.Alive() {
			return Stand{}, ranOut(h)
		}
		if a.new && !h.Unknown && h.Dir.Rested != (fsys.Info{}) {
			return Stand{known: h.Dir.Rested}, nil
		}
		look := g.lookMoved
		if !a.moved {
			look = func(d *statedir.Dir) (seen, error) { return g.look(d, fsys.Info{}) }
		}
		s, err := look(h.Dir)
		if a.moved && (err != nil || s.kind != ourDir) {
			h.Unknown = h.Unknown || err != nil || s.kind == aFile // it was moved, and is not there
		}
		switch {
		case err != nil:
			return Stand{}, err
		case s.kind == ourDir && a.moved:
			return Stand{known: s.Info}, nil
		case s.kind == ourDir:
			// It may be another's, who holds a lock whose state was removed and made anew.
			ok, err := h.Next(func(*statedir.Baton) {})
			if err != nil {
				return Stand{}, err
			}
			if !ok {
				return Stand{}, taken(h)
			}
			return Stand{known: s.Info}, nil
		case s.kind == aFile:
			if err := g.clear(h, s, &asides); err != nil {
				return Stand{}, err
			}
		case a.gone || a.cross:
			return g.unsettle(ctx, h)
		case a.err != nil && fsys.Definite(a.err) && !fsys.IsFull(a.err):
			return Stand{}, fmt.Errorf("put the guard up at %s: %w", h.Dir.LockPath(), a.err)
		}
	}
	return Stand{}, g.giveUp(h, a)
}

// unsettle is for one on the short way that has found the guard nowhere.
func (g Directory) unsettle(ctx context.Context, h *statedir.Hold) (Stand, error) {
	ok, err := h.Next(func(b *statedir.Baton) { b.Unsettled = true })
	if err != nil {
		return Stand{}, err
	}
	if !ok {
		return Stand{}, taken(h)
	}
	return g.settle(ctx, h)
}

func (g Directory) giveUp(h *statedir.Hold, a answer) error {
	h.Unknown = true
	if a.err != nil {
		return backend.Unavailable(fmt.Errorf("put the guard up at %s: %w", h.Dir.LockPath(), a.err))
	}
	return backend.Unavailable(fmt.Errorf("the guard at %s vanishes as fast as it is put up", h.Dir.LockPath()))
}

// clear takes a stale file away from the path, or says whose it is.
func (g Directory) clear(h *statedir.Hold, s seen, asides *int) error {
	if err := g.judge(h, s); err != nil {
		return err
	}
	if h.Unknown {
		// A request of h's own may yet move something. The next holder settles that first.
		return &backend.HeldError{Record: backend.Record{Key: h.Dir.Key, State: backend.Held, Note: "by a lock file that is about to be cleared"}, RetryAfter: 1}
	}
	if *asides++; *asides > 3 {
		return &backend.HeldError{Record: backend.Record{Key: h.Dir.Key, State: backend.Held, Note: "by lock files that come faster than they go stale"}, RetryAfter: h.Dir.Poll}
	}
	return g.aside(h, s)
}

// Check implements Guard.
func (g Directory) Check(ctx context.Context, h *statedir.Hold, s Stand) (Stand, error) {
	found, err := g.look(h.Dir, s.known)
	switch {
	case errors.Is(err, backend.ErrCorrupt):
		return s, fmt.Errorf("%w: its guard was replaced: %w", backend.ErrLost, err)
	case err != nil:
		return s, err
	case found.kind == ourDir:
		s.known = found.Info
		return s, nil
	case found.kind == aFile:
		return s, fmt.Errorf("%w: its guard at %s was replaced by the lock file of %s", backend.ErrLost, h.Dir.LockPath(), found.holder)
	}
	s.Removed = true
	if !h.Alive() {
		return s, ranOut(h)
	}
	up, err := g.replace(ctx, h)
	if err == nil {
		up.Removed = true
		return up, nil
	}
	var held *backend.HeldError
	if errors.As(err, &held) {
		return s, fmt.Errorf("%w: its guard at %s was removed, and now %s", backend.ErrLost, h.Dir.LockPath(), held.Record)
	}
	return s, err
}

// replace puts a new guard in the place of one that was removed. The epoch's directory is
// not made if it is missing: a name that was removed must not come back.
func (g Directory) replace(ctx context.Context, h *statedir.Hold) (Stand, error) {
	err := g.build(h, h.Baton.Epoch)
	switch {
	case fsys.IsGone(err):
		return g.unsettle(ctx, h)
	case err != nil:
		return Stand{}, err
	case !h.Alive():
		return Stand{}, ranOut(h)
	}
	return g.raise(ctx, h)
}

// build makes a guard, complete, at rest in the epoch's directory.
func (g Directory) build(h *statedir.Hold, epoch uint64) error {
	mode, err := h.Dir.Mode()
	if err != nil {
		return err
	}
	// One without its entry would not be known, and could be removed: so it is made under
	// another name, and each under its own, which no late request has.
	f, half := h.Dir.FS(), h.Dir.Rest(epoch)+"/"+makingPrefix+statedir.NewNonce()
	if err = f.MakeDir(half, mode); err == nil {
		err = f.Create(half+"/"+Entry, nil, mode&0o666)
	}
	if err != nil {
		g.raze(h, half)
		return fmt.Errorf("make a guard: %w", err)
	}
	if err := f.Rename(half, restGuard(h.Dir, epoch)); err != nil {
		if fsys.IsFull(err) { // there is one
			g.scrap(h, h.Dir.Rest(epoch), half)
		}
		if _, serr := f.Stat(restGuard(h.Dir, epoch)+"/"+Entry, true); serr != nil {
			return fmt.Errorf("make a guard: %w", err)
		}
	}
	return nil
}

// Down implements Guard.
func (g Directory) Down(h *statedir.Hold, s Stand) (clean bool, err error) {
	found, err := g.look(h.Dir, s.known)
	switch {
	case errors.Is(err, backend.ErrCorrupt):
		return false, fmt.Errorf("%w: its guard was replaced while it was held: %w", backend.ErrLost, err)
	case err != nil:
		return false, err
	case found.kind == aFile:
		return false, fmt.Errorf("%w: its guard at %s was replaced by the lock file of %s while it was held", backend.ErrLost, h.Dir.LockPath(), found.holder)
	case found.kind == nothing:
		return false, fmt.Errorf("%w: its guard at %s was removed while it was held, so another may have been in", backend.ErrLost, h.Dir.LockPath())
	}
	if !h.Alive() {
		return false, backend.Unavailable(fmt.Errorf("the lease ran out before its guard at %s was taken away", h.Dir.LockPath()))
	}
	from, to := h.Dir.LockPath(), restGuard(h.Dir, h.Baton.Epoch)
	rerr := h.Dir.FS().Rename(from, to)
	if fsys.IsGone(rerr) && !fsys.IsMissing(rerr) {
		staleHandle(h, from, to)
		if h.Alive() { // EfsLock processes would find it in their way
			rerr = h.Dir.FS().Rename(from, to)
		}
	}
	switch {
	case rerr == nil:
		h.Dir.Rested = found.Info
	case fsys.IsCross(rerr):
		// From an image's lower layer. Such a file system is local, and this holder is
		// alive: nobody else's guard can be there. One with something of a person's in it cannot
		// be removed, and without its entry it would be known to nobody: it stays as it is.
		h.Unknown = true
		if len(Foreign(h.Dir)) == 0 {
			_ = h.Dir.FS().Remove(from + "/" + Entry)
			_ = h.Dir.FS().RemoveDir(from)
		}
	default:
		if i, err := h.Dir.FS().Stat(path.Dir(to), true); err != nil || !i.Mode.IsDir() {
			h.Unknown = true
		} else if i, err = h.Dir.FS().Stat(to, false); err != nil || !i.Mode.IsDir() {
			h.Unknown = true
		}
	}
	if s.Removed {
		err = fmt.Errorf("%w: its guard at %s was removed while it was held, and put up again by a heartbeat: another may have been in meanwhile", backend.ErrLost, h.Dir.LockPath())
	}
	return !h.Unknown && !h.Baton.Unsettled, err
}

// Stand puts the guard of a sealed lock up again if a person has removed it. Nobody holds
// such a lock, so nobody moves its guard; who unseals it later goes the long way, and
// fences off what is under way of this. An error that matches backend.ErrHeld names an
// EfsLock process that has come in.
func (g Directory) Stand(d *statedir.Dir, b statedir.Baton) error {
	h := &statedir.Hold{Dir: d, Baton: b}
	for range 4 {
		s, err := g.look(d, fsys.Info{})
		switch {
		case err != nil:
			return err
		case s.kind == ourDir:
			return nil
		case s.kind == aFile:
			r, err := g.record(d, s)
			if err != nil {
				return err
			}
			r.State = backend.Held
			return backend.RefusedBy(r)
		}
		if err := g.build(h, b.Epoch); err != nil {
			return err
		}
		g.up(h)
	}
	return backend.Unavailable(fmt.Errorf("the guard at %s vanishes as fast as it is put up", d.LockPath()))
}

// Peer implements Guard.
func (g Directory) Peer(d *statedir.Dir, token uint64) (backend.Record, bool, bool, error) {
	return g.peer(d, token)
}

// Fits implements Guard.
func (g Directory) Fits(d *statedir.Dir) error { return g.fits(d) }

// Oust implements Guard.
func (g Directory) Oust(h *statedir.Hold) error {
	_, err := g.oust(h)
	return err
}

// OustBeside takes the file of an EfsLock process away that has come in where a person has
// removed a guard: of a sealed lock, which nobody holds, or beside a holder, whose baton says
// that its guard is not settled. So h is no hold of a baton's. A request of h's that is
// carried out late moves no guard, since its target is a file; and whoever unseals the lock, or
// takes it next, goes the long way and fences it off.
func (g Directory) OustBeside(h *statedir.Hold) error {
	s, err := g.oust(h)
	if err != nil {
		return err
	}
	return g.aside(h, s)
}

// Foreign lists what others have put into the guard that stands at the path.
func Foreign(d *statedir.Dir) []string { return foreign(d, d.LockPath()) }

func foreign(d *statedir.Dir, guard string) (foreign []string) {
	names, _, err := d.FS().List(guard)
	if err != nil {
		return nil
	}
	for _, n := range names {
		if n != Entry && n != renewed && !strings.HasPrefix(n, ".nfs") {
			foreign = append(foreign, n)
		}
	}
	return foreign
}
