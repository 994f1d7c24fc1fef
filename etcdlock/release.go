package etcdlock

import (
	"context"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Release implements [backend.Backend].
func (b *Backend) Release(ctx context.Context, g backend.Grant) error {
	const op = "release"
	if err := backend.ValidateKey(g.Key); err != nil {
		return b.fail(op, g.Key, err)
	}
	if err := b.enter(op, g.Key); err != nil {
		return err
	}
	b.mu.Lock()
	e := b.entries[ident{g.Key, g.ID}]
	var before bool // a Release was sent in time
	var state entryState
	var d deletion
	if e != nil {
		before, state = e.inTime, e.state
		d = deletion{e.name, e.rev, e.on}
		if e.moving != nil {
			d.on = 0 // one of two
		}
		// OnLoss has nothing to say about what its holder gives up
		e.leaving = true
		// One that comes later frees nothing, and must not be taken for one that has.
		e.inTime = e.inTime || state != expired
	}
	b.mu.Unlock()

	var freed bool
	var err error
	switch {
	case e != nil && d.rev != 0 && state == held:
		if freed, err = b.deleteExact(ctx, d); is(err, rpctypes.ErrNoSpace) && b.own(e) {
			// Old versions that are full refuse every transaction, and delete keys.
			freed, err = b.deleteByName(ctx, e)
		}
		err = b.explain(ctx, err)
	case e != nil:
		// It waits, ran out, or was never answered; see fence.go.
		err = b.remove(ctx, []*entry{e})
		b.mu.Lock()
		freed = err == nil && e.rev != 0 && state != expired
		b.mu.Unlock()
	default:
		freed, err = b.deleteByID(ctx, g)
	}
	if err != nil {
		if e != nil {
			// Nobody may ever ask again, and the shared lease would keep the
			// entry: it is the backend's to remove now.
			b.condemnLater(e)
		}
		return b.fail(op, g.Key, err)
	}
	b.mu.Lock()
	known := b.released.has(ident{g.Key, g.ID})
	// An earlier Release may have done it, and its answer was lost; or this backend
	// has removed the entry while this call was under way.
	if e != nil {
		e.freed = e.freed || freed
		freed = freed || before || state == held && e.freed
	}
	if freed {
		b.released.add(ident{g.Key, g.ID})
	}
	if e != nil {
		b.forgetLocked(e)
	}
	b.mu.Unlock()
	if freed {
		return nil
	}
	resp, err := b.get(ctx, b.names.queue(g.Key), clientv3.WithFirstCreate()...)
	switch {
	case err != nil:
		return b.fail(op, g.Key, b.explain(ctx, err))
	case len(resp.Kvs) > 0:
		return b.fail(op, g.Key, fmt.Errorf("%w: %w", backend.ErrLost, b.heldBy(resp.Kvs[0], resp.Count)))
	case known:
		return nil
	}
	return b.fail(op, g.Key, errGone)
}

// deletion is what a deletion is of: the entry that was put at rev, last seen on a
// lease; 0: not known.
type deletion struct {
	name string
	rev  int64
	on   clientv3.LeaseID
}

// deleteExact frees an entry, whichever backend's lease it is on. Its name may be in
// use again when the request arrives: for a claim of this backend that came when the
// entry had been removed by something else than this request. So the deletion is under
// the condition that the entry is the one that was put at that revision, which neither
// a move to another lease nor a new base changes.
//
// A deletion that the client library has sent twice, and that found nothing the second
// time, has freed the entry the first time: it comes at once, while the lock is in
// force. That it was not is known if the lease has ended, which takes the lock's TTL.
func (b *Backend) deleteExact(ctx context.Context, d deletion) (freed bool, err error) {
	txn, repeated, err := b.txnOnce(ctx, cmps{exists(d.name, d.rev)}, ops{clientv3.OpDelete(d.name)}, nil)
	switch {
	case err != nil:
		return false, err
	case txn.Succeeded || !repeated:
		return txn.Succeeded, nil
	case d.on == 0:
		return true, nil
	}
	ttl, err := b.client.TimeToLive(clientv3.WithRequireLeader(ctx), d.on)
	if err != nil {
		return false, err
	}
	return ttl.TTL > 0, nil
}

// deleteByName deletes what this backend may have put for e, when no transaction can
// tell it from something else. It may arrive late, when it is no longer expected, and
// must find nothing else then: all names are given up before it is sent.
func (b *Backend) deleteByName(ctx context.Context, e *entry) (freed bool, err error) {
	b.mu.Lock()
	mine := b.byName[e.name] == e
	b.places.renew()
	b.mu.Unlock()
	if !mine {
		return false, nil // it is known to be gone
	}
	resp, err := b.delete(ctx, e.name)
	if err != nil {
		return false, err
	}
	return resp.Deleted > 0, nil
}

// own tells whether e was put by this backend.
func (b *Backend) own(e *entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !e.foreign
}

// deleteByID frees what the claim g.ID holds, which another backend has put.
func (b *Backend) deleteByID(ctx context.Context, g backend.Grant) (freed bool, err error) {
	resp, err := b.get(ctx, b.names.queue(g.Key), clientv3.WithPrefix())
	if err != nil {
		return false, b.explain(ctx, err)
	}
	for _, kv := range resp.Kvs {
		if v, err := decode(kv); err != nil || v.ID != g.ID {
			continue
		}
		deleted, err := b.deleteExact(ctx, deletion{string(kv.Key), kv.CreateRevision, clientv3.LeaseID(kv.Lease)})
		if err != nil {
			return false, b.explain(ctx, err)
		}
		freed = freed || deleted
	}
	return freed, nil
}

// condemnLater leaves a little time for a repeated Release before the reaper
// does its work.
func (b *Backend) condemnLater(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !e.forgotten {
		e.state = expired
		b.scheduleLocked(e, time.Now().Add(reapPause))
	}
}

// Break implements [backend.Breaker].
func (b *Backend) Break(ctx context.Context, key string, token uint64) error {
	const op = "break"
	if err := backend.ValidateKey(key); err != nil {
		return b.fail(op, key, err)
	}
	if err := b.enter(op, key); err != nil {
		return err
	}
	var sent int64 // the entry whose deletion the client library has sent twice
	for {
		resp, err := b.get(ctx, b.names.queue(key), clientv3.WithFirstCreate()...)
		if err != nil {
			return b.fail(op, key, b.explain(ctx, err))
		}
		if sent != 0 && (len(resp.Kvs) == 0 || resp.Kvs[0].CreateRevision != sent) {
			return nil
		}
		if len(resp.Kvs) == 0 {
			return b.fail(op, key, backend.ErrNotHeld)
		}
		kv := resp.Kvs[0]
		rec, err := b.record(kv, resp.Count-1)
		if err != nil {
			return b.fail(op, key, err)
		}
		if rec.Token != token {
			return &backend.HeldError{Record: rec}
		}
		// The modification revision, because a new base changes the token.
		txn, repeated, err := b.txnOnce(ctx, cmps{clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)},
			ops{clientv3.OpDelete(string(kv.Key))}, nil)
		if err != nil {
			return b.fail(op, key, b.explain(ctx, err))
		}
		if txn.Succeeded {
			return nil
		}
		if repeated {
			sent = kv.CreateRevision
		}
	}
}

// released remembers the claims that this backend freed last, so that a Release
// which is repeated because its answer was lost is no error.
type released struct {
	idents map[ident]struct{}
	ring   []ident
	next   int
}

const releasedSize = 1024

func (r *released) add(x ident) {
	if r.idents == nil {
		r.idents = map[ident]struct{}{}
	}
	if _, ok := r.idents[x]; ok {
		return
	}
	if len(r.ring) < releasedSize {
		r.ring = append(r.ring, x)
	} else {
		delete(r.idents, r.ring[r.next])
		r.ring[r.next] = x
		r.next = (r.next + 1) % releasedSize
	}
	r.idents[x] = struct{}{}
}

func (r *released) has(x ident) bool {
	_, ok := r.idents[x]
	return ok
}
