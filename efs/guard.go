//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/hasplock/hasp/backend"
)

// The lock file stands beside the baton for processes of the lock-file protocol,
// which know nothing else. Only who holds the baton puts it there or takes it away:
// baton first, file second; released the other way round.

// seen is what was found under the lock file's name.
type seen struct {
	lockFile
	info
	content string
	there   bool
}

// same tells whether t is the file that s is, which has been refreshed at most if it
// is hasp's, and not even that if it is not. Its number alone does not tell: file
// systems use the numbers of removed files again.
func (s seen) same(t seen) bool {
	if s.hasp {
		return t.hasp && s.claim == t.claim && s.gen == t.gen
	}
	return !t.hasp && s.id == t.id && s.mtime.Equal(t.mtime) && s.content == t.content
}

// look reads the lock file as the server has it now.
func (p *place) look() (s seen, err error) {
	if err := p.revalidate(); err != nil {
		return s, err
	}
	s, err = p.peek(p.base)
	switch {
	case err == nil:
		return s, nil
	case isGone(err):
		return s, nil
	case errors.Is(err, syscall.EISDIR):
		return s, corrupt("%s is a directory, and a lock file belongs there", p.filePath())
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EMLINK): // FreeBSD says EMLINK
		return s, corrupt("%s is a symbolic link, and a lock file belongs there", p.filePath())
	case errors.Is(err, errNotRegular), errors.Is(err, syscall.ENXIO):
		return s, corrupt("%s is not a regular file, and a lock file belongs there", p.filePath())
	}
	return s, fmt.Errorf("read lock file %s: %w", p.filePath(), err)
}

// revalidate has a network file system's client find out, by the directory's change,
// whether the names in it that it remembers, present or missing, are still good.
func (p *place) revalidate() error {
	if p.b.local {
		return nil
	}
	_, err := p.b.sys.stat(p.parentDir, "")
	return err
}

// isNoFile tells whether a file could not be read because it is something else.
func isNoFile(err error) bool {
	for _, e := range []error{syscall.EISDIR, syscall.ELOOP, syscall.EMLINK, syscall.ENXIO, errNotRegular} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// peek reads the lock file that is called name.
func (p *place) peek(name string) (seen, error) {
	content, i, err := p.b.sys.read(p.parentDir, name)
	if err != nil {
		return seen{}, err
	}
	return seen{parseLockFile(content), i, string(content), true}, nil
}

func (p *place) filePath() string { return p.b.path(p.dir, p.base) }

// fileRecord describes the holder of the lock file s and tells whether it is stale: not changed
// for ttl, by the server's clock alone.
func (p *place) fileRecord(s seen, ttl time.Duration) (backend.Record, error) {
	now, err := p.now(maxClockAge)
	if err != nil {
		return backend.Record{}, fmt.Errorf("read the file server's clock: %w", err)
	}
	r := backend.Record{Key: p.key, State: backend.Held, ID: s.claim, Holder: s.holder, Token: s.gen, TTL: s.ttl}
	age := max(0, now.Sub(s.mtime))
	if !s.hasp {
		r.HeldFor = age // such a holder never touches its file again
	}
	switch {
	case s.hasp:
		ttl = s.ttl
	case s.ok:
		r.Note = "by a lock file"
	default:
		r.Note = fmt.Sprintf("by a lock file that cannot be read (%d bytes)", s.size)
	}
	r.Remaining = ttl + slack(ttl) - age
	if r.Remaining <= 0 {
		r.State, r.Remaining = backend.Stale, 0
	}
	return r, nil
}

func heldBy(r backend.Record) error {
	return &backend.HeldError{Record: r, RetryAfter: r.Remaining}
}

// checkLegacy returns a *backend.HeldError if a live lock file of another kind is
// there. It is for attempts after one that found such a file: they need not move
// the baton to learn that it is still there.
func (p *place) checkLegacy(ttl time.Duration) error {
	s, err := p.look()
	if err != nil || !s.there || s.hasp {
		return err
	}
	r, err := p.fileRecord(s, ttl)
	if err == nil && r.State == backend.Held {
		return heldBy(r)
	}
	return err
}

// settleFor is how long a lock file that took a dead one's place is watched. A
// process of the other kind may have read the dead one and be about to remove what
// it believes that to be; it does so within moments or not at all.
func settleFor(ttl time.Duration) time.Duration { return min(ttl/10, 250*time.Millisecond) }

// guard puts mine's lock file in place. old is the baton that mine replaced.
func (p *place) guard(ctx context.Context, mine, old baton) error {
	now, err := p.stamp()
	if err != nil {
		return err
	}
	name := newName(p.base, mine.gen)
	content := formatLockFile(mine, now)
	err = p.b.sys.create(p.parentDir, name, content)
	if errors.Is(err, os.ErrExist) { // of an earlier try of this very grant
		p.discard(name)
		err = p.b.sys.create(p.parentDir, name, content)
	}
	if err != nil {
		p.discard(name)
		return fmt.Errorf("write lock file %s: %w", p.filePath(), err)
	}
	gone := false // name has become the lock file
	defer func() {
		if !gone {
			p.discard(name)
		}
	}()
	replaced := false
	for aside := 0; ; {
		if gone, err = p.put(name, mine.claim); err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		s, err := p.look()
		if err != nil {
			return err
		}
		if !s.there {
			continue
		}
		if s.hasp && s.claim == mine.claim && s.gen == mine.gen {
			return nil // put there by an earlier try
		}
		dead := s.hasp && (s.gen == old.gen || s.gen == old.freed().gen)
		if !dead {
			if err := p.fileStale(s, mine.ttl); err != nil {
				return err
			}
		}
		if aside == asides-1 {
			return &backend.HeldError{Record: backend.Record{Key: p.key, State: backend.Held, Note: "by lock files that come faster than they go stale"}, RetryAfter: settleFor(mine.ttl)}
		}
		if err := p.moveAside(s, mine.gen, aside); err != nil {
			return err
		}
		aside++
		replaced = true
	}
	if replaced {
		return p.settle(ctx, mine)
	}
	return nil
}

// stamp is the server's time: what is known of it, or else read from the change to
// the state directory that this client has just made.
func (p *place) stamp() (time.Time, error) {
	if t, ok := p.b.clock.last(maxClockAge); ok {
		return t, nil
	}
	i, err := p.b.sys.stat(p.stateDir, "")
	if err != nil {
		return time.Time{}, err
	}
	p.b.clock.set(i.mtime, time.Now())
	return i.mtime, nil
}

// put gives claim's finished file the lock file's name. It is complete from the
// first moment, and what is there already is spared. gone tells whether name is not
// there any more.
func (p *place) put(name, claim string) (gone bool, err error) {
	if !p.b.useLink.Load() {
		err := p.b.sys.renameNew(p.parentDir, name, p.base)
		if err == nil || errors.Is(err, os.ErrExist) {
			return err == nil, err
		}
		if !errors.Is(err, errNoRenameNew) {
			if s, serr := p.peek(p.base); serr == nil && s.of(claim) {
				return true, nil // it was made, whatever the answer
			}
			return false, fmt.Errorf("put lock file %s in place: %w", p.filePath(), err)
		}
		p.b.useLink.Store(true)
	}
	lerr := p.b.sys.link(p.parentDir, name, p.base)
	if lerr == nil || p.linked(name) { // it was made, whatever the answer
		return false, nil
	}
	switch {
	case errors.Is(lerr, os.ErrExist):
		return false, lerr
	case errors.Is(lerr, syscall.EPERM), errors.Is(lerr, syscall.EOPNOTSUPP), errors.Is(lerr, syscall.ENOSYS), errors.Is(lerr, syscall.EMLINK):
		return false, fmt.Errorf("put lock file %s in place: %w: hard links do not work on this file system; if no process of the lock-file protocol uses it, open it with the option lockfile=false", p.filePath(), lerr)
	}
	return false, fmt.Errorf("put lock file %s in place: %w", p.filePath(), lerr)
}

// linked tells whether name has a second link.
func (p *place) linked(name string) bool {
	i, err := p.b.sys.stat(p.parentDir, name)
	return err == nil && i.nlink == 2
}

// fileStale returns nil if the file s has been stale in two fresh looks, and a
// *backend.HeldError if it is live.
func (p *place) fileStale(s seen, ttl time.Duration) error {
	for range 2 {
		r, err := p.fileRecord(s, ttl)
		if err != nil {
			return err
		}
		if r.State == backend.Held {
			return heldBy(r)
		}
		again, err := p.look()
		if err != nil {
			return err
		}
		if !again.there || again.id != s.id || !again.mtime.Equal(s.mtime) {
			return nil // not that file any more: moveAside, or the next link, finds out
		}
	}
	return nil
}

// moveAside takes the file s away from the lock file's name, and nothing else:
// a fixed name must not be removed by a request that could be repeated against its
// next owner, so the file is moved to a name of its own, looked at, and then removed,
// or put back if it is another.
func (p *place) moveAside(s seen, gen uint64, n int) error {
	aside := asideName(p.base, gen, n)
	rerr := p.b.sys.rename(p.parentDir, p.base, aside)
	err := p.revalidate()
	var moved seen
	if err == nil {
		moved, err = p.peek(aside)
	}
	if isNoFile(err) {
		return p.putBack(aside)
	}
	if err != nil {
		if !isNotExist(err) {
			p.later(aside)
			return err
		}
		if rerr != nil && !isGone(rerr) {
			return fmt.Errorf("remove lock file %s: %w", p.filePath(), rerr)
		}
		return nil // another removed it
	}
	if !s.same(moved) {
		return p.putBack(aside)
	}
	p.discard(aside)
	return nil
}

// putBack returns a file that was moved by mistake to its name. If there is
// another by now, its owner has lost it to a process that saw none.
func (p *place) putBack(aside string) error {
	err := p.b.sys.link(p.parentDir, aside, p.base)
	if err != nil && !errors.Is(err, os.ErrExist) {
		if i, serr := p.b.sys.stat(p.parentDir, aside); serr != nil || i.nlink < 2 {
			return fmt.Errorf("put lock file %s back from %s: %w", p.filePath(), aside, err)
		}
	}
	p.discard(aside)
	return nil
}

// settle waits until nobody can be about to remove the new file in the belief
// that it is the old one, and checks that nobody has.
func (p *place) settle(ctx context.Context, mine baton) error {
	timer := time.NewTimer(settleFor(mine.ttl))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return backend.Unavailable(context.Cause(ctx))
	}
	s, err := p.look()
	if err != nil {
		return err
	}
	if s.of(mine.claim) {
		return nil
	}
	if !s.there {
		r := backend.Record{Key: p.key, State: backend.Held, Note: "a process of the lock-file protocol took over at the same time, and is about to write its file"}
		return &backend.HeldError{Record: r, RetryAfter: time.Millisecond}
	}
	r, err := p.fileRecord(s, mine.ttl)
	if err != nil {
		return err
	}
	r.State, r.Note = backend.Held, "by a lock file; it took over at the same time"
	return &backend.HeldError{Record: r, RetryAfter: max(r.Remaining, time.Millisecond)}
}

// unguard removes the lock file if it is claim's.
func (p *place) unguard(claim string, gen uint64) error {
	s, err := p.look()
	if err != nil {
		if errors.Is(err, backend.ErrCorrupt) {
			return nil // not ours, whatever it is
		}
		return err
	}
	if !s.of(claim) {
		return nil
	}
	return p.moveAside(s, gen, asides-1)
}

// keepGuard is the lock file's part of a heartbeat: its time is refreshed in place,
// so that the other kind sees a live holder. If it is missing it is put back; if
// another's is there, the lease is lost.
func (p *place) keepGuard(ctx context.Context, mine baton) error {
	now, err := p.stamp()
	if err != nil {
		return err
	}
	for range 3 {
		s, err := p.look()
		if err != nil && !errors.Is(err, backend.ErrCorrupt) {
			return err
		}
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", backend.ErrLost, err)
		case !s.there:
			err = p.guard(ctx, mine, mine)
			var held *backend.HeldError
			if errors.As(err, &held) {
				return fmt.Errorf("%w: its lock file was removed, and now %s", backend.ErrLost, held.Record)
			}
			if err != nil {
				return err
			}
			// Was the lease still alive when the file appeared?
			_, ok, err := p.find(mine.claim)
			if err == nil && !ok {
				_ = p.unguard(mine.claim, mine.gen)
				return backend.ErrLost
			}
			return err
		case !s.of(mine.claim):
			return fmt.Errorf("%w: its lock file was replaced: now held by %s", backend.ErrLost, s.holder)
		}
		err = p.b.sys.overwrite(p.parentDir, p.base, []byte(formatStamp(now)), func(content []byte) bool {
			return parseLockFile(content).of(mine.claim)
		})
		if err == nil {
			return nil
		}
		if !isGone(err) && !errors.Is(err, errReplaced) {
			return fmt.Errorf("refresh lock file %s: %w", p.filePath(), err)
		}
	}
	return backend.Unavailable(fmt.Errorf("lock file %s changes faster than it can be read", p.filePath()))
}

// sweep removes what the holder of generation gen, who is stale, may have left
// when it was cut short. It is done before the takeover, so that a crash in between
// leaves it to the next.
func (p *place) sweep(gen uint64, ttl time.Duration) {
	if p.b.opts.NoLockFile {
		return
	}
	p.discard(newName(p.base, gen))
	for n := range asides {
		p.clearAside(asideName(p.base, gen, n), ttl)
	}
}

// clearAside removes a file that was moved aside, by this process or by one that
// was cut short, after a look at what it is: one that was moved by mistake has yet
// to be put back.
func (p *place) clearAside(aside string, ttl time.Duration) {
	s, err := p.peek(aside)
	if err != nil {
		if !isNotExist(err) {
			p.later(aside)
		}
		return
	}
	if !s.hasp {
		r, err := p.fileRecord(s, ttl)
		if err != nil {
			p.later(aside)
			return
		}
		if r.State == backend.Held {
			if p.putBack(aside) != nil {
				p.later(aside)
			}
			return
		}
	}
	p.discard(aside)
}
