//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// Break implements backend.Breaker. Token 0 is that of a file of the EfsLock protocol,
// which has none.
func (b *Backend) Break(ctx context.Context, key string, token uint64) error {
	return b.with(ctx, key, func(p *place) error {
		if err := p.prepare(false); err != nil {
			if fsys.IsGone(err) {
				return backend.ErrNotHeld
			}
			return err
		}
		if token == 0 {
			if err := p.breakFile(ctx); !errors.Is(err, backend.ErrNotHeld) {
				return err
			}
		}
		for range 16 {
			cur, changed, err := p.dir.ReadNow()
			switch {
			case errors.Is(err, statedir.ErrGone):
				return backend.ErrNotHeld
			case err != nil:
				return err
			case cur.State == statedir.Sealed:
				return p.dir.Judge(cur, changed)
			case cur.State != statedir.Held:
				return backend.ErrNotHeld
			case cur.Gen != token:
				now, _ := p.dir.Now()
				return &backend.HeldError{Record: p.dir.Record(cur, changed, now)}
			case cur.LastToken() == math.MaxUint64:
				return backend.ErrTokensExhausted
			}
			if err := p.ownGuard(cur); err != nil {
				return err
			}
			// An operator takes over from the holder, and lets go at once. Had the baton been
			// freed, the guard would stand, and the holder's requests could still move it.
			h, err := p.dir.TakeFrom(cur, b.operator("break"))
			if err != nil {
				return err
			}
			if h != nil {
				return p.putDown(ctx, h)
			}
		}
		return backend.Unavailable(fmt.Errorf("the holder's heartbeats in %s are faster than a break", p.dir.Path()))
	})
}

// breakFile takes away the file of an EfsLock process, for an operator who takes the baton
// for that, and so makes a state directory where there is none. A move without the baton
// could be carried out when a hasp process has the lock, and take its guard away. The
// error matches backend.ErrNotHeld if there is no such file.
func (p *place) breakFile(ctx context.Context) error {
	for range 16 {
		r, ok, our, err := p.b.guard.Peer(p.dir, 0)
		switch {
		case err != nil:
			return err
		case !ok:
			return backend.ErrNotHeld
		case our:
			return &backend.HeldError{Record: r}
		}
		cur, changed, err := p.dir.ReadNow()
		switch {
		case errors.Is(err, statedir.ErrGone):
			if err := p.mayBeLock(); err != nil {
				return err
			}
			if err := p.dir.Make(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case cur.State == statedir.Sealed && p.b.opts.LockFile == Directory:
			return p.oust(cur)
		case cur.LastToken() == math.MaxUint64:
			return backend.ErrTokensExhausted
		}
		if err := p.dir.Judge(cur, changed); err != nil {
			// A hasp process has the lock beside it, which finds that out at its next heartbeat.
			// The baton stays its own: it has not been told yet.
			if cur.State != statedir.Held || cur.Epoch == 0 || p.b.opts.LockFile != Directory {
				return err
			}
			ok, marked, err := p.dir.Unsettle(cur)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			return p.oust(marked)
		}
		h, err := p.dir.TakeFrom(cur, p.b.operator("break"))
		if err != nil {
			return err
		}
		if h == nil {
			continue
		}
		return p.takeAway(ctx, h)
	}
	return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than its lock file can be broken", p.dir.Path()))
}

// takeAway takes away an EfsLock process's file as h, who has the baton, and lets go of that.
func (p *place) takeAway(ctx context.Context, h *statedir.Hold) error {
	if err := p.b.guard.Oust(h); err != nil {
		if _, ferr := h.Free(false); ferr != nil {
			return ferr
		}
		return err
	}
	if err := p.putDown(ctx, h); err != nil {
		return err
	}
	if again := (&statedir.Hold{Dir: p.dir}); p.b.guard.Oust(again) == nil && again.Ousted == h.Ousted {
		return backend.Unavailable(fmt.Errorf("the lock file %s stands; repeat it", p.dir.LockPath()))
	}
	return nil
}

// oust takes away an EfsLock process's file from where a guard of cur's should stand.
func (p *place) oust(cur statedir.Baton) error {
	now := time.Now()
	cur.TTL = p.b.operatorTTL
	return p.b.directory().OustBeside(&statedir.Hold{Dir: p.dir, Baton: cur, Since: now, Beat: now, Operator: true})
}
