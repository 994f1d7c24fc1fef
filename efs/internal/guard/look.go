//go:build unix

package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// seen is what was found at a path.
type seen struct {
	kind kind
	fsys.Info
	lockFile
	content string
	moved   bool // it was found aside, and not at the lock's path
}

type kind int

const (
	nothing kind = iota
	ourDir       // a guard
	aFile        // a lock file of either kind
)

// same tells whether t is the file that s is: of hasp's by its claim, since its time is
// refreshed. The number of a file alone does not tell: those of removed files are used
// again.
func (s seen) same(t seen) bool {
	if s.hasp {
		return t.hasp && s.claim == t.claim && s.gen == t.gen
	}
	return !t.hasp && s.ID == t.ID && s.Mtime.Equal(t.Mtime) && s.content == t.content
}

// Entry is the file in a guard by which it is known. It also keeps the guard from being
// removed: a client that takes the path for the file that was there a moment ago sends
// a request that removes an empty directory.
const Entry = "held-by-hasp"

// look finds out what is at the lock's path now. What does not belong there is an error
// that matches backend.ErrCorrupt. One request on a network file system, if nothing has
// changed. A directory is a guard if it is the one that is known, by its number and time,
// since the numbers of removed directories are used again; or if it has the entry.
func (o Options) look(d *statedir.Dir, known fsys.Info) (s seen, err error) {
	return o.lookFor(d, func(i fsys.Info) bool { return i.ID == known.ID && i.Mtime.Equal(known.Mtime) })
}

// lookMoved is look right after a guard was moved to the path: a directory there is that.
func (o Options) lookMoved(d *statedir.Dir) (seen, error) {
	return o.lookFor(d, func(fsys.Info) bool { return true })
}

func (o Options) lookFor(d *statedir.Dir, known func(fsys.Info) bool) (s seen, err error) {
	path := d.LockPath()
	strange := 0
	for range 8 {
		if o.Network {
			if _, err := d.FS().Stat(d.Above(), true); fsys.IsGone(err) {
				return s, fmt.Errorf("%w: %w", statedir.ErrGone, err)
			} else if err != nil {
				return s, fmt.Errorf("look at %s: %w", path, err)
			}
		}
		i, err := d.FS().Stat(path, false)
		switch {
		case fsys.IsMissing(err):
			return seen{}, nil
		case fsys.IsGone(err): // it was, a moment ago
			continue
		case err != nil:
			return s, fmt.Errorf("look at %s: %w", path, err)
		case i.Mode.IsDir():
			if known(i) {
				return seen{kind: ourDir, Info: i}, nil
			}
			_, err := d.FS().Stat(path+"/"+Entry, false)
			if err == nil {
				return seen{kind: ourDir, Info: i}, nil
			}
			if !fsys.IsGone(err) && !fsys.IsNoDir(err) {
				return s, fmt.Errorf("look at %s: %w", path, err)
			}
			// A guard that was moved away in between, and is back, may look like this once.
			if again, aerr := d.FS().Stat(path, o.Network); aerr == nil && again.ID == i.ID {
				strange++
			}
			if strange == 3 {
				return s, strangeDir(d)
			}
			continue
		case i.Mode&fs.ModeSymlink != 0:
			return s, statedir.Corrupt("%s is a symbolic link, and a lock belongs there", path)
		}
		s, err := o.peek(d, path)
		if !fsys.IsGone(err) && !errors.Is(err, errChanged) {
			return s, err
		}
	}
	return s, backend.Unavailable(fmt.Errorf("what is at %s changes faster than it can be looked at", path))
}

// strangeDir is the error for a directory that is no guard. An empty one is not removed
// either: it may be somebody's.
func strangeDir(d *statedir.Dir) error {
	if names, _, err := d.FS().List(d.LockPath()); err == nil && len(names) == 0 {
		return statedir.Corrupt("%s is an empty directory, and a lock belongs there; if it is nobody's, such as what is left of a guard whose removal was cut short, remove it", d.LockPath())
	}
	return statedir.Corrupt("%s is a directory, and not one of hasp's; a lock belongs there", d.LockPath())
}

var errChanged = errors.New("it was replaced while it was looked at")

// peek reads the file at path, which is the lock's, or one that was moved aside.
func (o Options) peek(d *statedir.Dir, path string) (s seen, err error) {
	defer func() { s.moved = path != d.LockPath() }()
	content, i, err := d.FS().Read(path, fsys.MaxRead)
	if fsys.IsUnreadable(err) {
		content, i, err = d.FS().Read(path, fsys.MaxRead)
	}
	switch {
	case fsys.IsUnreadable(err):
		// Another user's, or of a host that is dead: it is known by its times.
		refused := err
		if i, err = d.FS().Stat(path, true); err != nil {
			return s, err
		}
		switch {
		case !i.Mode.IsRegular():
			return s, errChanged
		case fsys.IsForbidden(refused) && i.Mode&0o004 != 0:
			// Its mode is not why, and it may be no lock file at all.
			return s, fmt.Errorf("read lock file %s: its mode lets everybody read it, and the server does not: %w", d.LockPath(), refused)
		case i.Size > fsys.MaxRead:
			return s, notALock(d, i)
		}
		return seen{kind: aFile, Info: i, lockFile: lockFile{unreadable: true}}, nil
	case errors.Is(err, fsys.ErrNotRegular):
		i, serr := d.FS().Stat(path, false)
		switch {
		case serr == nil && (i.Mode.IsDir() || i.Mode.IsRegular()), fsys.IsGone(serr):
			return s, errChanged
		case serr != nil:
			return s, fmt.Errorf("look at %s: %w", d.LockPath(), serr)
		}
		return s, statedir.Corrupt("%s is not a regular file, and a lock belongs there", d.LockPath())
	case err != nil:
		return s, fmt.Errorf("read lock file %s: %w", d.LockPath(), err)
	}
	s = seen{kind: aFile, Info: i, lockFile: parseLockFile(content), content: string(content)}
	if !s.ok && i.Size > 0 || i.Size > fsys.MaxRead {
		return s, notALock(d, i)
	}
	return s, nil
}

func notALock(d *statedir.Dir, i fsys.Info) error {
	return statedir.Corrupt("%s is not a lock file (%d bytes that are not a time, or more than that), and a lock belongs there: it is left as it is", d.LockPath(), i.Size)
}

// fits is Fits for the guards that look.
func (o Options) fits(d *statedir.Dir) error {
	_, err := o.look(d, fsys.Info{})
	if errors.Is(err, backend.ErrCorrupt) {
		return err
	}
	return nil
}

// record describes the holder of the lock file s: stale if it was not changed for its
// TTL, or the timeout of the EfsLock protocol, by the server's clock.
func (o Options) record(d *statedir.Dir, s seen) (backend.Record, error) {
	r := backend.Record{Key: d.Key, State: backend.Held, ID: s.claim, Holder: s.holder, Token: s.gen, TTL: s.ttl}
	ttl := o.Timeout
	switch {
	case s.hasp:
		ttl = s.ttl
	case s.unreadable:
		r.Note = fmt.Sprintf("by a lock file of user %d that this user may not read", s.UID)
	case s.ok:
		r.Note = "by a lock file"
	default:
		r.Note = "by a lock file that is empty"
	}
	age, remaining, err := d.FileAge(s.signature(), s.changed(), s.moved, ttl)
	if err != nil {
		return r, fmt.Errorf("read the file server's clock: %w", err)
	}
	if !s.hasp {
		r.HeldFor = age // such a holder never touches its file again
	}
	if r.Remaining = remaining; remaining <= 0 {
		r.State, r.Remaining = backend.Stale, 0
	}
	return r, nil
}

// changed is when a lock file was changed last. The mtime of one that is empty may be no
// time. A file that is made exclusively on NFS has for a while what its maker's client sent to
// be known by, its ticks since it started: 1970, 2038, or anything between. The client's next
// request puts the present in, before anything is written; if the client has died it stays.
// Its ctime is right all along.
func (s seen) changed() time.Time {
	if s.Size == 0 && !s.hasp {
		return s.Ctime
	}
	return s.Mtime
}

// signature is by what a file is known again. A server whose clock was set back may give the
// next file the number and the times of the last one; its owner has written another time into it.
func (s seen) signature() string {
	stamp, _, _ := strings.Cut(s.content, "\n")
	return fmt.Sprintf("%d.%d.%d.%s.%.32s", s.ID.Ino, s.Mtime.UnixNano(), s.Size, s.claim, stamp)
}

// judge returns nil if the file s is stale, and a *backend.HeldError if it is live. Its
// clock is read anew, and its owner may have shown itself, before it is called stale.
func (o Options) judge(h *statedir.Hold, s seen) error {
	if s.hasp && (s.gen == h.Old.Gen || s.gen == h.Old.Last || s.claim == h.Baton.Claim) {
		return nil // a dead holder's, whose baton h has replaced, or an earlier try's
	}
	if h.Ousted != "" && s.signature() == h.Ousted {
		return nil
	}
	r, err := o.record(h.Dir, s)
	if err != nil {
		return err
	}
	if r.State == backend.Held {
		return backend.RefusedBy(r)
	}
	if doubt, left := h.Dir.DoubtFile(s.signature(), o.ttlOf(s)); doubt != "" {
		r.State, r.Remaining, r.Note = backend.Held, left, doubt
		return &backend.HeldError{Record: r, RetryAfter: left}
	}
	return nil
}

func (o Options) ttlOf(s seen) time.Duration {
	if s.hasp {
		return s.ttl
	}
	return o.Timeout
}
