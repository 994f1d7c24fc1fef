//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A place is where a key's lock is, and what this client remembers of it. Between begin
// and end one goroutine has it to itself.
type place struct {
	b       *Backend
	key     string
	rel     string // the lock's directory, relative to the root
	dir     *statedir.Dir
	checked bool // its directory is there, and under the root
	legacy  bool // a live file of the EfsLock protocol was in the way last time

	turn chan struct{} // holds one value: who takes it may use what is above

	// guarded by Backend.mu
	waits      map[string]*statedir.Wait // by the claims that wait here
	refs       int
	prev, next *place
}

func (b *Backend) newPlace(key string) (*place, error) {
	rel, base, err := splitKey(key)
	if err != nil {
		return nil, err
	}
	p := &place{b: b, key: key, rel: rel, turn: make(chan struct{}, 1)}
	p.dir = statedir.New(b.fs, &b.clock, key, b.path(rel, base))
	p.dir.Poll, p.dir.Local = b.poll, b.local
	p.turn <- struct{}{}
	return p, nil
}

// begin waits for the place: a call that hangs in the file system holds up calls for its
// own key and no other's.
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

// waiting notes that w waits here, or that it does not any more.
func (p *place) waiting(w *statedir.Wait, on bool) {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	switch {
	case on && p.waits == nil:
		p.waits = map[string]*statedir.Wait{w.Claim.ID: w}
	case on:
		p.waits[w.Claim.ID] = w
	case p.waits[w.Claim.ID] == w:
		delete(p.waits, w.Claim.ID)
	}
}

// granted ends the wait of the claim that was granted: its watch may go on for a moment,
// and must not say that it waits.
func (p *place) granted(claim string) {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if w := p.waits[claim]; w != nil {
		w.Over = true
	}
}

// prepare makes sure that the lock's directory is there, if it may be made, under the
// root, and on the root's file system.
func (p *place) prepare(create bool) error {
	if p.checked {
		return nil
	}
	if create && p.b.opts.Create {
		if _, err := p.b.makeRoot(); err != nil {
			return err
		}
	}
	if p.rel != "." {
		if err := p.b.under(p.rel, create); err != nil {
			return err
		}
	}
	i, err := p.b.fs.Stat(p.dir.Above(), false)
	if fsys.IsGone(err) && create {
		return backend.Unavailable(fmt.Errorf("%s is gone: it was moved or removed", filepath.Dir(p.dir.LockPath())))
	}
	if err != nil {
		return err
	}
	if i.ID.Dev != p.b.dev {
		return fmt.Errorf("%w: %s is on another file system than %s, which has a clock and options of its own: open that one", backend.ErrInvalidKey, filepath.Dir(p.dir.LockPath()), p.b.dir)
	}
	p.checked = true
	return nil
}

// under looks for a directory under the root, and makes it and its parents if create is
// set. Symbolic links that lead out of the root are refused.
func (b *Backend) under(rel string, create bool) error {
	root, err := os.OpenRoot(b.dir)
	if err != nil {
		if fsys.IsGone(err) && create {
			return backend.Unavailable(fmt.Errorf("%s is gone: it was moved or removed: %w", b.dir, err))
		}
		return err
	}
	defer root.Close()
	fi, err := root.Stat(rel)
	if errors.Is(err, os.ErrNotExist) && create {
		if err := b.makeUnder(root, rel); err != nil {
			return err
		}
		fi, err = root.Stat(rel)
	}
	switch {
	case err != nil:
		return fmt.Errorf("open directory %s: %w", b.path(rel), err)
	case !fi.IsDir():
		return fmt.Errorf("open directory %s: %w", b.path(rel), fsys.ErrNoDir)
	}
	return nil
}

// makeUnder makes a directory and its parents. They are allowed to those who share the
// locks: to whom the directory above is, whatever the umask.
func (b *Backend) makeUnder(root *os.Root, rel string) error {
	above, name := ".", ""
	for rest := rel; rest != ""; above = name {
		var next string
		next, rest, _ = strings.Cut(rest, "/")
		if name = next; above != "." {
			name = above + "/" + next
		}
		if err := b.notInGuard(b.path(above), true); err != nil {
			return err
		}
		err := root.Mkdir(name, 0o777)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = shareAs(root, above, name)
		}
		if err != nil {
			return fmt.Errorf("make directory %s: %w", b.path(rel), err)
		}
	}
	return nil
}

// shareAs gives the directory that was made the mode of the one above, on a descriptor:
// by name it could be another's by now. A new one is empty, and this user's.
func shareAs(root *os.Root, above, name string) error {
	up, err := root.Stat(above)
	if err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	const bits = os.ModePerm | os.ModeSetgid | os.ModeSticky
	if err != nil || fi.Mode()&bits == up.Mode()&bits {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return nil
	}
	if _, err := f.Readdirnames(1); err != io.EOF {
		return nil
	}
	return f.Chmod(up.Mode() & bits)
}

// notInGuard refuses a directory that is a guard, or, unless it is the last to be asked,
// is in one: what is made in there moves with it.
func (b *Backend) notInGuard(dir string, last bool) error {
	for ; ; dir = filepath.Dir(dir) {
		if _, err := b.fs.Stat(dir+"/"+guard.Entry, false); err == nil {
			return fmt.Errorf("%w: %s is a lock, so there can be none in it", backend.ErrInvalidKey, dir)
		}
		if last || filepath.Dir(dir) == dir {
			return nil
		}
	}
}

// mayBeLock refuses, before anything is made for it, a path at which something else than
// a lock is, or that is in the guard of another lock.
func (p *place) mayBeLock() error {
	if err := p.b.notInGuard(filepath.Dir(p.dir.LockPath()), false); err != nil {
		return err
	}
	return p.b.guard.Fits(p.dir)
}
