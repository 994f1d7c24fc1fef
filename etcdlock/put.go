package etcdlock

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// put adds an entry for c to key's queue; unless c waits, only if the queue is
// empty. The keepalive of the entry's lease, if one is needed, goes beside it;
// kept waits for that.
func (b *Backend) put(ctx context.Context, key string, c backend.Claim, waits bool) (_ *entry, bs bases, kept func() error, err error) {
	if bs, err = b.tokens.known(ctx, key); err != nil {
		return nil, bs, nil, err
	}
	ttl := c.TTL
	if waits {
		ttl = waitTTL(ttl)
	}
	l, err := b.current(ctx, b.slotFor(ttl))
	if err != nil {
		return nil, bs, nil, err
	}
	v := newValue(c, max(l.ttl, inForce(c.TTL)), bs.sum())
	if l.ttl < inForce(c.TTL) {
		v.Wait = l.ttl.Milliseconds()
	}
	e, fence := b.track(key, c, l)
	kept = b.freshening(ctx, l)
	ifs, then, otherwise := b.names.put(e, v, bs, fence, waits)
	resp, err := b.txn(ctx, ifs, then, otherwise)
	switch {
	case is(err, rpctypes.ErrLeaseNotFound):
		b.died(l)
		b.forget(e)
		return nil, bs, nil, errAgain
	case is(err, rpctypes.ErrNoSpace):
		// The put that first exceeds the quota is carried out and refused in
		// one. Deleting is allowed, and since it was answered nothing of it
		// can arrive later.
		said, _ := b.server().describe(ctx, err)
		if _, err := b.deleteByName(ctx, e); err != nil {
			// The deletion may arrive yet: the entry must not be granted.
			b.condemn(e)
			return nil, bs, nil, backend.Unavailable(said)
		}
		b.forget(e)
		return nil, bs, nil, said
	case err != nil:
		if err = b.explain(ctx, err); !errors.Is(err, backend.ErrUnavailable) {
			b.forget(e)
		}
		return nil, bs, nil, err
	case resp.Succeeded:
		b.mu.Lock()
		e.rev, e.mod, e.base = resp.Header.Revision, resp.Header.Revision, bs.sum()
		if waits {
			e.ahead = precedingOf(e, resp.Responses[1].GetResponseRange().Kvs, resp.Header.Revision)
		}
		b.mu.Unlock()
		return e, bs, kept, nil
	}

	if owner := resp.Responses[0].GetResponseRange(); len(owner.Kvs) > 0 && string(owner.Kvs[0].Key) != e.name {
		if v, err := decode(owner.Kvs[0]); err == nil && v.ID == c.ID {
			// An earlier attempt by c holds the key, and nothing is remembered of it.
			b.forget(e)
			if l, err = b.current(ctx, b.slotFor(c.TTL)); err != nil {
				return nil, bs, nil, backend.Unavailable(err)
			}
			b.trackForeign(key, c.ID, l, owner.Kvs[0], v.Base)
			return nil, bs, nil, errAgain
		}
		if !waits {
			b.forget(e)
			return nil, bs, nil, b.heldBy(owner.Kvs[0], owner.Count)
		}
	}
	return nil, bs, nil, b.catchUp(ctx, e)
}

// put is the transaction that puts e under the bases and the fence that are known:
// at the end of the queue if it waits, and else only if nobody is in the queue. It
// reads the two youngest entries if it waits, which are its own and the one before
// it, and the oldest one if it fails. etcd looks at the whole queue for either.
func (n names) put(e *entry, v value, bs bases, fence int64, waits bool) (ifs cmps, then, otherwise ops) {
	queue := n.queue(e.key)
	empty := clientv3.CreateRevision(e.name)
	if !waits {
		// Over an empty range the comparison is made with a key that has create
		// revision 0.
		empty = clientv3.CreateRevision(queue).WithPrefix()
	}
	ifs = append(n.unchanged(e.key, bs), clientv3.Compare(empty, "=", 0), n.unfenced(e.lease, fence))
	then = ops{clientv3.OpPut(e.name, v.encode(), clientv3.WithLease(e.lease.id))}
	if waits {
		then = append(then, clientv3.OpGet(queue, clientv3.WithPrefix(), clientv3.WithLimit(2), clientv3.WithKeysOnly(),
			clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend)))
	}
	return ifs, then, ops{n.owner(e.key)}
}

// catchUp reads what e's put found changed, and returns errAgain. It is not part
// of the put's transaction, where it would make every attempt larger.
func (b *Backend) catchUp(ctx context.Context, e *entry) error {
	resp, err := b.txn(ctx, nil,
		append(b.names.readBases(e.key), clientv3.OpGet(b.names.fence(e.lease)), clientv3.OpGet(e.name)), nil)
	if err != nil {
		return backend.Unavailable(b.explain(ctx, err))
	}
	b.learnFence(e.lease, resp.Responses[2].GetResponseRange().Kvs)
	own := resp.Responses[3].GetResponseRange().Kvs
	there := false
	switch {
	case len(own) == 0:
		b.forget(e)
	case b.repeated(e, own[0]):
		there = true
	default:
		// The name is in use by an entry that another backend has taken over.
		b.forget(e)
		b.mu.Lock()
		b.places.renew()
		b.mu.Unlock()
	}
	if _, err := b.tokens.learn(ctx, e.key, resp.Responses); err != nil {
		if there {
			return backend.Unavailable(err)
		}
		return err
	}
	return errAgain
}

// repeated tells whether e's put has failed because the client library had sent it
// before: it repeats requests whose answer says that they took too long.
func (b *Backend) repeated(e *entry, kv *mvccpb.KeyValue) bool {
	v, err := decode(kv)
	if err != nil || v.ID != e.id {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e.rev, e.base = kv.CreateRevision, v.Base
	e.seenLocked(kv)
	return true
}
