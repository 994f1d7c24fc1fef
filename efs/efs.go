//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
)

func init() {
	backend.Register("efs", openURL)
}

// Options of a Backend. The zero value, and nil, mean the defaults.
type Options struct {
	// NoLockFile leaves out the lock file that processes of the lock-file protocol
	// (EfsLock and its like) go by. Set it where none of them is left: it saves more
	// than half of the requests. All hasp processes that share a directory must agree
	// on it. URL option: lockfile=false.
	NoLockFile bool
	// Poll is the longest pause between two looks of a waiter at the lock's state; a
	// look costs one GETATTR. Default 500 ms on a network file system, 20 ms
	// elsewhere. URL option: poll=1s.
	Poll time.Duration
	// AnyMount opens directories on mounts that Open would refuse, because hasp's
	// protocol, or the lock file's, does not hold there. URL option: anymount=true.
	AnyMount bool
}

// Backend keeps locks in a directory and those below it. Methods may be called
// concurrently.
type Backend struct {
	dir     string
	opts    Options
	sys     sys
	root    *os.Root
	rootDir *os.File
	rootID  fileID
	clock   serverClock
	warn    []string
	poll    time.Duration
	local   bool // on a file system that is known not to be on a network
	// useLink is set where renameNew cannot be had. It is never tried on a network
	// file system: none has it, and there a lost reply could not be settled.
	useLink atomic.Bool

	mu     sync.Mutex
	closed bool
	places map[string]*place
	lru    place // ring of places that are in the map
	idle   int   // how many of those nobody uses
	using  int   // uses of the root that have not ended, and one more until Close
}

var (
	_ backend.Backend     = (*Backend)(nil)
	_ backend.Watcher     = (*Backend)(nil)
	_ backend.Breaker     = (*Backend)(nil)
	_ backend.Lister      = (*Backend)(nil)
	_ backend.TokenRaiser = (*Backend)(nil)
	_ backend.Warner      = (*Backend)(nil)
)

func openURL(_ context.Context, u *url.URL) (backend.Backend, error) {
	q := backend.NewQuery(u)
	opts := &Options{
		NoLockFile: !q.Bool("lockfile", true),
		Poll:       q.Duration("poll", 0),
		AnyMount:   q.Bool("anymount", false),
	}
	if err := q.Err(); err != nil {
		return nil, err
	}
	if u.Host != "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("write efs:///dir, with three slashes: there is no host in it")
	}
	dir := u.Path
	if u.Opaque != "" {
		dir = u.Opaque // efs:relative/dir
	}
	return Open(dir, opts)
}

// Open opens an existing directory as the root of a tree of locks: the key a/b is
// the lock file dir/a/b. It checks that the file system, and the way in which it is
// mounted, can hold the promises.
func Open(dir string, opts *Options) (*Backend, error) {
	b := &Backend{places: map[string]*place{}, using: 1}
	b.lru.prev, b.lru.next = &b.lru, &b.lru
	if opts != nil {
		b.opts = *opts
	}
	if b.opts.Poll < 0 {
		return nil, fmt.Errorf("option Poll is %v: it must not be negative", b.opts.Poll)
	}
	if dir == "" {
		return nil, errors.New("the directory's path is empty")
	}
	var err error
	if b.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := b.open(); err != nil {
		if b.root != nil {
			b.root.Close()
		}
		if b.rootDir != nil {
			b.rootDir.Close()
		}
		return nil, err
	}
	return b, nil
}

// OpenPath opens the directory of the lock file at path, which is made if it is
// missing, and returns the key of that lock. It is for those who name a lock by the
// path of its file.
func OpenPath(path string, opts *Options) (*Backend, string, error) {
	if path == "" {
		return nil, "", fmt.Errorf("%w: the lock file's path is empty", backend.ErrInvalidKey)
	}
	if path[len(path)-1] == '/' {
		return nil, "", fmt.Errorf("%w: %q names a directory, and a lock file's path is needed", backend.ErrInvalidKey, path)
	}
	dir, key := filepath.Dir(path), filepath.Base(path)
	if _, _, err := splitKey(key); err != nil {
		return nil, "", err
	}
	if err := backend.ValidateKey(key); err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, "", fmt.Errorf("make the lock file's directory: %w", err)
	}
	b, err := Open(dir, opts)
	return b, key, err
}

func (b *Backend) open() error {
	fi, err := os.Stat(b.dir)
	switch {
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s is not a directory", b.dir)
	}
	if b.root, err = os.OpenRoot(b.dir); err != nil {
		return err
	}
	if b.rootDir, err = os.Open(b.dir); err != nil {
		return err
	}
	i, err := b.sys.stat(b.rootDir, "")
	if err != nil {
		return err
	}
	b.rootID = i.id
	return b.check(fi)
}

// Warnings implements backend.Warner.
func (b *Backend) Warnings() []string { return b.warn }

// Prompt implements backend.Prompt: calls on a local disk return.
func (b *Backend) Prompt() bool { return b.local }

// path names something under the root for people.
func (b *Backend) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// grantState is what a grant carries for this backend.
type grantState struct {
	name string // of the baton
}

func state(g backend.Grant) grantState {
	s, _ := g.State.(grantState)
	return s
}

// Acquire implements backend.Backend.
func (b *Backend) Acquire(ctx context.Context, key string, c backend.Claim) (g backend.Grant, err error) {
	if err := backend.ValidateClaim(c); err != nil {
		return g, err
	}
	err = b.with(ctx, key, func(p *place) error {
		if err := p.open(true); err != nil {
			return err
		}
		p.tidy()
		g, err = p.acquire(ctx, c)
		return err
	})
	return g, err
}

func (p *place) acquire(ctx context.Context, c backend.Claim) (g backend.Grant, err error) {
	files := !p.b.opts.NoLockFile
	if files && p.legacy {
		if err := p.checkLegacy(c.TTL); err != nil {
			return g, err
		}
	}
	p.legacy = false
	mine, old, err := p.take(ctx, c)
	if err != nil {
		return g, err
	}
	st := grantState{name: mine.name()}
	if files {
		if err := p.guard(ctx, mine, old); err != nil {
			return g, p.giveBack(mine, err)
		}
	}
	return backend.Grant{Key: p.key, ID: c.ID, Holder: c.Holder, Token: mine.gen, TTL: mine.ttl, State: st}, nil
}

// giveBack frees the baton after the lock file could not be put in place.
func (p *place) giveBack(mine baton, why error) error {
	p.tidy()
	p.legacy = errors.Is(why, backend.ErrHeld)
	err := p.unguard(mine.claim, mine.gen)
	if err == nil {
		err = p.free(mine.name(), mine.claim)
	}
	if err != nil && !errors.Is(err, backend.ErrLost) {
		return backend.Unavailable(fmt.Errorf("%w, and the lock could not be given back: %w", why, err))
	}
	return why
}

// Renew implements backend.Backend.
func (b *Backend) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	err := b.with(ctx, g.Key, func(p *place) error {
		if err := p.open(false); err != nil {
			if isGone(err) {
				return fmt.Errorf("%w: %s is gone", backend.ErrLost, p.statePath())
			}
			return err
		}
		st := state(g)
		cur, known := parseBaton(st.name)
		for range 8 {
			if !known {
				var err error
				if cur, known, err = p.find(g.ID); err != nil {
					if isGone(err) {
						return fmt.Errorf("%w: %s is gone", backend.ErrLost, p.statePath())
					}
					return err
				}
				if !known {
					return fmt.Errorf("%w: now %s", backend.ErrLost, p.record(cur, time.Time{}, time.Time{}))
				}
			}
			next := cur.beaten()
			swapped, _, err := p.swap(cur, next)
			if err != nil && !isGone(err) {
				return err
			}
			if !swapped {
				known = false
				continue
			}
			st.name = next.name()
			if !b.opts.NoLockFile {
				err = p.keepGuard(ctx, next)
				if errors.Is(err, backend.ErrLost) {
					_ = p.free(st.name, g.ID) // it guards nothing any more
				}
				if err != nil {
					return err
				}
			}
			g.State = st
			return nil
		}
		return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be read", p.statePath()))
	})
	return g, err
}

// Release implements backend.Backend.
func (b *Backend) Release(ctx context.Context, g backend.Grant) error {
	return b.with(ctx, g.Key, func(p *place) error {
		if p.stateDir == nil {
			if err := p.open(false); err != nil {
				if isGone(err) {
					return fmt.Errorf("%w: %s is gone", backend.ErrLost, p.statePath())
				}
				return err
			}
		}
		p.tidy()
		st := state(g)
		var ferr error
		if !b.opts.NoLockFile {
			gen := g.Token
			if gen == 0 {
				cur, ok, err := p.find(g.ID)
				if err != nil {
					return err
				}
				if !ok {
					return backend.ErrLost
				}
				gen = cur.gen
			}
			if ferr = p.unguard(g.ID, gen); ferr != nil {
				if ferr = classify(ferr); errors.Is(ferr, backend.ErrUnavailable) {
					return ferr
				}
			}
		}
		err := p.free(st.name, g.ID)
		if isGone(err) {
			err = fmt.Errorf("%w: %s is gone", backend.ErrLost, p.statePath())
		}
		p.tidy()
		if err == nil {
			err = ferr
		}
		return err
	})
}

// Inspect implements backend.Backend.
func (b *Backend) Inspect(ctx context.Context, key string) (r backend.Record, err error) {
	err = b.with(ctx, key, func(p *place) error {
		r, err = p.inspect()
		return err
	})
	return r, err
}

func (p *place) inspect() (backend.Record, error) {
	free := backend.Record{Key: p.key, State: backend.Free}
	r := free
	err := p.open(false)
	switch {
	case err == nil:
		cur, changed, err := p.read()
		if err != nil {
			if isGone(err) {
				return free, nil
			}
			return r, err
		}
		now, err := p.now(maxClockAge)
		if err != nil {
			now = time.Time{}
		}
		if r = p.record(cur, changed, now); err != nil {
			r.Note = fmt.Sprintf("the file server's clock cannot be read: %v", err)
		}
	case !isGone(err):
		return r, err
	case p.parentDir == nil:
		return free, nil
	}
	if r.State != backend.Free || p.b.opts.NoLockFile {
		return r, nil
	}
	s, err := p.look()
	if err != nil || !s.there || s.hasp && s.gen <= r.Token {
		return r, err
	}
	return p.fileRecord(s, defaultLegacyTTL)
}

// defaultLegacyTTL is when a lock file of the lock-file protocol is stale, to
// those who only look: its holder does not write it down.
const defaultLegacyTTL = 300 * time.Second

// Close implements backend.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.trim(0)
	return b.leave()
}
