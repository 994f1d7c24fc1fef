package etcdlock

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// slack is how much longer than the locks' TTL an etcd lease lives. A lock that
// is acquired or renewed within slack of the lease's last keepalive has its
// whole TTL before it without another one, so that a program which takes and
// releases locks in a loop sends one keepalive a second, not one a lock.
const slack = time.Second

// lease is an etcd lease that all of a backend's entries of one TTL share: a
// hundred thousand held locks cost one keepalive. What sharing must not do is
// to keep an entry alive that nobody renews: see reap.go.
type lease struct {
	id  clientv3.LeaseID
	ttl time.Duration // that of the locks: what etcd granted, less slack

	mu    sync.Mutex
	alive time.Time     // before the last grant or keepalive that succeeded was sent
	busy  chan struct{} // closed when the keepalive under way ends; nil: none
	dead  bool          // etcd does not know it any more

	// Guarded by Backend.mu.
	order   list.List // *entry, those with a due time; the next one due in front
	entries int       // all entries on it, waiters included
	waiters int
	fence   int64       // revision of its fence; see fence.go
	reaper  *time.Timer // for the front of order, or earlier
	reapAt  time.Time   // when it goes off
	armed   int         // how often it was set
	keeper  *time.Timer // while there are waiters
}

// slot is the place of the lease for locks of one TTL; leases that died are
// replaced in it.
type slot struct {
	secs int64
	// making is a mutex that can be waited for under a context: one lease is
	// granted at a time.
	making chan struct{}

	lease *lease // guarded by Backend.mu
}

func (l *lease) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *lease) stopTimers() {
	if l.reaper != nil {
		l.reaper.Stop()
	}
	if l.keeper != nil {
		l.keeper.Stop()
	}
}

// between is the larger of monotonic and wall-clock time from one moment to
// another: the monotonic clock stands still while the machine is suspended, and
// etcd's does not.
func between(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

// wholeSeconds rounds a TTL up to what etcd's leases can express.
func wholeSeconds(d time.Duration) int64 {
	secs := int64(d / time.Second)
	if d%time.Second != 0 {
		secs++
	}
	return secs
}

func (b *Backend) slotFor(ttl time.Duration) *slot {
	secs := wholeSeconds(ttl)
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slots[secs]
	if s == nil {
		s = &slot{secs: secs, making: make(chan struct{}, 1)}
		b.slots[secs] = s
	}
	return s
}

// grantTimeout bounds the making of a lease, and maxOrphans how many of unknown
// outcome are revoked at Close; more of them end with their TTL.
const (
	grantTimeout = 10 * time.Second
	maxOrphans   = 64
)

// current returns s's lease, having one made if there is none that can be alive.
// It is made under a context of its own: a caller that gives up while it is under
// way would leave a lease that nobody knows of.
func (b *Backend) current(ctx context.Context, s *slot) (*lease, error) {
	if l := b.usable(s); l != nil {
		return l, nil
	}
	select {
	case s.making <- struct{}{}:
	case <-ctx.Done():
		return nil, b.explain(ctx, ctx.Err())
	}
	if l := b.usable(s); l != nil {
		<-s.making
		return l, nil
	}
	type made struct {
		l   *lease
		err error
	}
	done := make(chan made, 1)
	if !b.spawn(func() {
		defer func() { <-s.making }()
		l, err := b.makeLease(s)
		done <- made{l, err}
	}) {
		<-s.making
		return nil, backend.ErrClosed
	}
	select {
	case m := <-done:
		return m.l, m.err
	case <-ctx.Done():
		return nil, b.explain(ctx, ctx.Err())
	}
}

func (b *Backend) makeLease(s *slot) (*lease, error) {
	ctx, cancel := context.WithTimeout(b.ctx, grantTimeout)
	defer cancel()
	// The ID is chosen here, so that the lease can be revoked if the answer is
	// lost.
	id := rand.Int64N(math.MaxInt64) + 1
	start := time.Now()
	var resp *etcdserverpb.LeaseGrantResponse
	err := b.withLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = etcdserverpb.NewLeaseClient(b.client.ActiveConnection()).
			LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: id, TTL: s.secs + int64(slack/time.Second)})
		return err
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		said, unknown := b.server().describe(ctx, err)
		if unknown && len(b.orphans) < maxOrphans {
			b.orphans = append(b.orphans, clientv3.LeaseID(id))
		}
		if unknown && !is(err, rpctypes.ErrNoSpace) {
			// No lock depends on it, but the store cannot be relied on now.
			said = backend.Unavailable(said)
		}
		return nil, said
	}
	l := &lease{id: clientv3.LeaseID(id), ttl: time.Duration(resp.TTL)*time.Second - slack, alive: start}
	if old := s.lease; old != nil && old.entries == 0 {
		delete(b.leases, old)
	}
	s.lease = l
	b.leases[l] = s
	return l, nil
}

func (b *Backend) usable(s *slot) *lease {
	b.mu.Lock()
	l := s.lease
	b.mu.Unlock()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || between(l.alive, time.Now()) > l.ttl+slack {
		return nil
	}
	return l
}

var errLeaseGone = errors.New("the etcd lease has expired or was revoked")

// freshen makes sure that l lives for its TTL from now on. Callers that come
// while a keepalive is under way share it. errLeaseGone means that etcd does not
// know the lease; only looking at an entry tells whether that is lost too.
func (b *Backend) freshen(ctx context.Context, l *lease) error {
	from := time.Now()
	for {
		l.mu.Lock()
		switch busy := l.busy; {
		case l.dead:
			l.mu.Unlock()
			return errLeaseGone
		case between(l.alive, from) <= slack:
			l.mu.Unlock()
			return nil
		case busy != nil:
			l.mu.Unlock()
			select {
			case <-busy:
				continue
			case <-ctx.Done():
				return b.explain(ctx, ctx.Err())
			}
		}
		busy := make(chan struct{})
		l.busy = busy
		l.mu.Unlock()

		start := time.Now()
		ttl, err := b.keepalives.send(ctx, l.id)
		full := int64((l.ttl + slack) / time.Second)
		renewed := err == nil && ttl >= full

		l.mu.Lock()
		l.busy = nil
		close(busy)
		if renewed {
			l.alive = start
		}
		l.mu.Unlock()
		switch {
		case err != nil:
			return b.explain(ctx, err)
		case ttl <= 0:
			b.died(l)
			return errLeaseGone
		case !renewed:
			// A proxy may answer with what is left since a keepalive of its own.
			return backend.Unavailable(fmt.Errorf("etcd at %s answered a keepalive with %d s of a lease of %d s: it was not renewed (is a proxy in between?)",
				strings.Join(b.client.Endpoints(), ", "), ttl, full))
		}
		return nil
	}
}

// freshening starts a freshen beside what its caller does meanwhile and returns
// a function that waits for it.
func (b *Backend) freshening(ctx context.Context, l *lease) (wait func() error) {
	l.mu.Lock()
	fresh := !l.dead && between(l.alive, time.Now()) <= slack
	l.mu.Unlock()
	if fresh {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- b.freshen(ctx, l) }()
	return func() error { return <-done }
}

// died notes that etcd does not know l any more. Waiters on it queue again. What
// became of held entries is not concluded from this; see Renew.
func (b *Backend) died(l *lease) {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		if e.lease == l && e.waiter != nil {
			e.waiter.signal()
		}
	}
}

// keepLocked keeps l alive while entries wait on it: the engine sends heartbeats
// for locks only. It is called with b.mu held.
func (b *Backend) keepLocked(l *lease, after time.Duration) {
	if b.closed || l.waiters == 0 || l.keeper != nil {
		return
	}
	l.keeper = time.AfterFunc(after, func() {
		b.spawn(func() {
			ctx, cancel := context.WithTimeout(b.ctx, l.ttl/3)
			err := b.freshen(ctx, l)
			cancel()
			next := l.ttl / 3
			if err != nil {
				next = max(l.ttl/10, 100*time.Millisecond)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			l.keeper = nil
			if !errors.Is(err, errLeaseGone) {
				b.keepLocked(l, next)
			}
		})
	})
}

// revokeIdle revokes the leases that nothing is attached to. etcd is asked where
// entries are remembered: another backend may have taken over their grants.
func (b *Backend) revokeIdle(ctx context.Context) {
	b.mu.Lock()
	used := map[*lease]bool{}
	for l := range b.leases {
		used[l] = l.entries > 0
	}
	orphans := b.orphans
	b.mu.Unlock()
	for _, id := range orphans {
		// most of them were never granted
		_, _ = b.client.Revoke(ctx, id)
	}
	for l, used := range used {
		if used {
			resp, err := b.client.TimeToLive(ctx, l.id, clientv3.WithAttachedKeys())
			fence := b.names.fence(l)
			if err != nil || slices.ContainsFunc(resp.Keys, func(k []byte) bool { return string(k) != fence }) {
				continue
			}
		}
		// what cannot be revoked ends with its TTL
		_, _ = b.client.Revoke(ctx, l.id)
	}
}
