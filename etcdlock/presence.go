package etcdlock

import (
	"context"
	"slices"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A waiter that dies in front of others is in their way until its etcd lease ends.
// So those who wait are on a lease of their own, the backend's presence, which is
// short whatever their TTL. Whose turn comes is granted what that lease has: nothing
// is written when a lock changes hands. The first renewal, which the engine makes at
// once, moves the entry to the lease of its lock, and is also what tells others that
// this waiter has learned of its turn; see backend.Grant.TTL.
//
// Rejected: moving the entry before it is granted, a write in each hand-off, and
// having waiters watch each other's signs of life, a write for each of those.

// presence is the TTL of those who wait, slack not counted: etcd's lease has 10 s.
// Fewer would take a waiter that a slow network or a short pause keeps from its
// keepalives for dead, and it would have to queue again.
const presence = 9 * time.Second

// waitTTL is the TTL of a claim while it waits. Where presence would be hardly less
// than its own, moving the entry is not worth it.
func waitTTL(ttl time.Duration) time.Duration {
	if ttl <= presence+slack {
		return ttl
	}
	return presence
}

// inForce is a claimed TTL in whole seconds, which is what it is at least when it is
// in force.
func inForce(ttl time.Duration) time.Duration {
	return time.Duration(wholeSeconds(ttl)) * time.Second
}

// home returns the lease that e is renewed on: the one that it is on, or one of the
// TTL that was claimed, if that is more.
func (b *Backend) home(ctx context.Context, e *entry) (*lease, error) {
	b.mu.Lock()
	l, to := e.lease, e.moving
	b.mu.Unlock()
	switch {
	case to != nil && !to.isDead():
		// An earlier move may have arrived, or may yet arrive.
		return to, nil
	case l.ttl >= e.want:
		return l, nil
	}
	return b.current(ctx, b.slotFor(e.want))
}

// move puts at most maxOps/2 entries on lease to, and tells of each whether it is
// missing. An entry moves only if it is as it was last seen: a move that arrives late
// must not take it away from the lease that it has been renewed on since.
func (b *Backend) move(ctx context.Context, es []*entry, to *lease) (missing []bool, err error) {
	missing = make([]bool, len(es))
	todo := make([]int, len(es))
	b.mu.Lock()
	for i, e := range es {
		todo[i] = i
		b.headForLocked(e, to)
	}
	b.mu.Unlock()
	for range maxAttempts {
		moves := make(ops, len(todo))
		b.mu.Lock()
		for j, i := range todo {
			e := es[i]
			moves[j] = clientv3.OpTxn(
				cmps{clientv3.Compare(clientv3.ModRevision(e.name), "=", e.mod)},
				ops{clientv3.OpPut(e.name, "", clientv3.WithIgnoreValue(), clientv3.WithLease(to.id))},
				ops{clientv3.OpGet(e.name, clientv3.WithKeysOnly())})
		}
		b.mu.Unlock()
		resp, err := b.txn(ctx, nil, moves, nil)
		if is(err, rpctypes.ErrLeaseNotFound) {
			b.died(to)
			return nil, backend.Unavailable(errLeaseGone)
		}
		if err != nil {
			return nil, b.explain(ctx, err)
		}
		var again []int
		b.mu.Lock()
		for j, i := range todo {
			e := es[i]
			txn := resp.Responses[j].GetResponseTxn()
			if txn.Succeeded {
				e.on, e.mod = to.id, resp.Header.Revision
				b.arrivedLocked(e, to)
				continue
			}
			kvs := txn.Responses[0].GetResponseRange().Kvs
			if len(kvs) == 0 || kvs[0].CreateRevision != e.rev {
				missing[i] = true
				continue
			}
			e.seenLocked(kvs[0])
			if e.on == to.id {
				b.arrivedLocked(e, to) // by an earlier move
			} else {
				again = append(again, i)
			}
		}
		b.mu.Unlock()
		if len(again) == 0 {
			return missing, nil
		}
		todo = again
	}
	return nil, backend.Unavailable(errChanged)
}

// headForLocked notes that e may be on to from here on, besides its own lease.
func (b *Backend) headForLocked(e *entry, to *lease) {
	if e.lease == to || e.moving == to || e.forgotten {
		return
	}
	if e.moving != nil {
		b.leaveLocked(e.moving) // it is dead, and nothing can get on it
	}
	e.moving = to
	to.entries++
}

// arrivedLocked notes that e is on to.
func (b *Backend) arrivedLocked(e *entry, to *lease) {
	if e.moving != to || e.forgotten {
		return
	}
	due := e.due
	b.unscheduleLocked(e)
	b.dismissLocked(e)
	b.leaveLocked(e.lease)
	e.lease, e.moving = to, nil // and so it stays counted there
	if !due.IsZero() {
		b.scheduleLocked(e, due)
	}
}

// removal is the operation that deletes e unless it is on a lease of another
// process, which has taken it over with its grant: then it is not ours to remove.
// If it was to be taken over here, and has not been seen to arrive, it is written
// as it is, so that a move which is still on its way fails.
func removal(e *entry) clientv3.Op {
	on := func(l *lease) cmps {
		return cmps{exists(e.name, e.rev), clientv3.Compare(clientv3.LeaseValue(e.name), "=", l.id)}
	}
	deletion := ops{clientv3.OpDelete(e.name)}
	var otherwise ops
	switch {
	case e.moving != nil:
		otherwise = ops{clientv3.OpTxn(on(e.moving), deletion, nil)}
	case e.foreign && e.on != e.lease.id:
		touch := clientv3.OpPut(e.name, "", clientv3.WithIgnoreValue(), clientv3.WithIgnoreLease())
		otherwise = ops{clientv3.OpTxn(cmps{exists(e.name, e.rev)}, ops{touch}, nil)}
	}
	return clientv3.OpTxn(on(e.lease), deletion, otherwise)
}

// hasDeleted tells whether a removal has found its entry.
func hasDeleted(answers []*etcdserverpb.ResponseOp) bool {
	return slices.ContainsFunc(answers, func(a *etcdserverpb.ResponseOp) bool {
		if txn := a.GetResponseTxn(); txn != nil {
			return hasDeleted(txn.Responses)
		}
		d := a.GetResponseDeleteRange()
		return d != nil && d.Deleted > 0
	})
}
