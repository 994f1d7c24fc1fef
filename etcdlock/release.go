package etcdlock

import (
	"context"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
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
	var leaving, ours, foreign bool
	if e != nil {
		leaving = e.leaving
		foreign = e.foreign && e.state == held
		ours = !e.foreign && e.rev != 0 && e.state == held
		// OnLoss has nothing to say about what its holder gives up
		e.leaving = true
	}
	b.mu.Unlock()

	var freed bool
	var err error
	switch {
	case ours:
		freed, err = b.deleteByName(ctx, e)
	case foreign:
		freed, err = b.deleteExact(ctx, e.name, e.rev)
	case e != nil:
		// It waits, ran out, or was never answered; see fence.go.
		err = b.remove(ctx, []*entry{e})
		freed = err == nil && e.rev != 0 && e.state != expired
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
	// An earlier Release may have done it, and its answer was lost.
	freed = freed || leaving
	known := b.released.has(ident{g.Key, g.ID})
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

// deleteByName frees an entry that this backend has put. It deletes without a
// condition, which is faster than a transaction that compares: nobody else puts
// under the name, and if the deletion might arrive late the name is not used
// again.
func (b *Backend) deleteByName(ctx context.Context, e *entry) (freed bool, err error) {
	resp, err := b.delete(ctx, e.name)
	if err != nil {
		b.mu.Lock()
		b.places.renew()
		b.mu.Unlock()
		return false, b.explain(ctx, err)
	}
	return resp.Deleted > 0, nil
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
		deleted, err := b.deleteExact(ctx, string(kv.Key), kv.CreateRevision)
		if err != nil {
			return false, err
		}
		freed = freed || deleted
	}
	return freed, nil
}

// deleteExact frees the entry that was put at rev, whichever backend's lease it is on.
func (b *Backend) deleteExact(ctx context.Context, name string, rev int64) (freed bool, err error) {
	txn, err := b.txn(ctx, cmps{exists(name, rev)}, ops{clientv3.OpDelete(name)}, nil)
	if err != nil {
		return false, b.explain(ctx, err)
	}
	return txn.Succeeded, nil
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
	for {
		resp, err := b.get(ctx, b.names.queue(key), clientv3.WithFirstCreate()...)
		if err != nil {
			return b.fail(op, key, b.explain(ctx, err))
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
		txn, err := b.txn(ctx, cmps{clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)},
			ops{clientv3.OpDelete(string(kv.Key))}, nil)
		if err != nil {
			return b.fail(op, key, b.explain(ctx, err))
		}
		if txn.Succeeded {
			return nil
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
