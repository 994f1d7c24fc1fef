package etcdlock

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// put adds an entry for c to key's queue; unless c waits, only if the queue is
// empty. The keepalive of the entry's lease, if one is needed, goes beside it;
// kept waits for that.
func (b *Backend) put(ctx context.Context, key string, c backend.Claim, waits bool) (_ *entry, bs bases, kept func() error, err error) {
	if bs, err = b.knownBases(ctx, key); err != nil {
		return nil, bs, nil, err
	}
	l, err := b.current(ctx, b.slotFor(c.TTL))
	if err != nil {
		return nil, bs, nil, err
	}
	v := newValue(c, l.ttl, bs.sum())
	e, fence := b.track(key, c.ID, l)
	kept = b.freshening(ctx, l)
	resp, err := b.send(ctx, b.names.put(e, v, bs, fence, waits))
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
		if _, err := b.delete(ctx, e.name); err != nil {
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
		e.rev, e.base = resp.Header.Revision, bs.sum()
		if waits {
			e.ahead = precedingOf(e, resp.Responses[1].GetResponseRange().Kvs, resp.Header.Revision)
		}
		b.mu.Unlock()
		return e, bs, kept, nil
	}

	b.forget(e)
	if owner := resp.Responses[0].GetResponseRange(); len(owner.Kvs) > 0 {
		if v, err := decode(owner.Kvs[0]); err == nil && v.ID == c.ID {
			// An earlier attempt by c holds the key, and nothing is remembered of it.
			b.trackForeign(key, c.ID, l, owner.Kvs[0], v.Base)
			return nil, bs, nil, errAgain
		}
		if !waits {
			return nil, bs, nil, b.heldBy(owner.Kvs[0], owner.Count)
		}
	}
	return nil, bs, nil, b.catchUp(ctx, e)
}

// put is the transaction that puts e under the bases and the fence that are known:
// at the end of the queue if it waits, and else only if nobody is in the queue. It
// reads the two youngest entries if it waits, which are its own and the one before
// it, and the oldest one if it fails. etcd looks at the whole queue for either.
//
// It is put together by hand because the client library copies its operations and
// comparisons several times on their way, which took a tenth of the time that an
// acquire spends in this process.
func (n names) put(e *entry, v value, bs bases, fence int64, waits bool) *etcdserverpb.TxnRequest {
	queue, end := n.queueRange(e.key)
	empty := createdAt(e.name, 0)
	if !waits {
		// Over an empty range the comparison is made with a key that has create
		// revision 0.
		empty.Key, empty.RangeEnd = queue, end
	}
	compare := append(n.unchanged(e.key, bs), empty, n.unfenced(e.lease, fence))
	then := append(make([]*etcdserverpb.RequestOp, 0, 2), &etcdserverpb.RequestOp{
		Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{
			Key: []byte(e.name), Value: v.encode(), Lease: int64(e.lease.id),
		}},
	})
	if waits {
		then = append(then, read(&etcdserverpb.RangeRequest{
			Key: queue, RangeEnd: end, Limit: 2, KeysOnly: true,
			SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_DESCEND,
		}))
	}
	oldest := read(&etcdserverpb.RangeRequest{
		Key: queue, RangeEnd: end, Limit: 1,
		SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_ASCEND,
	})
	return &etcdserverpb.TxnRequest{Compare: compare, Success: then, Failure: []*etcdserverpb.RequestOp{oldest}}
}
