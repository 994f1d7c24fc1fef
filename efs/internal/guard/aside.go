//go:build unix

package guard

import (
	"errors"
	"fmt"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// moveAside takes the file s away from the path, and nothing else: a request to remove a
// fixed name could be repeated against its next owner, so the file is moved to a name of
// its own, looked at, and then removed, or put back if it is another.
func (o Options) moveAside(d *statedir.Dir, s seen, aside string) error {
	rerr := d.FS().Rename(d.LockPath(), aside)
	moved, err := o.peek(d, aside)
	if err != nil && !fsys.IsMissing(err) && !errors.Is(err, backend.ErrCorrupt) && !errors.Is(err, errChanged) {
		moved, err = o.peek(d, aside)
	}
	switch {
	case errors.Is(err, backend.ErrCorrupt), errors.Is(err, errChanged):
		return o.putBack(d, aside, false)
	case fsys.IsMissing(err):
		if rerr != nil && !fsys.IsGone(rerr) {
			return fmt.Errorf("remove lock file %s: %w", d.LockPath(), rerr)
		}
		return nil // another removed it
	case err != nil:
		d.Later(func() bool { return o.settleFile(d, aside) })
		return err
	case !s.same(moved):
		return o.putBack(d, aside, true)
	}
	d.Discard(aside)
	return nil
}

// settleFile deals with a file that was moved aside by one who was cut short. Done is false
// if it could not be read.
func (o Options) settleFile(d *statedir.Dir, aside string) (done bool) {
	s, err := o.peek(d, aside)
	switch {
	case fsys.IsMissing(err):
		return true
	case errors.Is(err, backend.ErrCorrupt), errors.Is(err, errChanged):
		return o.putBack(d, aside, false) == nil
	case err != nil:
		return false
	}
	if !s.hasp {
		if r, err := o.record(d, s); err != nil || r.State == backend.Held {
			return err == nil && o.putBack(d, aside, true) == nil
		}
	}
	d.Discard(aside)
	return true
}

// putBack returns what was moved by mistake. If there is another by now, the owner of a
// lock file has lost it to a process that saw none. What is no lock file stays where it is.
func (o Options) putBack(d *statedir.Dir, aside string, lockFile bool) error {
	err := d.FS().Link(aside, d.LockPath())
	if fsys.IsTaken(err) && !lockFile {
		if i, serr := d.FS().Stat(aside, true); serr == nil && i.Nlink < 2 {
			return statedir.Corrupt("%s was moved there from %s by mistake, and now something else is there: move it away", aside, d.LockPath())
		} else if serr != nil && !fsys.IsMissing(serr) {
			return fmt.Errorf("put %s back from %s: %w", d.LockPath(), aside, serr)
		}
	}
	if err != nil && !fsys.IsTaken(err) {
		i, serr := d.FS().Stat(aside, true)
		if fsys.IsMissing(serr) {
			return nil
		}
		if serr == nil && i.Mode.IsDir() { // it has no links, and replaces nothing but an empty one
			err = d.FS().Rename(aside, d.LockPath())
			if err == nil || fsys.IsGone(err) {
				return nil
			}
		}
		if serr != nil || i.Nlink < 2 || i.Mode.IsDir() {
			return fmt.Errorf("put %s back from %s: %w", d.LockPath(), aside, err)
		}
	}
	d.Discard(aside)
	return nil
}
