//go:build unix

package guard

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// settle is the long way, for one who has taken the baton from somebody who did not say
// where the guard is, and who may have a request under way that moves it.
func (g Directory) settle(ctx context.Context, h *statedir.Hold) (Stand, error) {
	if err := g.fence(ctx, h); err != nil {
		return Stand{}, err
	}
	if !h.Alive() {
		return Stand{}, ranOut(h)
	}
	// No request of an earlier holder's has a source or a target any more. So the guard
	// is at the path, or nowhere.
	s, err := g.look(h.Dir, fsys.Info{})
	if err != nil {
		return Stand{}, err
	}
	if s.kind == ourDir && h.Baton.Epoch == 0 {
		// Its state was removed, and its holder, who may be alive, finds that out at its next
		// heartbeat. Its TTL is not known; h's own will do. Its time is asked for: the client
		// may remember an older one.
		if s.Info, err = h.Dir.FS().Stat(h.Dir.LockPath(), true); err != nil {
			return Stand{}, err
		}
		if !h.Alive() { // what was seen may be the guard of who has taken over, and has made it its own
			return Stand{}, ranOut(h)
		}
		// A holder that has moved it down and up since it was seen has not changed its mtime.
		standing := fmt.Sprintf("%s.%d", s.signature(), s.Ctime.UnixNano())
		if left := h.Baton.TTL - h.Dir.Stood(standing); left > 0 && !h.Operator {
			r := backend.Record{Key: h.Dir.Key, State: backend.Held, Remaining: left, Note: "by a guard whose state directory was removed or replaced; it is taken over when it has stood for the TTL"}
			return Stand{}, &backend.HeldError{Record: r, RetryAfter: left}
		}
		if err := g.renew(h); err != nil {
			return Stand{}, err
		}
		if s, err = g.look(h.Dir, fsys.Info{}); err != nil {
			return Stand{}, err
		}
	}
	if err := g.sweep(h); err != nil {
		return Stand{}, err
	}
	mode, err := h.Dir.Mode()
	if err == nil {
		if err = h.Dir.FS().MakeDir(h.Dir.Rest(h.Baton.Gen), mode); fsys.IsTaken(err) {
			err = nil // by an earlier try
		}
	}
	if err == nil && s.kind != ourDir {
		err = g.build(h, h.Baton.Gen)
	}
	if err != nil {
		return Stand{}, err
	}
	if !h.Alive() {
		return Stand{}, ranOut(h)
	}
	ok, err := h.Next(func(b *statedir.Baton) { b.Epoch, b.Unsettled = b.Gen, false })
	switch {
	case err != nil:
		return Stand{}, err
	case !ok:
		return Stand{}, taken(h)
	case s.kind == ourDir:
		return Stand{known: s.Info}, nil
	}
	return g.raise(ctx, h)
}

// renewed is made in a guard, and removed.
const renewed = ".taken-over"

// renew changes the time of a guard whose state was removed, before it is h's: who has seen
// it stand before that has not seen it stand for h, when the state is removed again.
func (g Directory) renew(h *statedir.Hold) error {
	path := h.Dir.LockPath() + "/" + renewed
	if err := h.Dir.FS().Create(path, nil, 0o600); err != nil && !fsys.IsTaken(err) {
		return fmt.Errorf("take over the guard at %s: %w", h.Dir.LockPath(), err)
	}
	if err := h.Dir.FS().Remove(path); err != nil && !fsys.IsGone(err) {
		return fmt.Errorf("take over the guard at %s: %w", h.Dir.LockPath(), err)
	}
	return nil
}

// fence brings the guard of the last epoch to the path, if it is at rest, and removes
// the directory in which it rested.
func (g Directory) fence(ctx context.Context, h *statedir.Hold) error {
	rest := h.Dir.Rest(h.Baton.Epoch)
	f := h.Dir.FS()
	asides := 0
	var a answer
	for range 16 {
		if h.Baton.Epoch == 0 { // there was none yet
			return nil
		}
		if err := ctx.Err(); err != nil {
			return backend.Unavailable(context.Cause(ctx))
		}
		if err := g.settleAsides(h); err != nil {
			return err
		}
		a = g.up(h)
		if !h.Alive() {
			return ranOut(h)
		}
		s, err := g.look(h.Dir, fsys.Info{})
		if err != nil {
			return err
		}
		if s.kind == aFile {
			if _, err := f.Stat(rest, g.Network); err == nil {
				if err := g.clear(h, s, &asides); err != nil {
					return err
				}
				continue
			} else if !fsys.IsGone(err) {
				return err
			}
			return nil // it is dealt with when there is a place to move it to
		}
		if s.kind == nothing && !a.gone {
			switch {
			case a.cross:
				g.demolish(h, rest)
			case a.err != nil && fsys.Definite(a.err) && !fsys.IsFull(a.err):
				return fmt.Errorf("put the guard up at %s: %w", h.Dir.LockPath(), a.err)
			default:
				continue
			}
		}
		if !h.Alive() {
			return ranOut(h)
		}
		err = f.RemoveDir(rest)
		if fsys.IsFull(err) && (a.moved || a.gone || fsys.IsFull(a.err)) {
			// Half a guard, or a second one that a person has made. If it is the guard itself
			// that was moved back in between, it is made anew.
			g.demolish(h, rest)
			err = f.RemoveDir(rest)
		}
		if fsys.IsGone(err) && g.Network {
			// The client may remember that it is not there.
			if _, err = f.Stat(h.Dir.Path(), true); err == nil {
				err = f.RemoveDir(rest)
			}
		}
		if err == nil || fsys.IsMissing(err) {
			return nil
		}
		if !fsys.IsFull(err) {
			return fmt.Errorf("remove %s: %w", rest, err)
		}
		a.err = err
	}
	names, _, _ := f.List(rest)
	names = slices.DeleteFunc(names, func(n string) bool {
		return n == "guard" || strings.HasPrefix(n, makingPrefix) || strings.HasPrefix(n, asidePrefix) || strings.HasPrefix(n, roomPrefix)
	})
	for _, n := range names {
		if strings.HasPrefix(n, junkPrefix) { // a guard, as a rule one with a person's file in it
			if foreign := foreign(h.Dir, rest+"/"+n); len(foreign) > 0 {
				h.Unknown = true
				return statedir.Corrupt("%s has a file %q that hasp did not put there; move it away", rest+"/"+n, foreign[0])
			}
			continue
		}
		h.Unknown = true
		return statedir.Corrupt("%s has a file %q that hasp did not put there; remove it", rest, n)
	}
	return g.giveUp(h, a)
}

// sweep removes the directories of takers that were cut short: of generations before
// h's, and only as long as the baton is seen to be h's.
func (g Directory) sweep(h *statedir.Hold) error {
	names, _, err := h.Dir.FS().List(h.Dir.Path())
	if err != nil {
		return err
	}
	if !slices.Contains(names, h.Baton.Name()) {
		ok, err := h.Next(func(*statedir.Baton) {}) // a waiter's name, or another's baton
		if err != nil {
			return err
		}
		if !ok {
			return taken(h)
		}
	}
	for _, n := range names {
		if epoch, ok := statedir.ParseRest(n); ok && epoch < h.Baton.Gen {
			if !h.Alive() {
				return ranOut(h)
			}
			g.demolish(h, h.Dir.Rest(epoch))
			_ = h.Dir.FS().RemoveDir(h.Dir.Rest(epoch))
		}
	}
	return nil
}

const (
	makingPrefix = "making." // a guard that is being made
	junkPrefix   = "junk."   // one that is being removed
)

// demolish removes the guards that rest in a directory.
func (g Directory) demolish(h *statedir.Hold, rest string) {
	if g.Network { // the client may remember that there is nothing
		_, _ = h.Dir.FS().Stat(rest, true)
	}
	names, _, _ := h.Dir.FS().List(rest)
	for _, n := range names {
		switch {
		case !h.Alive(): // it may be the guard of who has taken over
			return
		case strings.HasPrefix(n, junkPrefix):
			g.raze(h, rest+"/"+n)
		case n == "guard" || strings.HasPrefix(n, makingPrefix):
			g.scrap(h, rest, rest+"/"+n)
		}
	}
}

// scrap removes a guard. Before its entry is removed it has a name that nobody else
// knows: a guard without an entry must never be moved to the lock's path, and who makes one
// may be about to move it to its rest.
func (g Directory) scrap(h *statedir.Hold, rest, dir string) {
	junk := rest + "/" + junkPrefix + statedir.NewNonce()
	switch err := h.Dir.FS().Rename(dir, junk); {
	case err == nil:
		g.raze(h, junk)
	case fsys.IsCross(err): // from an image's lower layer: it is never moved to the path either
		g.raze(h, dir)
	}
}

// raze removes a guard that nobody moves any more.
func (g Directory) raze(h *statedir.Hold, dir string) {
	f := h.Dir.FS()
	if err := f.RemoveDir(dir); err == nil || fsys.IsGone(err) {
		return
	}
	names, _, err := f.List(dir)
	foreign := func(n string) bool { return n != Entry && n != renewed }
	if err != nil || slices.ContainsFunc(names, foreign) {
		return
	}
	for _, n := range names {
		_ = f.Remove(dir + "/" + n)
	}
	_ = f.RemoveDir(dir)
}
