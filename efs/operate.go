//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// operatorTTL is for how long an operator's command has a lock, if it is cut short.
const operatorTTL = 10 * time.Second

func (b *Backend) operator(what string) backend.Claim {
	host, _ := os.Hostname()
	return backend.Claim{
		ID: what + "-" + statedir.NewNonce(), TTL: b.operatorTTL,
		Holder: backend.Holder{Owner: "hasp " + what, Host: host, PID: os.Getpid()},
	}
}

// putDown takes away what stands at the path, and frees the lock that h has for that.
func (p *place) putDown(ctx context.Context, h *statedir.Hold) error {
	stand, err := p.b.guard.Up(ctx, h)
	clean := false
	if err == nil {
		clean, err = p.b.guard.Down(h, stand)
	}
	if errors.Is(err, backend.ErrHeld) || errors.Is(err, backend.ErrLost) || errors.Is(err, backend.ErrCorrupt) {
		err, clean = nil, false // an EfsLock process is in by now, or something else is there
	}
	if _, ferr := h.Free(clean && err == nil); ferr != nil {
		return ferr
	}
	return err
}

// Clear implements backend.Clearer: it takes away the guards that dead holders left.
// Without stale those of holders whose lock is nobody's any more, and with it also those
// of holders that are stale.
func (b *Backend) Clear(ctx context.Context, prefix string, stale bool) (cleared []backend.Record, err error) {
	err = b.walk(ctx, prefix, func(key string) error {
		r, did, err := b.clearKey(ctx, key, stale)
		switch {
		case err == nil && did:
			cleared = append(cleared, r)
		case err != nil && !errors.Is(err, statedir.ErrGone):
			cleared = append(cleared, unknown(key, err))
		}
		return nil
	}, func(dir string, err error) error {
		if strings.HasPrefix(dir, prefix) {
			cleared = append(cleared, unknown(dir, fmt.Errorf("there may be locks in it: %w", err)))
		}
		return nil
	})
	return cleared, err
}

// errStateRemoved: a holder whose state directory was removed may be alive, and finds out
// at its next heartbeat.
var errStateRemoved = fmt.Errorf("%w: its guard stands, and its state directory was removed or replaced, so nothing tells whether its holder is alive; a hasp process that wants the lock takes it over when it has seen the guard stand for its TTL", backend.ErrHeld)

// ownGuard returns errStateRemoved if the guard that stands is not this state's: a state
// whose epoch is 0 has never had one. An operator takes a guard away without waiting, and
// so asks before it takes the baton.
func (p *place) ownGuard(cur statedir.Baton) error {
	if cur.Epoch != 0 || p.b.opts.LockFile != Directory {
		return nil
	}
	if _, _, our, err := p.b.guard.Peer(p.dir, cur.Gen); err != nil || our {
		return errors.Join(errStateRemoved, err)
	}
	return nil
}

// clearKey is Clear for one key. Did is false if there was nothing to clear.
func (b *Backend) clearKey(ctx context.Context, key string, stale bool) (r backend.Record, did bool, err error) {
	err = b.with(ctx, key, func(p *place) error {
		if err := p.prepare(false); err != nil {
			return err
		}
		var err error
		if r, err = p.inspect(); err != nil {
			return err
		}
		cur, changed, err := p.dir.ReadNow()
		if err != nil {
			return err
		}
		if cur.State == statedir.Sealed {
			return nil
		}
		if err := p.ownGuard(cur); err != nil {
			return err
		}
		if cur.State == statedir.Held {
			if !stale || r.State != backend.Stale {
				return nil
			}
			if err := p.dir.Judge(cur, changed); err != nil {
				return nil //nolint:nilerr // it lives
			}
		} else if _, _, our, err := b.guard.Peer(p.dir, cur.Gen); err != nil || !our {
			return err
		}
		h, err := p.dir.TakeFrom(cur, b.operator("clear"))
		if err != nil || h == nil {
			return err
		}
		did = true
		return p.putDown(ctx, h)
	})
	return r, did, err
}

func unknown(key string, err error) backend.Record {
	return backend.Record{Key: key, State: backend.Unknown, Note: err.Error()}
}

// RaiseToken implements backend.TokenRaiser.
func (b *Backend) RaiseToken(ctx context.Context, key string, floor uint64) error {
	return b.with(ctx, key, func(p *place) error {
		if err := p.prepare(true); err != nil {
			return err
		}
		for range 4 {
			err := p.dir.Raise(floor)
			if !errors.Is(err, statedir.ErrGone) {
				return err
			}
			if err := p.mayBeLock(); err != nil {
				return err
			}
			if err := p.dir.Make(); err != nil {
				return err
			}
		}
		return backend.Unavailable(fmt.Errorf("state directory %s vanishes as fast as it is made", p.dir.Path()))
	})
}

// List implements backend.Lister. It finds the locks that hasp processes hold, and those
// of EfsLock processes where a hasp process has ever been; of other files nobody can tell
// that they are locks. What cannot be read is an entry in state unknown.
func (b *Backend) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	var rs []backend.Record
	err := b.walk(ctx, prefix, func(key string) error {
		r, err := b.Inspect(ctx, key)
		if errors.Is(err, backend.ErrClosed) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			r = unknown(key, err)
		}
		if r.State != backend.Free {
			rs = append(rs, r)
		}
		return nil
	}, func(dir string, err error) error {
		if strings.HasPrefix(dir, prefix) {
			rs = append(rs, unknown(dir, fmt.Errorf("there may be locks in it: %w", err)))
		}
		return nil
	})
	if err != nil {
		return nil, fsys.Classify(err)
	}
	sort.Slice(rs, func(i, j int) bool { return rs[i].Key < rs[j].Key })
	return rs, nil
}

// walk calls f for each key below prefix that has a state directory, and unread for each
// directory in which there may be others and that cannot be read.
func (b *Backend) walk(ctx context.Context, prefix string, f func(key string) error, unread func(dir string, err error) error) error {
	return b.walkFiles(ctx, prefix, nil, f, unread)
}

// walkFiles is walk, and also calls f for each other file that is a lock by isLock.
func (b *Backend) walkFiles(ctx context.Context, prefix string, isLock func(root fs.FS, name string) bool, f func(key string) error, unread func(dir string, err error) error) error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return backend.ErrClosed
	}
	start := "."
	if i := strings.LastIndex(prefix, "/"); i >= 0 {
		start = prefix[:i]
	}
	if !fs.ValidPath(start) {
		return fmt.Errorf("%w: prefix %q", backend.ErrInvalidKey, prefix)
	}
	root, err := os.OpenRoot(b.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), start, func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return backend.Unavailable(context.Cause(ctx))
		}
		switch {
		case err == nil:
		case fsys.IsGone(err):
			return nil
		case name == start:
			return err
		case fsys.IsNoDir(err): // a guard, in whose place there is a lock file by now
			return nil
		default: // there may be locks in it, and nobody may look
			return unread(name+"/", err)
		}
		base := d.Name()
		if !strings.HasPrefix(base, ".") || !strings.Contains(base, ".hasp") {
			if isLock != nil && d.Type().IsRegular() && strings.HasPrefix(name, prefix) && isLock(root.FS(), name) {
				return f(name)
			}
			return nil
		}
		lock, ok := strings.CutSuffix(base[1:], ".hasp")
		if key := path.Join(path.Dir(name), "x"); ok && lock != "" && lock != "." && lock != ".." {
			// Not only directories: what else has the name is in the lock's way.
			if key = key[:len(key)-1] + lock; strings.HasPrefix(key, prefix) {
				if err := f(key); err != nil {
					return err
				}
			}
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}
