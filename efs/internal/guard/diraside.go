//go:build unix

package guard

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

const (
	asidePrefix = "old."
	roomPrefix  = "room." // a placeholder that is being made
)

// placeholder is in a file that was made for another to be moved onto.
const placeholder = "a stale lock file is moved here\n"

// asidePath is a new name each time: a move to it that is carried out late must not meet
// what has the name then.
func asidePath(h *statedir.Hold) string {
	return fmt.Sprintf("%s/%s%d-%s", h.Dir.Rest(h.Baton.Epoch), asidePrefix, h.Baton.Gen, statedir.NewNonce())
}

// aside takes the file s away from the path, and nothing else. A request to remove a
// name could be carried out twice, the second time on the next owner's file. So the file
// is moved to a name of h's own, in the epoch's directory, and onto a file: a guard, which
// is a directory, is not moved by such a request. Then it is looked at, and removed, or
// put back if it is another.
func (g Directory) aside(h *statedir.Hold, s seen) error {
	f := h.Dir.FS()
	to := asidePath(h)
	if err := g.makeRoom(h, to); err != nil {
		return fmt.Errorf("make room for the stale lock file %s: %w", h.Dir.LockPath(), err)
	}
	if !h.Alive() {
		return ranOut(h)
	}
	rerr := f.Rename(h.Dir.LockPath(), to)
	if rerr != nil && !fsys.Definite(rerr) && !fsys.IsGone(rerr) {
		// It may be carried out when an EfsLock process's next file is there, and this
		// process believes to be alone: so this attempt ends here.
		h.Unknown = true
		return backend.Unavailable(fmt.Errorf("move the stale lock file %s aside: %w", h.Dir.LockPath(), rerr))
	}
	if rerr != nil && fsys.Definite(rerr) && !fsys.IsGone(rerr) && !fsys.IsNoDir(rerr) {
		_ = f.Remove(to)
		return fmt.Errorf("move the stale lock file %s aside: %w", h.Dir.LockPath(), rerr)
	}
	if !h.Alive() {
		return ranOut(h)
	}
	return g.settleAside(h, to, &s)
}

// makeRoom makes a placeholder at a path. It has that name once it is complete: an empty
// file that was moved aside is a lock file which its owner is about to write.
func (g Directory) makeRoom(h *statedir.Hold, to string) error {
	f := h.Dir.FS()
	room := h.Dir.Rest(h.Baton.Epoch) + "/" + roomPrefix + statedir.NewNonce()
	// Whoever settles it has to know it, other users too: what cannot be read may be a lock
	// file, and would be put back.
	if err := f.Create(room, []byte(placeholder), 0o644); err != nil {
		return err
	}
	err := f.Rename(room, to)
	if err != nil {
		if _, serr := f.Stat(to, true); serr != nil {
			_ = f.Remove(room)
			return err
		}
	}
	return nil
}

// settleAside decides what becomes of a file that was moved aside. Expected, if it is
// not nil, is what it should be.
func (g Directory) settleAside(h *statedir.Hold, path string, expected *seen) error {
	f := h.Dir.FS()
	switch content, _, err := f.Read(path, fsys.MaxRead); {
	case err == nil && string(content) == placeholder:
		h.Dir.Discard(path)
		return nil
	case err != nil && !fsys.IsGone(err) && !fsys.IsUnreadable(err) && !errors.Is(err, fsys.ErrNotRegular):
		return err // a placeholder that cannot be told must not be put back
	}
	s, err := g.peek(h.Dir, path)
	switch {
	case fsys.IsGone(err):
		return nil
	case s.content == placeholder: // that it cannot be read was so for a moment
		h.Dir.Discard(path)
		return nil
	case errors.Is(err, errChanged):
		return g.guardAside(h, path, err)
	case err != nil && !errors.Is(err, backend.ErrCorrupt):
		return err
	case err == nil && (expected == nil || expected.same(s)):
		if expected == nil {
			if jerr := g.judge(h, s); jerr != nil {
				err = jerr
				break
			}
		}
		h.Dir.Discard(path)
		return nil
	}
	// A live one, or no lock file at all, was moved by mistake.
	lerr := f.Link(path, h.Dir.LockPath())
	if lerr != nil {
		if i, serr := f.Stat(path, true); serr != nil || i.Nlink < 2 {
			// Two have it: this one is not let in again, and who was let in stays. It is
			// kept until it is stale.
			h.Unknown = true
			if fsys.IsTaken(lerr) {
				return &backend.HeldError{Record: backend.Record{Key: h.Dir.Key, State: backend.Held, Holder: s.holder, Note: "by a lock file that was moved aside by mistake, while another took its place"}, RetryAfter: h.Dir.Poll}
			}
			return fmt.Errorf("put lock file %s back from %s: %w", h.Dir.LockPath(), path, lerr)
		}
	}
	h.Dir.Discard(path)
	return err
}

// guardAside brings back a guard that was moved aside. A late request has done that: it
// was meant for a file, and came when the placeholder was gone.
func (g Directory) guardAside(h *statedir.Hold, path string, why error) error {
	f := h.Dir.FS()
	i, err := f.Stat(path, true)
	switch {
	case fsys.IsGone(err):
		return nil
	case err != nil:
		return err
	case !i.Mode.IsDir():
		return why
	}
	switch _, err := f.Stat(path+"/"+Entry, true); {
	case fsys.IsMissing(err): // a person's, who has put it where the file was
		h.Unknown = true
		if _, err := g.move(h.Dir, path, h.Dir.LockPath()); fsys.IsFull(err) {
			return statedir.Corrupt("%s was moved there from %s by mistake, and now something else is there: move it away", path, h.Dir.LockPath())
		} else if err != nil {
			return fmt.Errorf("put %s back from %s: %w", h.Dir.LockPath(), path, err)
		}
		return strangeDir(h.Dir)
	case err != nil:
		return err
	}
	err = f.Rename(path, restGuard(h.Dir, h.Baton.Epoch))
	if fsys.IsFull(err) { // there is another
		g.scrap(h, h.Dir.Rest(h.Baton.Epoch), path)
		err = nil
	}
	return err
}

// settleAsides deals with what an earlier holder of this epoch has moved aside and not
// dealt with, each under a name of h's own first: one that two settle at once would be
// removed by one while the other puts it back.
func (g Directory) settleAsides(h *statedir.Hold) error {
	f := h.Dir.FS()
	rest := h.Dir.Rest(h.Baton.Epoch)
	names, _, err := f.List(rest)
	if err != nil {
		if fsys.IsGone(err) {
			return nil
		}
		return fmt.Errorf("list %s: %w", rest, err)
	}
	for _, n := range names {
		switch {
		case strings.HasPrefix(n, roomPrefix): // its maker was cut short, and can use it no more
			_ = f.Remove(rest + "/" + n)
			continue
		case n == "guard":
			// A late move down may have met a lock file, where a person has removed the guard. Put
			// up in place of that, it would replace the file of whoever is in now.
			if i, err := f.Stat(rest+"/"+n, true); err != nil || !i.Mode.IsRegular() {
				continue
			}
		case !strings.HasPrefix(n, asidePrefix):
			continue
		}
		if !h.Alive() {
			return ranOut(h)
		}
		from, own := rest+"/"+n, asidePath(h)
		if err := f.Rename(from, own); err != nil && !fsys.IsGone(err) {
			return fmt.Errorf("settle %s: %w", from, err)
		}
		if err := g.settleAside(h, own, nil); err != nil {
			return err
		}
	}
	return nil
}
