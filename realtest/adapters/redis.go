package adapters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// Redis is bsm/redislock. A claim's ID is the library's token, and who holds the lock its
// metadata. A token of the library is text that identifies a lock, and does not
// rise: the fencing token is always 1.
type Redis struct {
	client *redis.Client
	locks  *redislock.Client
	closed atomic.Bool
}

const redisPrefix = "adapters/"

// end ends the claim's ID in the library's token. The library compares as many bytes
// of the value as the new token has, so a token must not be the beginning of another.
const end = "."

// errNoLock says what the library has no function for.
var errNoLock = errors.New("bsm/redislock refreshes a lock only through the Lock that Obtain returned")

// OpenRedis returns a client of the server at addr.
func OpenRedis(addr string) *Redis {
	c := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	return &Redis{client: c, locks: redislock.New(c)}
}

// Acquire is one Obtain.
func (b *Redis) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if b.closed.Load() {
		return backend.Grant{}, backend.ErrClosed
	}
	if err := check(key, c); err != nil {
		return backend.Grant{}, err
	}
	if c.TokenFloor > 0 {
		return backend.Grant{}, errFloor
	}
	n := note{ID: c.ID, Key: key, Holder: c.Holder, TTL: c.TTL}
	for range looks {
		lock, err := b.obtain(ctx, n, c.TTL)
		if err == nil {
			return backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, Token: 1, TTL: c.TTL, State: lock}, nil
		}
		if !errors.Is(err, redislock.ErrNotObtained) {
			return backend.Grant{}, backend.Unavailable(err)
		}
		r, err := b.Inspect(ctx, key)
		if err != nil {
			break // it was refused all the same
		}
		if r.State == backend.Held {
			return backend.Grant{}, backend.RefusedBy(r)
		}
	}
	return backend.Grant{}, backend.RefusedBy(backend.Record{Key: key, State: backend.Held})
}

func (b *Redis) obtain(ctx context.Context, n note, ttl time.Duration) (*redislock.Lock, error) {
	return b.locks.Obtain(ctx, redisPrefix+n.Key, ceil(ttl, time.Millisecond), &redislock.Options{Token: n.ID + end, Metadata: n.String()})
}

// Renew is Refresh.
func (b *Redis) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	if b.closed.Load() {
		return backend.Grant{}, backend.ErrClosed
	}
	lock, ok := g.State.(*redislock.Lock)
	if !ok {
		// Another Obtain with the same token would give a Lock, but it takes a key that is
		// free by now as well, and so would revive what was released.
		if err := b.holds(ctx, g); err != nil {
			return backend.Grant{}, err
		}
		return backend.Grant{}, errNoLock
	}
	err := lock.Refresh(ctx, ceil(g.TTL, time.Millisecond), nil)
	switch {
	case errors.Is(err, redislock.ErrNotObtained):
		return backend.Grant{}, backend.ErrLost
	case err != nil:
		return backend.Grant{}, backend.Unavailable(err)
	}
	return g, nil
}

// Release is the library's. Of a grant without State it obtains the lock once more, which
// the library lets the same token do, and releases that.
func (b *Redis) Release(ctx context.Context, g backend.Grant) error {
	if b.closed.Load() {
		return backend.ErrClosed
	}
	lock, ok := g.State.(*redislock.Lock)
	if !ok {
		err := b.holds(ctx, g)
		if err != nil {
			return err
		}
		// If it has run out since, this takes it for the moment until it is released.
		lock, err = b.obtain(ctx, note{ID: g.ID, Key: g.Key, Holder: g.Holder}, time.Second)
		if errors.Is(err, redislock.ErrNotObtained) {
			return backend.ErrLost
		}
		if err != nil {
			return backend.Unavailable(err)
		}
	}
	err := lock.Release(ctx)
	if errors.Is(err, redislock.ErrLockNotHeld) {
		return backend.ErrLost
	}
	return backend.Unavailable(err)
}

// holds returns ErrLost if g does not hold its key.
func (b *Redis) holds(ctx context.Context, g backend.Grant) error {
	r, err := b.Inspect(ctx, g.Key)
	if err == nil && r.ID != g.ID {
		return backend.ErrLost
	}
	return err
}

// Inspect reads what Obtain has written. The library has nothing for that.
func (b *Redis) Inspect(ctx context.Context, key string) (backend.Record, error) {
	if b.closed.Load() {
		return backend.Record{}, backend.ErrClosed
	}
	if err := backend.ValidateKey(key); err != nil {
		return backend.Record{}, err
	}
	var value *redis.StringCmd
	var left *redis.DurationCmd
	_, err := b.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		value, left = p.Get(ctx, redisPrefix+key), p.PTTL(ctx, redisPrefix+key)
		return nil
	})
	if errors.Is(err, redis.Nil) {
		return backend.Record{Key: key, State: backend.Free}, nil
	}
	if err != nil {
		return backend.Record{}, backend.Unavailable(err)
	}
	id, meta, _ := strings.Cut(value.Val(), end)
	var n note
	if err := json.Unmarshal([]byte(meta), &n); err != nil {
		return backend.Record{}, fmt.Errorf("%w: %s", backend.ErrCorrupt, backend.Text(err))
	}
	return backend.Record{
		Key: key, State: backend.Held, ID: id, Holder: n.Holder, Token: 1, TTL: n.TTL, Remaining: left.Val(),
	}, nil
}

// Close closes the connections.
func (b *Redis) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.client.Close()
}
