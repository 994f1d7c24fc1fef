//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

func init() {
	backend.Register("efs", openURL)
}

// Backend keeps locks in a directory and those below it. Methods may be called
// concurrently.
type Backend struct {
	dir   string
	opts  Options
	fs    fsys.FS
	dev   uint64 // of the root's file system
	clock statedir.Clock
	guard guard.Guard
	files atomic.Bool // a lock file needs hard links here
	warn  []string
	poll  time.Duration
	mount fsys.Mount
	local bool // on a file system that is known not to be on a network

	operatorTTL time.Duration // shorter in tests of operators that are cut short

	unreserve func() // gives back the descriptor that heartbeats need when there is no other

	mu     sync.Mutex
	closed bool
	places map[string]*place
	lru    place // ring of places that are in the map
	idle   int   // how many of those nobody uses
}

var (
	_ backend.Backend     = (*Backend)(nil)
	_ backend.Watcher     = (*Backend)(nil)
	_ backend.Breaker     = (*Backend)(nil)
	_ backend.Lister      = (*Backend)(nil)
	_ backend.Clearer     = (*Backend)(nil)
	_ backend.TokenRaiser = (*Backend)(nil)
	_ backend.ValueStore  = (*Backend)(nil)
	_ backend.Sealer      = (*Backend)(nil)
	_ backend.Warner      = (*Backend)(nil)
	_ backend.Prompt      = (*Backend)(nil)
)

// Warnings implements backend.Warner.
func (b *Backend) Warnings() []string { return b.warn }

// Prompt implements backend.Prompt: calls on a local disk return.
func (b *Backend) Prompt() bool { return b.local }

// path names something under the root for people.
func (b *Backend) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// grantState is what a grant carries for this backend, the same for all its copies.
type grantState struct {
	hold  statedir.Hold
	stand guard.Stand
	// released: a Release has begun to let go of the baton. From then on a request of this
	// grant's could reach a successor's guard, so the baton is asked first.
	released bool
	// down: its guard has been taken down.
	down bool
	// freed is the last token that the baton has had since, which RaiseToken may have
	// put above the grant's.
	freed uint64
	// lost is why it holds nothing any more, if that is known.
	lost error
	// unguarded: its guard was lost, and it has the baton still. Release lets go of that,
	// which comes when its holder has been told: whoever had the lock before would be in
	// beside it.
	unguarded bool
}

// holdOf returns what is known of g, or finds it out. It is nil, without an error, if g
// holds nothing; then the baton says who does.
func (p *place) holdOf(g backend.Grant) (*grantState, statedir.Baton, error) {
	if s, ok := g.State.(*grantState); ok && s.lost != nil {
		return nil, statedir.Baton{}, s.lost
	} else if ok && !s.released {
		s.hold.Dir = p.dir
		return s, s.hold.Baton, nil
	}
	h, b, err := p.dir.Find(g.ID)
	if err != nil || h == nil {
		return nil, b, err
	}
	st := &grantState{hold: *h}
	if s, ok := g.State.(*grantState); ok {
		st.down = s.down
	}
	return st, b, nil
}

// Acquire implements backend.Backend.
func (b *Backend) Acquire(ctx context.Context, key string, c backend.Claim) (g backend.Grant, err error) {
	if err := backend.ValidateClaim(c); err != nil {
		return g, err
	}
	err = b.with(ctx, key, func(p *place) error {
		if err = p.prepare(true); err == nil {
			p.dir.Tidy()
			g, err = p.acquire(ctx, c)
		}
		if err == nil {
			g.State.(*grantState).hold.Rest()
		}
		return p.dir.Answer(c.ID, err)
	})
	return g, err
}

func (p *place) acquire(ctx context.Context, c backend.Claim) (g backend.Grant, err error) {
	if p.legacy {
		r, ok, _, err := p.b.guard.Peer(p.dir, 0)
		if err != nil {
			return g, err
		}
		if ok && r.State == backend.Held {
			return g, backend.RefusedBy(r)
		}
		p.legacy = false
	}
	h, err := p.take(ctx, c)
	if err != nil {
		return g, err
	}
	st := &grantState{}
	if st.stand, err = p.b.guard.Up(ctx, h); err != nil {
		return g, p.giveBack(h, err)
	}
	p.granted(c.ID)
	st.hold = *h
	return backend.Grant{Key: p.key, ID: c.ID, Holder: c.Holder, Token: h.Baton.Gen, TTL: h.Baton.TTL, State: st}, nil
}

// take takes the baton, and makes the state directory if there is none.
func (p *place) take(ctx context.Context, c backend.Claim) (*statedir.Hold, error) {
	for range 4 {
		h, err := p.dir.Take(ctx, c)
		if !errors.Is(err, statedir.ErrGone) {
			return h, err
		}
		p.checked = false // the directories may have been moved
		if err := p.prepare(true); err != nil {
			return nil, err
		}
		if err := p.mayBeLock(); err != nil {
			return nil, err
		}
		if err := p.dir.Make(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("state directory %s vanishes as fast as it is made", p.dir.Path())
}

// giveBack frees the baton after the guard could not be put in place.
func (p *place) giveBack(h *statedir.Hold, why error) error {
	var held *backend.HeldError
	isHeld := errors.As(why, &held)
	p.legacy = isHeld && held.Record.Note != "" && held.Record.Token == 0
	clean := (isHeld || errors.Is(why, backend.ErrCorrupt)) && !h.Unknown && !h.Baton.Unsettled && h.Alive()
	if _, err := h.Free(clean); err != nil && !errors.Is(err, backend.ErrLost) && !errors.Is(err, statedir.ErrGone) {
		p.legacy = false // the next try has to find out what became of this one
		return backend.Unavailable(fmt.Errorf("%w, and the lock could not be given back: %w", why, err))
	}
	return why
}

// Renew implements backend.Backend.
func (b *Backend) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	err := b.with(ctx, g.Key, func(p *place) error {
		st, cur, err := p.holdOf(g)
		if err != nil {
			return p.lostIfGone(err)
		}
		if st == nil {
			return p.lostTo(cur)
		}
		defer st.hold.Rest()
		ok, err := st.hold.Next(func(*statedir.Baton) {})
		switch {
		case err != nil:
			return p.lostIfGone(err)
		case !ok:
			st.lost = p.lostTo(st.hold.Now())
			return st.lost
		}
		g.State = st
		return p.guarded(ctx, st)
	})
	return g, err
}

// guarded looks whether the guard of a holder still stands.
func (p *place) guarded(ctx context.Context, st *grantState) (err error) {
	if st.stand, err = p.b.guard.Check(ctx, &st.hold, st.stand); errors.Is(err, backend.ErrLost) {
		st.lost, st.unguarded = err, true
	}
	return p.lostIfGone(err)
}

// lostIfGone: a lock whose state was moved or removed is nobody's.
func (p *place) lostIfGone(err error) error {
	if errors.Is(err, statedir.ErrGone) {
		return fmt.Errorf("%w: %s is gone: it was moved or removed", backend.ErrLost, p.dir.Path())
	}
	return err
}

func (p *place) lostTo(b statedir.Baton) error {
	return fmt.Errorf("%w: now %s", backend.ErrLost, p.dir.Record(b, time.Time{}, time.Time{}))
}

// Release implements backend.Backend.
func (b *Backend) Release(ctx context.Context, g backend.Grant) error {
	return b.with(ctx, g.Key, func(p *place) error { return p.lostIfGone(p.release(g)) })
}

func (p *place) release(g backend.Grant) error {
	p.dir.Tidy()
	if st, ok := g.State.(*grantState); ok && st.unguarded {
		return p.releaseUnguarded(st)
	}
	withdraw := g.Token == 0
	st, cur, err := p.holdOf(g)
	if err != nil {
		return err
	}
	if st == nil {
		if !withdraw && releasedAs(cur, g) {
			return nil
		}
		return p.lostTo(cur)
	}
	h := &st.hold
	if !h.Alive() { // a late one: only if nobody has taken over, and then it ends dirty
		ok, err := h.Next(func(*statedir.Baton) {})
		switch {
		case err != nil:
			return err
		case !ok && releasedAs(h.Now(), g):
			return nil
		case !ok:
			st.lost = p.lostTo(h.Now())
			return st.lost
		}
		h.Unknown = true
	}
	clean, lost := false, error(nil)
	if !st.down {
		clean, lost = p.b.guard.Down(h, st.stand)
		if lost != nil && !errors.Is(lost, backend.ErrLost) {
			return fsys.Classify(lost) // tried again
		}
	}
	st.released, st.down = true, lost == nil
	ok, err := h.Free(clean && lost == nil)
	st.freed = h.Baton.LastToken()
	switch {
	case err != nil:
		return err
	case !ok: // which is also why its guard is gone
		return p.lostTo(h.Now())
	case withdraw || g.State == nil && errors.Is(lost, backend.ErrLost):
		return nil // it may not have stood yet, or not any more
	}
	st.lost = lost
	return lost
}

// releaseUnguarded lets go of a baton that guards nothing any more.
func (p *place) releaseUnguarded(st *grantState) error {
	st.hold.Dir = p.dir
	if _, err := st.hold.Free(false); err != nil && !errors.Is(err, statedir.ErrGone) {
		return err
	}
	st.unguarded = false
	return st.lost
}

// releasedAs tells whether the baton is as g's release has left it.
func releasedAs(cur statedir.Baton, g backend.Grant) bool {
	if cur.State == statedir.Held || cur.State == statedir.Sealed {
		return false
	}
	st, ok := g.State.(*grantState)
	return cur.Gen == g.Token || ok && st.released && cur.Gen == st.freed
}

// Close implements backend.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.unreserve()
	}
	b.closed = true
	b.trim(0)
	return nil
}
