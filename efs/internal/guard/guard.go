//go:build unix

// Package guard keeps processes of the EfsLock protocol out of a lock that a hasp
// process holds, and tells of those that are in. They know one thing only: what stands
// at the lock's path. Nothing here decides between hasp processes: who touches the path
// holds the baton, or has held it.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A Guard stands at a lock's path while a hasp process holds the lock.
type Guard interface {
	// Up puts the guard in place for h, who has taken the baton, and returns what to
	// pass on. A *backend.HeldError says that another is in. After any error h is given
	// back; h.Unknown is set if it is not known where the guard is.
	Up(ctx context.Context, h *statedir.Hold) (Stand, error)
	// Check looks whether it still stands; it is called after a heartbeat. An error that
	// matches backend.ErrLost says that another is, or may be, in.
	Check(ctx context.Context, h *statedir.Hold, s Stand) (Stand, error)
	// Down takes the guard away before h lets go of the baton. Clean says that it is at
	// rest, and that no request of h's can move it any more. An error that matches
	// backend.ErrLost says that it had not stood until now; h lets go all the same.
	Down(h *statedir.Hold, s Stand) (clean bool, err error)
	// Peer describes the process of the EfsLock protocol whose file is at the path; ok is
	// false if there is none. Our says that a guard of hasp's is there.
	Peer(d *statedir.Dir, token uint64) (r backend.Record, ok, our bool, err error)
	// Fits refuses, before anything is made for a lock, a path at which something else is:
	// the error matches backend.ErrCorrupt.
	Fits(d *statedir.Dir) error
	// Oust has h, an operator's, clear away the file of such a process when it puts its guard
	// up, as if it were stale. The error matches backend.ErrNotHeld if there is none, and
	// backend.ErrHeld if it is a hasp process's.
	Oust(h *statedir.Hold) error
}

// A Stand is what a holder remembers of its guard. The zero value is good.
type Stand struct {
	// known is the guard as it was seen.
	known fsys.Info
	// Removed: it was found missing and put up again. Another may have been in meanwhile.
	Removed bool
}

// Options are the same for all guards of a Backend.
type Options struct {
	// Timeout is after how long a file of the EfsLock protocol is stale.
	Timeout time.Duration
	// Network: what others did shows when the client has asked for it.
	Network bool
}

// None leaves the guard out.
type None struct{}

var _ Guard = None{}

func (None) Up(context.Context, *statedir.Hold) (Stand, error)           { return Stand{}, nil }
func (None) Check(context.Context, *statedir.Hold, Stand) (Stand, error) { return Stand{}, nil }
func (None) Down(h *statedir.Hold, _ Stand) (bool, error)                { return !h.Baton.Unsettled, nil }
func (None) Peer(*statedir.Dir, uint64) (backend.Record, bool, bool, error) {
	return backend.Record{}, false, false, nil
}

// Fits: nothing of the lock's is ever at the path, which may be a directory that other
// locks are in. But a lock named like a file of somebody's is a mistake. What a client
// remembers may be gone: it is made to ask before that is said.
func (n None) Fits(d *statedir.Dir) error {
	err := n.fits(d)
	if !errors.Is(err, backend.ErrCorrupt) || d.Local {
		return err
	}
	if _, err := d.FS().Stat(d.Above(), true); err != nil {
		return fmt.Errorf("look at %s: %w", d.LockPath(), err)
	}
	return n.fits(d)
}

func (None) fits(d *statedir.Dir) error {
	i, err := d.FS().Stat(d.LockPath(), false)
	if err == nil && i.Mode&fs.ModeSymlink != 0 {
		if i, err = d.FS().Stat(d.LockPath()+"/.", false); err != nil {
			return statedir.Corrupt("%s is a symbolic link that leads to no directory, and a lock belongs there", d.LockPath())
		}
	}
	switch {
	case fsys.IsGone(err):
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", d.LockPath(), err)
	case i.Mode.IsDir():
		return nil
	}
	_, err = Options{}.peek(d, d.LockPath())
	if errors.Is(err, backend.ErrCorrupt) {
		return err
	}
	return nil
}

func (None) Oust(*statedir.Hold) error { return backend.ErrNotHeld }

// peer is Peer for the guards that look.
func (o Options) peer(d *statedir.Dir, token uint64) (r backend.Record, ok, our bool, err error) {
	s, err := o.look(d, fsys.Info{})
	switch {
	case err != nil, s.kind == nothing, s.kind == ourDir:
		return r, false, s.kind == ourDir, err
	case s.hasp && s.gen <= token:
		return r, false, true, nil
	}
	r, err = o.record(d, s)
	return r, err == nil, s.hasp, err
}

// oust is Oust for the guards that look.
func (o Options) oust(h *statedir.Hold) (seen, error) {
	s, err := o.look(h.Dir, fsys.Info{})
	switch {
	case err != nil:
		return s, err
	case s.kind != aFile:
		return s, backend.ErrNotHeld
	case s.hasp:
		r, err := o.record(h.Dir, s)
		if err != nil {
			return s, err
		}
		return s, &backend.HeldError{Record: r}
	}
	h.Ousted = s.signature()
	return s, nil
}

// ranOut is for one who has found out that its lease is over in the middle of putting up
// the guard.
func ranOut(h *statedir.Hold) error {
	h.Unknown = true
	return backend.Unavailable(fmt.Errorf("the lease of %v ran out before its guard stood at %s", h.Baton.TTL, h.Dir.LockPath()))
}

// taken is for one who has found out that another has the baton.
func taken(h *statedir.Hold) error {
	return &backend.HeldError{Record: h.Dir.Record(h.Now(), time.Time{}, time.Time{}), RetryAfter: time.Millisecond}
}
