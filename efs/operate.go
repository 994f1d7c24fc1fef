//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Break implements backend.Breaker. Token 0 is that of a lock file of the
// lock-file protocol, which has none.
func (b *Backend) Break(ctx context.Context, key string, token uint64) error {
	return b.with(ctx, key, func(p *place) error {
		if token == 0 && !b.opts.NoLockFile {
			if err := p.breakFile(); !errors.Is(err, backend.ErrNotHeld) {
				return err
			}
		}
		if err := p.open(false); err != nil {
			if isGone(err) {
				return backend.ErrNotHeld
			}
			return err
		}
		for range 16 {
			cur, changed, err := p.read()
			if err != nil {
				return err
			}
			if !cur.held {
				return backend.ErrNotHeld
			}
			if cur.gen != token {
				now, _ := p.now(maxClockAge)
				return &backend.HeldError{Record: p.record(cur, changed, now)}
			}
			if !b.opts.NoLockFile {
				if err := p.unguard(cur.claim, cur.gen); err != nil {
					return err
				}
			}
			// The next generation, so that the holder's late release is told of it.
			if cur.freed().gen == math.MaxUint64 {
				return backend.ErrTokensExhausted
			}
			to := baton{gen: cur.freed().gen + 1}
			swapped, _, err := p.swap(cur, to)
			if err != nil || swapped {
				return err
			}
		}
		return backend.Unavailable(fmt.Errorf("the holder's heartbeats in %s are faster than a break", p.statePath()))
	})
}

// breakFile removes a lock file that hasp did not write.
func (p *place) breakFile() error {
	if err := p.open(false); err != nil && !isGone(err) {
		return err
	}
	if p.parentDir == nil {
		return backend.ErrNotHeld
	}
	s, err := p.look()
	switch {
	case err != nil:
		return err
	case !s.there:
		return backend.ErrNotHeld
	case s.hasp:
		r, err := p.fileRecord(s, s.ttl)
		if err != nil {
			return err
		}
		return &backend.HeldError{Record: r}
	}
	// Generation 0 is nobody's, so its names are free for this.
	p.clearAside(asideName(p.base, 0, 0), defaultLegacyTTL)
	return p.moveAside(s, 0, 0)
}

// RaiseToken implements backend.TokenRaiser: a free baton is renamed to floor; a
// held one carries floor in its name, beside its holder's token.
func (b *Backend) RaiseToken(ctx context.Context, key string, floor uint64) error {
	return b.with(ctx, key, func(p *place) error {
		if err := p.open(true); err != nil {
			return err
		}
		for range 16 {
			cur, _, err := p.read()
			if err != nil {
				return err
			}
			if cur.freed().gen >= floor {
				return nil
			}
			next := cur
			if cur.held {
				next.floor, next.nonce = floor, nonce()
				// The new name must not make the holder look alive: it does, for
				// one TTL. That is the price of having one name for all.
			} else {
				next.gen = floor
			}
			swapped, _, err := p.swap(cur, next)
			if err != nil || swapped {
				return err
			}
		}
		return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be raised", p.statePath()))
	})
}

// List implements backend.Lister. It finds the locks that hasp processes hold; of
// lock files without a state directory nobody can tell that they are locks.
func (b *Backend) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.using++
	}
	b.mu.Unlock()
	if closed {
		return nil, backend.ErrClosed
	}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		_ = b.leave()
	}()
	start := "."
	if i := strings.LastIndex(prefix, "/"); i >= 0 {
		start = prefix[:i]
	}
	if !fs.ValidPath(start) {
		return nil, fmt.Errorf("%w: prefix %q", backend.ErrInvalidKey, prefix)
	}
	var rs []backend.Record
	err := fs.WalkDir(b.root.FS(), start, func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return backend.Unavailable(context.Cause(ctx))
		}
		if err != nil {
			if isGone(err) {
				return nil
			}
			return err
		}
		base := d.Name()
		if !d.IsDir() || !strings.HasPrefix(base, ".") || !strings.Contains(base, ".hasp") {
			return nil
		}
		lock, ok := strings.CutSuffix(base[1:], ".hasp")
		if key := path.Join(path.Dir(name), lock); ok && lock != "" && strings.HasPrefix(key, prefix) {
			r, err := b.Inspect(ctx, key)
			if err != nil {
				return err
			}
			if r.State != backend.Free {
				rs = append(rs, r)
			}
		}
		return fs.SkipDir
	})
	if err != nil {
		return nil, classify(err)
	}
	sort.Slice(rs, func(i, j int) bool { return rs[i].Key < rs[j].Key })
	return rs, nil
}

// poll is the longest pause between two looks of a waiter.
func pollFor(o Options, network bool) time.Duration {
	switch {
	case o.Poll > 0:
		return o.Poll
	case network:
		return 500 * time.Millisecond
	}
	return 20 * time.Millisecond
}
