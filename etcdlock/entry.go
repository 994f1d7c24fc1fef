package etcdlock

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type entryState int

const (
	// pending: a put was sent, and what became of it is not known, or it has
	// not been answered to the caller yet.
	pending entryState = iota
	// waiting: in the queue, with a waiter.
	waiting
	// held: granted.
	held
	// expired: it was not renewed within its TTL and is being removed.
	expired
)

// entry is what a backend remembers of each etcd key that it may have put: as
// long as it is remembered it is renewed, or removed, or known to be gone.
// Otherwise the keepalives of a shared lease could keep it for good. All fields
// are guarded by Backend.mu; those above lease do not change.
type entry struct {
	key, id, name string
	want          time.Duration // the TTL that was claimed, in whole seconds

	lease     *lease           // the one that it is on, as far as is known
	moving    *lease           // another that it may be on by now; see presence.go
	on        clientv3.LeaseID // the one that it was last seen on
	mod       int64            // its modification revision then
	state     entryState
	forgotten bool      // its etcd key is known to be gone
	foreign   bool      // put by another backend; its name is not this one's
	leaving   bool      // given up by its claimant: a Release has been sent
	inTime    bool      // … before it ran out
	freed     bool      // its etcd key was there, and this backend has deleted it
	watched   bool      // see loss.go
	since     time.Time // when it was granted
	rev       int64     // create revision; 0 while unknown
	base      uint64    // the one in the entry's value
	token     uint64    // 0 until held
	waiter    *waiter
	ahead     *preceding // what the put found, until it is used
	due       time.Time  // when it is to be removed; zero: never
	place     place
}

// state of a grant: enough to compare and to find the entry again.
type grantState struct {
	name string
	rev  int64
}

// ident is what entries are looked up by.
type ident struct{ key, id string }

func (e *entry) ident() ident { return ident{e.key, e.id} }

func (b *Backend) tracked(key, id string) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[ident{key, id}]
}

// track starts to remember an entry, before it is put under the fence returned.
func (b *Backend) track(key string, c backend.Claim, l *lease) (e *entry, fence int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := b.places.name(b.names.queue(key), func(name string) bool { return b.byName[name] != nil })
	return b.trackLocked(key, c.ID, name, inForce(c.TTL), l), l.fence
}

// trackForeign remembers an entry that another backend has put, for the claim
// with the ID in its value. It is to be moved to l.
func (b *Backend) trackForeign(key, id string, l *lease, kv *mvccpb.KeyValue, base uint64) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.trackLocked(key, id, string(kv.Key), l.ttl, l)
	e.foreign, e.rev, e.base = true, kv.CreateRevision, base
	e.seenLocked(kv)
	return e
}

func (b *Backend) trackLocked(key, id, name string, want time.Duration, l *lease) *entry {
	e := &entry{key: key, id: id, name: name, want: want, lease: l, on: l.id}
	b.entries[e.ident()] = e
	b.byName[name] = e
	l.entries++
	b.scheduleLocked(e, time.Now().Add(l.ttl))
	return e
}

// forget ends b's care for e: its etcd key is known to be gone.
func (b *Backend) forget(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked(e)
}

func (b *Backend) forgetLocked(e *entry) {
	if e.forgotten {
		return
	}
	e.forgotten = true
	delete(b.entries, e.ident())
	if b.byName[e.name] == e {
		delete(b.byName, e.name)
	}
	b.unscheduleLocked(e)
	b.loss.unwatchLocked(e)
	b.dismissLocked(e)
	b.leaveLocked(e.lease)
	if e.moving != nil {
		b.leaveLocked(e.moving)
		e.moving = nil
	}
}

// seenLocked takes in what a read has found of e.
func (e *entry) seenLocked(kv *mvccpb.KeyValue) {
	e.on, e.mod = clientv3.LeaseID(kv.Lease), kv.ModRevision
}

// dismissLocked notes that nobody waits with e any more.
func (b *Backend) dismissLocked(e *entry) {
	if e.waiter != nil {
		e.waiter = nil
		e.lease.waiters--
	}
}

// leaveLocked notes that l has an entry less.
func (b *Backend) leaveLocked(l *lease) {
	l.entries--
	if s := b.leases[l]; l.entries == 0 && s != nil && s.lease != l {
		delete(b.leases, l)
	}
}

// granted notes that e holds its key as of now.
func (b *Backend) granted(e *entry, c backend.Claim, token uint64) (backend.Grant, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.forgotten || e.state == expired {
		return backend.Grant{}, errAgain // the call took longer than the TTL
	}
	e.state, e.token, e.since = held, token, time.Now()
	b.scheduleLocked(e, time.Now().Add(e.lease.ttl))
	b.loss.addLocked(b, e)
	return backend.Grant{
		Key: e.key, ID: e.id, Holder: c.Holder, Token: token, TTL: e.lease.ttl,
		State: grantState{name: e.name, rev: e.rev},
	}, nil
}

// exists holds while the entry that was put at rev is there. A create revision
// belongs to one put, so nobody else's entry satisfies it.
func exists(name string, rev int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(name), "=", rev)
}

// maxOps is how many comparisons or operations go into one transaction: etcd's
// default --max-txn-ops.
const maxOps = 128

// remove deletes entries and forgets them. After an error it can be repeated.
func (b *Backend) remove(ctx context.Context, es []*entry) error {
	// half, because each is compared twice
	for len(es) > 0 {
		n := min(len(es), maxOps/2)
		if err := b.removeSome(ctx, es[:n]); err != nil {
			return err
		}
		es = es[n:]
	}
	return nil
}

func (b *Backend) removeSome(ctx context.Context, es []*entry) error {
	if err := b.settle(ctx, es); err != nil {
		return err
	}
	var ops []clientv3.Op
	var there []*entry
	b.mu.Lock()
	for _, e := range es {
		if e.rev == 0 {
			continue // it is not there
		}
		ops = append(ops, removal(e))
		there = append(there, e)
	}
	b.mu.Unlock()
	var resp *clientv3.TxnResponse
	if len(ops) > 0 {
		var err error
		if resp, err = b.txn(ctx, nil, ops, nil); err != nil {
			return b.explain(ctx, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, e := range there {
		e.freed = e.freed || hasDeleted(resp.Responses[i].GetResponseTxn().Responses)
	}
	for _, e := range es {
		if e.inTime {
			b.released.add(e.ident())
		}
		b.forgetLocked(e)
	}
	return nil
}
