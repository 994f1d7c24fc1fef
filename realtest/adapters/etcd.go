package adapters

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"github.com/hasplock/hasp/backend"
)

// Etcd is the Mutex of etcd's concurrency package. Each claim has a session of its own, for a
// session may lock the same Mutex twice. The session is orphaned at once: hasp renews,
// or does not, and a holder that says nothing is to be found dead. The fencing token is
// the revision at which the Mutex's key was created.
//
// A Mutex's key is empty. So who holds it is written beside, under the same lease and the claim's ID.
type Etcd struct {
	client *clientv3.Client
	closed atomic.Bool
}

const (
	mutexPrefix = "adapters/mutex/"
	claimPrefix = "adapters/claim/"
)

// OpenEtcd returns a client of the server at endpoint.
func OpenEtcd(endpoint string) (*Etcd, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	return &Etcd{client: c}, nil
}

// held is a grant's State.
type held struct {
	mu    sync.Mutex // a Mutex is not for several goroutines at once
	mutex *concurrency.Mutex
	lease clientv3.LeaseID
	lost  bool // it was no longer held when it was unlocked, which Unlock tells nobody
}

// Acquire makes a session and tries to lock.
func (b *Etcd) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if b.closed.Load() {
		return backend.Grant{}, backend.ErrClosed
	}
	if err := check(key, c); err != nil {
		return backend.Grant{}, err
	}
	ttl := ceil(c.TTL, time.Second) // leases have whole seconds
	for range looks {
		s, err := b.session(ctx, key, c, ttl)
		if errors.Is(err, rpctypes.ErrLeaseTTLTooLarge) {
			return backend.Grant{}, err
		}
		if err != nil {
			return backend.Grant{}, backend.Unavailable(err)
		}
		m := concurrency.NewMutex(s, mutexPrefix+key)
		err = m.TryLock(ctx)
		if err == nil {
			g := backend.Grant{
				Key: key, ID: c.ID, Holder: c.Holder, Token: token(m), TTL: ttl,
				State: &held{mutex: m, lease: s.Lease()},
			}
			if g.Token > c.TokenFloor {
				return g, nil
			}
			if err := b.Release(ctx, g); err != nil {
				return backend.Grant{}, backend.Unavailable(err)
			}
			return backend.Grant{}, errFloor
		}
		if !errors.Is(err, concurrency.ErrLocked) {
			return backend.Grant{}, backend.Unavailable(err)
		}
		// TryLock has taken back its own key. If this fails the lease ends by itself.
		_, _ = b.client.Revoke(ctx, s.Lease())
		r, err := b.Inspect(ctx, key)
		if err != nil {
			break // it was refused all the same
		}
		if r.State == backend.Held {
			// The server counts what is left in whole seconds, and not the one that has begun.
			return backend.Grant{}, &backend.HeldError{Record: r, RetryAfter: r.Remaining + time.Second}
		}
	}
	return backend.Grant{}, backend.RefusedBy(backend.Record{Key: key, State: backend.Held})
}

// session is the claim's: the one that an earlier attempt made, or a new one. Its
// context is the attempt's, which ends; the lease does not.
func (b *Etcd) session(ctx context.Context, key string, c backend.Claim, ttl time.Duration) (*concurrency.Session, error) {
	lease, err := b.leaseOf(ctx, key, c.ID)
	if err == nil {
		_, err = b.client.KeepAliveOnce(ctx, lease)
	}
	options := []concurrency.SessionOption{concurrency.WithContext(ctx)}
	switch {
	case err == nil:
		options = append(options, concurrency.WithLease(lease))
	case errors.Is(err, backend.ErrLost) || errors.Is(err, rpctypes.ErrLeaseNotFound):
		lease = clientv3.NoLease
		options = append(options, concurrency.WithTTL(int(ttl/time.Second)))
	default:
		return nil, err
	}
	s, err := concurrency.NewSession(b.client, options...)
	if err != nil {
		return nil, err
	}
	s.Orphan()
	if lease == clientv3.NoLease {
		n := note{ID: c.ID, Key: key, Holder: c.Holder, TTL: ttl}
		_, err = b.client.Put(ctx, claimPrefix+c.ID, n.String(), clientv3.WithLease(s.Lease()))
	}
	return s, err
}

// token is the revision at which m's key was created.
func token(m *concurrency.Mutex) uint64 {
	is := m.IsOwner()
	return uint64(is.GetCompare().GetCreateRevision())
}

// leaseOf finds the lease of a claim for key; the error matches ErrLost if there is none.
func (b *Etcd) leaseOf(ctx context.Context, key, id string) (clientv3.LeaseID, error) {
	resp, err := b.client.Get(ctx, claimPrefix+id)
	if err != nil {
		return 0, backend.Unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return 0, backend.ErrLost
	}
	var n note
	if err := json.Unmarshal(resp.Kvs[0].Value, &n); err != nil {
		return 0, fmt.Errorf("%w: %s", backend.ErrCorrupt, backend.Text(err))
	}
	if n.Key != key {
		return 0, backend.ErrLost
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease), nil
}

// Renew keeps the session's lease alive once.
func (b *Etcd) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	if b.closed.Load() {
		return backend.Grant{}, backend.ErrClosed
	}
	lease, err := b.lease(ctx, g)
	if err != nil {
		return backend.Grant{}, err
	}
	_, err = b.client.KeepAliveOnce(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return backend.Grant{}, backend.ErrLost
	}
	return g, backend.Unavailable(err)
}

func (b *Etcd) lease(ctx context.Context, g backend.Grant) (clientv3.LeaseID, error) {
	if h, ok := g.State.(*held); ok {
		return h.lease, nil
	}
	return b.leaseOf(ctx, g.Key, g.ID)
}

// Release unlocks, and ends the session's lease. Unlock does not tell whether the lock
// was still held; the lease does.
func (b *Etcd) Release(ctx context.Context, g backend.Grant) error {
	if b.closed.Load() {
		return backend.ErrClosed
	}
	lease, err := b.lease(ctx, g)
	if err != nil {
		return err
	}
	h, ok := g.State.(*held)
	if !ok {
		h = &held{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mutex != nil {
		err = h.mutex.Unlock(ctx)
		switch {
		case errors.Is(err, concurrency.ErrLockReleased) && h.lost:
			return backend.ErrLost
		case errors.Is(err, concurrency.ErrLockReleased):
			return b.releasedBefore(ctx, g.Key)
		case err != nil:
			return backend.Unavailable(err)
		}
	}
	_, err = b.client.Revoke(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		h.lost = true
		return backend.ErrLost
	}
	return backend.Unavailable(err)
}

// releasedBefore is the answer to a second Release: nil unless another has the key.
func (b *Etcd) releasedBefore(ctx context.Context, key string) error {
	r, err := b.Inspect(ctx, key)
	if err == nil && r.State == backend.Held {
		return backend.ErrLost
	}
	return err
}

// Inspect looks for the Mutex's oldest key, and at the lease that it is under.
func (b *Etcd) Inspect(ctx context.Context, key string) (backend.Record, error) {
	if b.closed.Load() {
		return backend.Record{}, backend.ErrClosed
	}
	if err := backend.ValidateKey(key); err != nil {
		return backend.Record{}, err
	}
	for range looks {
		resp, err := b.client.Get(ctx, mutexPrefix+key+"/", clientv3.WithFirstCreate()...)
		if err != nil {
			return backend.Record{}, backend.Unavailable(err)
		}
		if len(resp.Kvs) == 0 {
			break
		}
		owner := resp.Kvs[0]
		r := backend.Record{Key: key, State: backend.Held, Token: uint64(owner.CreateRevision)}
		live, err := b.describe(ctx, clientv3.LeaseID(owner.Lease), &r)
		if err != nil {
			return backend.Record{}, err
		}
		if live {
			return r, nil
		}
	}
	return backend.Record{Key: key, State: backend.Free}, nil
}

// describe adds what is known of the holder; false means that it holds no more.
func (b *Etcd) describe(ctx context.Context, lease clientv3.LeaseID, r *backend.Record) (bool, error) {
	live, err := b.client.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
	if err != nil {
		return false, backend.Unavailable(err)
	}
	if live.TTL < 0 {
		return false, nil
	}
	r.TTL, r.Remaining = time.Duration(live.GrantedTTL)*time.Second, time.Duration(live.TTL)*time.Second
	for _, k := range live.Keys {
		id, ok := strings.CutPrefix(string(k), claimPrefix)
		if !ok {
			continue
		}
		resp, err := b.client.Get(ctx, string(k))
		if err != nil {
			return false, backend.Unavailable(err)
		}
		if len(resp.Kvs) == 0 {
			return false, nil
		}
		var n note
		if err := json.Unmarshal(resp.Kvs[0].Value, &n); err != nil {
			return false, fmt.Errorf("%w: %s", backend.ErrCorrupt, backend.Text(err))
		}
		r.ID, r.Holder = id, n.Holder
	}
	return true, nil
}

// Close closes the connections.
func (b *Etcd) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.client.Close()
}
