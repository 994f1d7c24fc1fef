//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"

	"github.com/hasplock/hasp/backend"
)

// A place is a key's directories, open, and what this client remembers of them.
// Between begin and end one goroutine has it to itself.
type place struct {
	b     *Backend
	key   string
	dir   string // the lock file's directory, relative to the root
	base  string // the lock file's name
	state string // the state directory's name
	rel   string // its path, relative to the root

	turn chan struct{} // holds one value: who takes it may use what follows

	parentDir *os.File // nil if not open
	stateDir  *os.File // nil if not open, or if there is none
	stateID   fileID
	last      string   // the baton's name when this client last set it; empty if unknown
	legacy    bool     // a live lock file of another protocol was in the way last time
	litter    []string // names that could not be removed, to be tried again

	refs       int // guarded by Backend.mu
	prev, next *place
}

func (b *Backend) newPlace(key string) (*place, error) {
	dir, base, err := splitKey(key)
	if err != nil {
		return nil, err
	}
	p := &place{b: b, key: key, dir: dir, base: base, state: stateName(base), rel: path.Join(dir, stateName(base)), turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p, nil
}

// begin waits for the place: a call that hangs in the file system holds up calls
// for its own key and no other's.
func (p *place) begin(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	default:
	}
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
		return backend.Unavailable(fmt.Errorf("another call for this key has not returned: %w", context.Cause(ctx)))
	}
}

func (p *place) end() { p.turn <- struct{}{} }

// shut closes the directories. What is remembered of the baton goes with them.
func (p *place) shut() {
	if p.parentDir != nil {
		p.parentDir.Close()
	}
	if p.stateDir != nil {
		p.stateDir.Close()
	}
	p.parentDir, p.stateDir, p.last, p.legacy = nil, nil, "", false
}

// openParent opens the directory, and makes it and its parents if create is set.
func (p *place) openParent(create bool) error {
	if p.parentDir != nil {
		return nil
	}
	f, err := p.b.sys.openDir(p.b.root, p.dir)
	if isNotExist(err) && create {
		if err := p.b.sys.mkdirAll(p.b.root, p.dir); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make directory %s: %w", p.b.path(p.dir), err)
		}
		f, err = p.b.sys.openDir(p.b.root, p.dir)
	}
	if err != nil {
		return fmt.Errorf("open directory %s: %w", p.b.path(p.dir), err)
	}
	i, err := p.b.sys.stat(f, "")
	if err == nil && i.id.dev != p.b.rootID.dev {
		err = fmt.Errorf("%w: %s is on another file system than %s, which has a clock and options of its own: open that one", backend.ErrInvalidKey, p.b.path(p.dir), p.b.dir)
	}
	if err != nil {
		f.Close()
		return err
	}
	p.parentDir = f
	return nil
}

// open makes sure that the state directory which is open is the one at its
// path: someone may have moved or removed what was there. With create set a
// missing one is made; else the error matches errGone.
func (p *place) open(create bool) error {
	if p.stateDir != nil {
		i, err := p.b.sys.stat(p.b.rootDir, p.rel)
		if err == nil && i.id == p.stateID {
			return nil
		}
		if err != nil && !isGone(err) {
			return err
		}
	}
	return p.reopen(create)
}

// reopen opens the directories anew, by their path.
func (p *place) reopen(create bool) error {
	p.shut()
	for range 4 {
		err := p.openParent(create)
		if err != nil {
			if isNotExist(err) && !create {
				return errors.Join(errGone, err)
			}
			return err
		}
		p.stateDir, err = p.b.sys.openState(p.parentDir, p.state)
		switch {
		case err == nil:
			i, err := p.b.sys.stat(p.stateDir, "")
			if err != nil {
				p.shut()
				return err
			}
			p.stateID = i.id
			return nil
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
			return corrupt("%s is not a directory; it is where hasp keeps the state of %s", p.b.path(p.dir, p.state), p.b.path(p.dir, p.base))
		case !isGone(err):
			return fmt.Errorf("open state directory %s: %w", p.b.path(p.dir, p.state), err)
		case !create:
			return errGone
		}
		if err := p.bootstrap(); err != nil {
			return err
		}
	}
	return fmt.Errorf("state directory %s vanishes as fast as it is made", p.b.path(p.dir, p.state))
}

// isGone tells whether a name, or the directory behind a descriptor, is not there
// any more.
func isGone(err error) bool {
	return isNotExist(err) || errors.Is(err, syscall.ESTALE) || errors.Is(err, errGone)
}

// bootstrap makes the state directory with its first baton, unless there is one
// by then. The directory is built under another name and renamed, so it appears
// with its baton in it, and only one of several can: renaming a directory onto
// one that is not empty fails.
func (p *place) bootstrap() error {
	err := p.boot()
	if err != nil {
		if _, serr := p.b.sys.stat(p.parentDir, p.state); serr == nil {
			err = nil // another was faster
		}
	}
	if err != nil {
		return fmt.Errorf("make state directory %s: %w", p.b.path(p.dir, p.state), err)
	}
	p.sweepBoots()
	return nil
}

func (p *place) boot() error {
	now, err := p.afterTick()
	if err != nil {
		return err
	}
	mode, err := parentMode(p.parentDir)
	if err != nil {
		return err
	}
	var name string
	for slot := 0; ; slot++ {
		name = bootName(p.base, slot)
		err := p.b.sys.mkdir(p.parentDir, name, mode)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) || slot == maxBoots {
			return err
		}
	}
	gen, err := backend.NextToken(0, 0, now)
	if err == nil {
		var d *os.File
		if d, err = p.b.sys.openState(p.parentDir, name); err == nil {
			err = p.b.sys.create(d, baton{gen: gen}.name(), nil)
			d.Close()
		}
	}
	if err == nil {
		err = p.b.sys.rename(p.parentDir, name, p.state)
	}
	if err != nil {
		p.removeBoot(name)
	}
	return err
}

// maxBoots is how many processes may be making the same state directory at once.
const maxBoots = 1000

// sweepBoots removes what others left who were making the state directory too. It
// exists by now, so none of them can succeed.
func (p *place) sweepBoots() {
	for slot := 0; slot <= maxBoots; slot++ {
		if err := p.removeBoot(bootName(p.base, slot)); err != nil {
			return
		}
	}
}

func (p *place) removeBoot(name string) error {
	d, err := p.b.sys.openState(p.parentDir, name)
	if err != nil {
		return err
	}
	names, err := p.b.sys.names(d)
	for _, n := range names {
		_ = p.b.sys.unlink(d, n)
	}
	d.Close()
	if err != nil {
		return err
	}
	return p.b.sys.rmdir(p.parentDir, name)
}

// discard removes a file of ours that has no meaning any more. If that fails it
// is tried again later, so that nothing is left that grows.
func (p *place) discard(name string) {
	err := p.b.sys.unlink(p.parentDir, name)
	if err != nil && !isNotExist(err) {
		err = p.b.sys.unlink(p.parentDir, name)
	}
	if err != nil && !isNotExist(err) {
		p.later(name)
	}
}

const maxLitter = 64

// later notes a name that has to be dealt with at the next opportunity.
func (p *place) later(name string) {
	if len(p.litter) < maxLitter {
		p.litter = append(p.litter, name)
	}
}

// tidy deals with what could not be dealt with before.
func (p *place) tidy() {
	if len(p.litter) == 0 || p.parentDir == nil {
		return
	}
	old := p.litter
	p.litter = nil
	for _, name := range old {
		if isAside(name) {
			p.clearAside(name, defaultLegacyTTL)
		} else {
			p.discard(name)
		}
	}
}
