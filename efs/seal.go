//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sort"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// canSeal refuses guards that EfsLock processes can take away.
func (b *Backend) canSeal() error {
	if b.opts.LockFile == Directory {
		return nil
	}
	return fmt.Errorf("%w: with lockfile=%s nothing stands at a lock's path that keeps EfsLock processes out for good: seal with lockfile=dir, when no process uses another any more", backend.ErrUnsupported, b.opts.LockFile)
}

// Seal implements backend.Sealer, with the directory guard: it stays at the lock's path, so
// processes of the EfsLock protocol end with their TimeoutError, whatever their clock says,
// and never have the lock. Versions of hasp that know no seals call the lock corrupt, and
// do not touch it.
//
// It makes the lock's directories if they are missing, so a key can be sealed before anybody has used it.
// Who may create directories can begin a new sweep all the same: to keep EfsLock processes
// from those, take their permission to write the root away.
func (b *Backend) Seal(ctx context.Context, key, to string) error {
	if err := b.canSeal(); err != nil {
		return err
	}
	to = backend.RedactURL(to)
	return b.with(ctx, key, func(p *place) error {
		if err := p.prepare(true); err != nil {
			return err
		}
		p.dir.Tidy()
		for range 4 {
			cur, moved, err := p.dir.Sealed()
			if err != nil {
				return err
			}
			if moved == nil {
				return p.seal(ctx, to)
			}
			if err := b.directory().Stand(p.dir, cur); err != nil {
				return err
			}
			if ok, err := p.dir.Reseal(cur, to); ok || err != nil {
				return err
			}
		}
		return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be sealed", p.dir.Path()))
	})
}

// directory is the guard of locks that can be sealed.
func (b *Backend) directory() guard.Directory {
	return guard.Directory{Options: guard.Options{Timeout: b.opts.LegacyTimeout, Network: !b.local}}
}

// seal takes the lock and seals it.
func (p *place) seal(ctx context.Context, to string) error {
	c := p.b.operator("seal")
	g, err := p.acquire(ctx, c)
	if err != nil {
		if errors.Is(err, backend.ErrUnavailable) { // it may hold the lock; else its TTL will do
			_ = p.release(backend.Grant{Key: p.key, ID: c.ID})
		}
		return err
	}
	h := &g.State.(*grantState).hold
	ok, err := h.Seal(to)
	if err == nil && !ok {
		return &backend.HeldError{Record: p.dir.Record(h.Now(), time.Time{}, time.Time{}), RetryAfter: time.Millisecond}
	}
	return err
}

// Unseal implements backend.Sealer. The lock is free then, for all. One that was cut short
// leaves the lock held for some seconds, and the next one goes on.
func (b *Backend) Unseal(ctx context.Context, key string) error {
	if err := b.canSeal(); err != nil {
		return err
	}
	return b.with(ctx, key, func(p *place) error {
		if err := p.prepare(false); err != nil {
			if fsys.IsGone(err) {
				return errNotSealed
			}
			return err
		}
		for range 16 {
			cur, changed, err := p.dir.ReadNow()
			switch {
			case errors.Is(err, statedir.ErrGone):
				return errNotSealed
			case err != nil:
				return err
			case cur.State == statedir.Sealed:
			case cur.State == statedir.Held:
				if cur.Holder.Owner != unsealer {
					return errNotSealed
				}
				if err := p.dir.Judge(cur, changed); err != nil {
					return err
				}
			default: // it is free: an earlier one may have left its guard
				_, _, our, err := b.guard.Peer(p.dir, cur.Gen)
				if err != nil || !our {
					return errors.Join(errNotSealed, err)
				}
			}
			if err := p.ownGuard(cur); err != nil {
				return err
			}
			if cur.LastToken() == math.MaxUint64 {
				return backend.ErrTokensExhausted
			}
			h, err := p.dir.TakeFrom(cur, b.operator("unseal"))
			if err != nil {
				return err
			}
			if h != nil {
				return p.putDown(ctx, h)
			}
		}
		return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be unsealed", p.dir.Path()))
	})
}

// unsealer is the owner of a lock that is being unsealed.
const unsealer = "hasp unseal"

var errNotSealed = fmt.Errorf("%w: it is not sealed", backend.ErrNotHeld)

// SealAll implements backend.Sealer: of each key below prefix that has a state directory,
// and of each file that is an EfsLock process's by its four lines.
func (b *Backend) SealAll(ctx context.Context, prefix, to string, skip func(key string) bool) ([]backend.Sealing, error) {
	if err := b.canSeal(); err != nil {
		return nil, err
	}
	return b.sealings(ctx, prefix, b.efsLockAt, func(key string) (bool, error) {
		if skip != nil && skip(key) {
			return false, nil
		}
		return true, b.Seal(ctx, key, to)
	})
}

// UnsealAll implements backend.Sealer.
func (b *Backend) UnsealAll(ctx context.Context, prefix string) ([]backend.Sealing, error) {
	if err := b.canSeal(); err != nil {
		return nil, err
	}
	return b.sealings(ctx, prefix, nil, func(key string) (bool, error) {
		err := b.Unseal(ctx, key)
		return !errors.Is(err, backend.ErrNotHeld), err
	})
}

// sealings does what is to be done to each key; did is false of those that it does not
// concern. A directory that cannot be read is one entry.
func (b *Backend) sealings(ctx context.Context, prefix string, isLock func(root fs.FS, name string) bool, do func(key string) (did bool, err error)) (all []backend.Sealing, err error) {
	seen := map[string]bool{}
	one := func(key string) error {
		if seen[key] {
			return nil
		}
		seen[key] = true
		did, err := do(key)
		if errors.Is(err, backend.ErrClosed) || ctx.Err() != nil {
			return err
		}
		if did {
			all = append(all, backend.Sealing{Key: key, Err: err})
		}
		return nil
	}
	// What is found is dealt with afterwards: a directory that is read while it changes may
	// show its names twice, or not at all.
	var keys []string
	found := func(key string) error {
		keys = append(keys, key)
		return nil
	}
	unread := func(dir string, err error) error {
		if strings.HasPrefix(dir, prefix) {
			all = append(all, backend.Sealing{Key: dir, Err: fmt.Errorf("there may be locks in it: %w", err)})
		}
		return nil
	}
	if err := b.walkFiles(ctx, prefix, isLock, found, unread); err != nil {
		return nil, fsys.Classify(err)
	}
	for _, key := range keys {
		if err := one(key); err != nil {
			return all, err
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Key < all[j].Key })
	return all, nil
}

// efsLockAt tells whether the file called name is an EfsLock process's.
func (b *Backend) efsLockAt(root fs.FS, name string) bool {
	if _, _, err := splitKey(name); err != nil {
		return false
	}
	i, err := fs.Stat(root, name)
	if err != nil || !i.Mode().IsRegular() || i.Size() == 0 || i.Size() > fsys.MaxRead {
		return false
	}
	content, _, err := b.fs.Read(b.path(name), fsys.MaxRead)
	return err == nil && guard.IsEfsLock(content)
}
