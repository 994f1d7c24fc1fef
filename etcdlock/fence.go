package etcdlock

import (
	"context"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A put whose answer did not come, because its context was cancelled or the
// connection broke, may still be on its way: it has been seen to arrive after a
// read that found nothing. So an entry of unknown outcome cannot be settled by
// looking, nor by deleting. Each lease has a fence, a key on the lease itself,
// and every put is made under the condition that the fence is as its backend
// knew it. Writing the fence anew makes all earlier puts on that lease fail
// whenever they arrive; what the same transaction reads is then the last word.
// A put in flight for another claim fails too, and is tried again with the new
// fence. The fence is not written before it is first needed.

func (n names) fence(l *lease) string {
	return n.prefix + "fence/" + strconv.FormatInt(int64(l.id), 16)
}

// unfenced holds while l's fence is the one of revision rev; 0: never written.
func (n names) unfenced(l *lease, rev int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(n.fence(l)), "=", rev)
}

// learnFence takes in a fence that was read.
func (b *Backend) learnFence(l *lease, kvs []*mvccpb.KeyValue) {
	if len(kvs) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l.fence = max(l.fence, kvs[0].ModRevision)
}

// settle makes sure of entries whose put was not answered: afterwards each has
// its create revision, or 0 if it is not there and never will be. All of them
// are of one backend, not necessarily of one lease.
func (b *Backend) settle(ctx context.Context, es []*entry) error {
	byLease := map[*lease][]*entry{}
	b.mu.Lock()
	for _, e := range es {
		if e.rev == 0 {
			byLease[e.lease] = append(byLease[e.lease], e)
		}
	}
	b.mu.Unlock()
	for l, es := range byLease {
		ops := []clientv3.Op{clientv3.OpPut(b.names.fence(l), "", clientv3.WithLease(l.id))}
		for _, e := range es {
			ops = append(ops, clientv3.OpGet(e.name, clientv3.WithKeysOnly()))
		}
		resp, err := b.txn(ctx, nil, ops, nil)
		if is(err, rpctypes.ErrLeaseNotFound) {
			b.died(l) // nothing can be put on it any more, and nothing is
			continue
		}
		if err != nil {
			return b.explain(ctx, err)
		}
		b.mu.Lock()
		l.fence = max(l.fence, resp.Header.Revision)
		for i, e := range es {
			if kvs := resp.Responses[i+1].GetResponseRange().Kvs; len(kvs) > 0 {
				e.rev = kvs[0].CreateRevision
				e.seenLocked(kvs[0])
			}
		}
		b.mu.Unlock()
	}
	return nil
}
