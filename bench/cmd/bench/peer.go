//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	bsm "github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/gofrs/flock"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/redislock"
)

// The contestants.
const (
	haspRedis   = "hasp redislock"
	bsmName     = "bsm/redislock"
	redsyncName = "redsync"
	rueidisName = "rueidislock"
	haspEtcd    = "hasp etcdlock"
	mutexName   = "concurrency.Mutex"
	haspDir     = "hasp efs"
	haspBare    = "hasp efs without lock file"
	flockName   = "gofrs/flock"
	legacyName  = "lock-file protocol"
	haspMemory  = "hasp memlock"
)

// ttl is that of every lock here that can be given one.
const ttl = 30 * time.Second

// bsmBackoff is how often a waiter of bsm/redislock, which has no default, looks.
const bsmBackoff = 100 * time.Millisecond

// errGaveUp says that a contestant stopped waiting by rules of its own.
var errGaveUp = errors.New("gave up waiting")

type (
	release func(context.Context) error
	acquire func(context.Context) (release, error)
)

// peer is one contestant in one process.
type peer struct {
	waiter func(key string) (acquire, error) // one more that wants the lock
	stops  []func() error
}

func (p *peer) close() error {
	var errs []error
	for i := len(p.stops) - 1; i >= 0; i-- {
		errs = append(errs, p.stops[i]())
	}
	return errors.Join(errs...)
}

func options() *hasp.Options { return &hasp.Options{TTL: ttl, MaxRetries: hasp.Unlimited} }

// openPeer connects to what is at addr. With shared, all of hasp's waiters in the
// process have one Locker and so queue within it; without, each has its own and
// contends at the server, on one backend as connections go.
func openPeer(kind, addr string, shared bool) (_ *peer, err error) {
	p := &peer{}
	defer func() {
		if err != nil {
			_ = p.close() // err says more
		}
	}()
	switch kind {
	case haspRedis, haspEtcd, haspDir, haspBare:
		b, stop, err := openBackend(kind, addr)
		if err != nil {
			return nil, err
		}
		p.stops = append(p.stops, stop)
		lockers := p.haspLockers(b)
		if shared {
			one := lockers()
			lockers = func() hasp.Locker { return one }
		}
		p.waiter = func(key string) (acquire, error) {
			l := lockers()
			return func(ctx context.Context) (release, error) {
				le, err := l.Acquire(ctx, key)
				if err != nil {
					return nil, err
				}
				return le.Release, nil
			}, nil
		}
	case bsmName:
		c := newRedis(addr)
		p.stops = append(p.stops, c.Close)
		locks := bsm.New(c)
		p.waiter = func(key string) (acquire, error) {
			opts := &bsm.Options{RetryStrategy: bsm.LinearBackoff(bsmBackoff)}
			return func(ctx context.Context) (release, error) {
				l, err := locks.Obtain(ctx, key, ttl, opts)
				if errors.Is(err, bsm.ErrNotObtained) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
					return nil, errGaveUp
				} else if err != nil {
					return nil, err
				}
				return l.Release, nil
			}, nil
		}
	case redsyncName:
		c := newRedis(addr)
		p.stops = append(p.stops, c.Close)
		rs := redsync.New(goredis.NewPool(c))
		p.waiter = func(key string) (acquire, error) {
			return func(ctx context.Context) (release, error) {
				m := rs.NewMutex(key)
				err := m.LockContext(ctx)
				var taken *redsync.ErrTaken
				if errors.Is(err, redsync.ErrFailed) || errors.As(err, &taken) {
					return nil, errGaveUp
				} else if err != nil {
					return nil, err
				}
				return func(ctx context.Context) error { _, err := m.UnlockContext(ctx); return err }, nil
			}, nil
		}
	case rueidisName:
		// One key, as there is one server. A request has a second, as a program on a busy
		// machine would give it: with the default, 20 ms, a late one is not tried again.
		locks, err := rueidislock.NewLocker(rueidislock.LockerOption{
			ClientOption: rueidis.ClientOption{InitAddress: []string{addr}},
			KeyValidity:  ttl, KeyMajority: 1, NoLoopTracking: true, TryNextAfter: time.Second,
		})
		if err != nil {
			return nil, err
		}
		p.stops = append(p.stops, func() error { locks.Close(); return nil })
		p.waiter = func(key string) (acquire, error) {
			return func(ctx context.Context) (release, error) {
				_, cancel, err := locks.WithContext(ctx, key)
				if err != nil {
					return nil, err
				}
				return func(context.Context) error { cancel(); return nil }, nil
			}, nil
		}
	case mutexName:
		c, err := newEtcd(addr)
		if err != nil {
			return nil, err
		}
		p.stops = append(p.stops, c.Close)
		// Two mutexes of one session do not exclude each other: a session a waiter.
		p.waiter = func(key string) (acquire, error) {
			s, err := concurrency.NewSession(c, concurrency.WithTTL(int(ttl/time.Second)))
			if err != nil {
				return nil, err
			}
			p.stops = append(p.stops, s.Close)
			return func(ctx context.Context) (release, error) {
				m := concurrency.NewMutex(s, key)
				if err := m.Lock(ctx); err != nil {
					return nil, err
				}
				return m.Unlock, nil
			}, nil
		}
	case flockName:
		p.waiter = func(key string) (acquire, error) {
			return func(context.Context) (release, error) {
				l := flock.New(filepath.Join(addr, key))
				ok, err := l.TryLock()
				if err == nil && !ok {
					err = errGaveUp
				}
				return func(context.Context) error { return l.Unlock() }, err
			}, nil
		}
	case legacyName:
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		p.waiter = func(key string) (acquire, error) { return legacy(filepath.Join(addr, key), host), nil }
	default:
		return nil, fmt.Errorf("no such contestant: %q", kind)
	}
	return p, nil
}

// legacy is what the lock-file protocol does when the lock is free, without the
// sleep of 0.1 to 1 s that comes before it.
func legacy(path, host string) acquire {
	return func(context.Context) (release, error) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		_, err = fmt.Fprintf(f, "%f\n%d\n%s\nLinux\n", float64(time.Now().UnixMicro())/1e6, os.Getpid(), host)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		return func(context.Context) error { return os.Remove(path) }, nil
	}
}

// haspLockers makes Lockers on b, which none of them closes.
func (p *peer) haspLockers(b backend.Backend) func() hasp.Locker {
	return func() hasp.Locker {
		l := hasp.New(unclosed(b), options())
		p.stops = append(p.stops, l.Close)
		return l
	}
}

// unclosed is b, with all its capabilities, for several Lockers.
func unclosed(b backend.Backend) backend.Backend {
	switch b := b.(type) {
	case *redislock.Backend:
		return unclosedRedis{b}
	case *etcdlock.Backend:
		return unclosedEtcd{b}
	case *efs.Backend:
		return unclosedDir{b}
	}
	return b
}

type (
	unclosedRedis struct{ *redislock.Backend }
	unclosedEtcd  struct{ *etcdlock.Backend }
	unclosedDir   struct{ *efs.Backend }
)

func (unclosedRedis) Close() error { return nil }
func (unclosedEtcd) Close() error  { return nil }
func (unclosedDir) Close() error   { return nil }

// openBackend opens the backend of one of hasp's contestants. stop closes it.
func openBackend(kind, addr string) (_ backend.Backend, stop func() error, err error) {
	switch kind {
	case haspRedis:
		b, err := redislock.Open(context.Background(), &url.URL{Scheme: "redis", Host: addr})
		if err != nil {
			return nil, nil, err
		}
		return b, b.Close, nil
	case haspEtcd:
		c, err := newEtcd(addr)
		if err != nil {
			return nil, nil, err
		}
		b := etcdlock.New(c, nil)
		return b, func() error { return errors.Join(b.Close(), c.Close()) }, nil
	case haspDir, haspBare:
		opts := &efs.Options{}
		if kind == haspBare {
			opts.LockFile = efs.NoLockFile
		}
		b, err := efs.Open(addr, opts)
		if err != nil {
			return nil, nil, err
		}
		return b, b.Close, nil
	case haspMemory:
		b := memlock.New().Client()
		return b, b.Close, nil
	}
	return nil, nil, fmt.Errorf("hasp has no backend for %q", kind)
}
