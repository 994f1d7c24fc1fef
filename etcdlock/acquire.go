package etcdlock

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxAttempts bounds how often one call starts again because the token base or
// the lease changed under it. Each start is definite about the one before.
const maxAttempts = 8

var (
	errAgain   = errors.New("state changed, start again")
	errChanged = errors.New("the token base or the etcd lease changed at every attempt")
)

// Acquire implements [backend.Backend]. A free key is taken in one transaction,
// which fails if anybody holds the key or waits for it, and leaves nothing then.
func (b *Backend) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	const op = "acquire"
	if err := b.check(key, c); err != nil {
		return backend.Grant{}, b.fail(op, key, err)
	}
	if err := b.enter(op, key); err != nil {
		return backend.Grant{}, err
	}
	for range maxAttempts {
		var g backend.Grant
		var err error
		if e := b.tracked(key, c.ID); e != nil {
			g, err = b.reclaim(ctx, e, c)
		} else {
			g, err = b.claim(ctx, key, c)
		}
		var he *backend.HeldError
		switch {
		case err == nil:
			return g, nil
		case errors.As(err, &he):
			return backend.Grant{}, he
		case errors.Is(err, errAgain):
		default:
			return backend.Grant{}, b.fail(op, key, err)
		}
	}
	return backend.Grant{}, b.fail(op, key, backend.Unavailable(errChanged))
}

func (b *Backend) check(key string, c backend.Claim) error {
	if err := backend.ValidateKey(key); err != nil {
		return err
	}
	return backend.ValidateClaim(c)
}

// claim makes a first attempt by c, which does not wait.
func (b *Backend) claim(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	e, bs, kept, err := b.put(ctx, key, c, false)
	if err != nil {
		return backend.Grant{}, err
	}
	if err := kept(); err != nil {
		// The lock is ours, but for how long is not known.
		return backend.Grant{}, backend.Unavailable(err)
	}
	return b.grant(ctx, e, c, bs)
}

// catchUp reads what a put found changed, and returns errAgain. It is not part
// of the put's transaction, where it would make every attempt larger.
func (b *Backend) catchUp(ctx context.Context, e *entry) error {
	resp, err := b.txn(ctx, nil,
		append(b.names.readBases(e.key), clientv3.OpGet(b.names.fence(e.lease)), clientv3.OpGet(e.name)), nil)
	if err != nil {
		return b.explain(ctx, err)
	}
	if _, err := b.learnBases(ctx, e.key, resp.Responses); err != nil {
		return err
	}
	b.learnFence(e.lease, resp.Responses[2].GetResponseRange().Kvs)
	if len(resp.Responses[3].GetResponseRange().Kvs) > 0 {
		// The name is in use by an entry that another backend has taken over.
		b.mu.Lock()
		b.places.renew()
		b.mu.Unlock()
	}
	return errAgain
}

func (b *Backend) heldBy(kv *mvccpb.KeyValue, count int64) error {
	rec, err := b.names.record(kv, count-1)
	if err != nil {
		return err
	}
	// How much of the holder's TTL is left is not asked, which would take another
	// request, but it cannot be more than this.
	return &backend.HeldError{Record: rec, RetryAfter: rec.TTL + slack}
}

// reclaim makes an attempt by a claim that has an entry, as far as is known: it
// waits in the queue, or holds the key already, or its put was not answered.
func (b *Backend) reclaim(ctx context.Context, e *entry, c backend.Claim) (backend.Grant, error) {
	b.mu.Lock()
	state := e.state
	b.mu.Unlock()
	if state == expired {
		if err := b.remove(ctx, []*entry{e}); err != nil {
			return backend.Grant{}, err
		}
		return backend.Grant{}, errAgain
	}
	kept := b.freshening(ctx, e.lease)
	// Nothing is put, so this is a read that needs no log entry: a waiter whose
	// turn has come owns the key already.
	resp, err := b.txn(ctx, nil,
		append(b.names.readBases(e.key), b.names.owner(e.key), clientv3.OpGet(e.name)), nil)
	keptErr := kept()
	if err != nil {
		return backend.Grant{}, backend.Unavailable(b.explain(ctx, err))
	}
	bs, err := b.learnBases(ctx, e.key, resp.Responses)
	if err != nil {
		return backend.Grant{}, backend.Unavailable(err)
	}
	owner := resp.Responses[2].GetResponseRange()
	own := resp.Responses[3].GetResponseRange().Kvs
	if len(own) == 0 {
		return backend.Grant{}, b.missing(ctx, e, c)
	}
	v, err := decode(own[0])
	if err != nil {
		return backend.Grant{}, backend.Unavailable(err)
	}
	if v.ID != c.ID {
		return backend.Grant{}, b.missing(ctx, e, c)
	}
	b.mu.Lock()
	if e.rev != own[0].CreateRevision {
		e.token = 0
	}
	e.rev, e.base = own[0].CreateRevision, v.Base
	rev, token, w := e.rev, e.token, e.waiter
	b.mu.Unlock()

	if owner.Kvs[0].CreateRevision != rev {
		if w == nil {
			// left by a wait that was given up; who does not wait leaves nothing
			if err := b.remove(ctx, []*entry{e}); err != nil {
				return backend.Grant{}, err
			}
		} else {
			w.searchAgain()
		}
		return backend.Grant{}, b.heldBy(owner.Kvs[0], owner.Count)
	}
	if clientv3.LeaseID(own[0].Lease) != e.lease.id {
		if err := b.moveHere(ctx, e); err != nil {
			return backend.Grant{}, err
		}
	}
	if keptErr != nil {
		return backend.Grant{}, backend.Unavailable(keptErr)
	}
	if token != 0 {
		return b.granted(e, c, token)
	}
	return b.grant(ctx, e, c, bs)
}

// missing deals with an entry that is not there any more: it ran out, or
// somebody deleted it. A waiter queues again, at the end.
func (b *Backend) missing(ctx context.Context, e *entry, c backend.Claim) error {
	b.mu.Lock()
	w := e.waiter
	b.forgetLocked(e)
	b.mu.Unlock()
	if w == nil {
		return errAgain
	}
	if err := w.enqueue(ctx, c); err != nil {
		return err
	}
	return errAgain
}

// moveHere puts e on this backend's lease: its claim was made by another.
func (b *Backend) moveHere(ctx context.Context, e *entry) error {
	resp, err := b.txn(ctx, cmps{exists(e.name, e.rev)},
		ops{clientv3.OpPut(e.name, "", clientv3.WithIgnoreValue(), clientv3.WithLease(e.lease.id))}, nil)
	switch {
	case is(err, rpctypes.ErrLeaseNotFound):
		b.died(e.lease)
		return backend.Unavailable(errLeaseGone)
	case err != nil:
		return backend.Unavailable(b.explain(ctx, err))
	case !resp.Succeeded:
		b.forget(e)
		return errAgain
	}
	return nil
}

// grant turns an entry that owns its key into a grant. Its token has to come of
// the bases that are in force, and exceed the floors; if it does not, because
// they were raised since the entry was put, they are written anew with it.
func (b *Backend) grant(ctx context.Context, e *entry, c backend.Claim, bs bases) (backend.Grant, error) {
	for {
		token, err := tokenOf(bs.sum(), e.rev)
		floor := max(bs.floor(), c.TokenFloor)
		if err == nil && token > floor && e.base == bs.sum() {
			return b.granted(e, c, token)
		}
		next := bs
		var puts []clientv3.Op
		if err == nil && token <= floor {
			next, puts, err = b.lift(e.key, bs, e.rev, floor)
		}
		if err != nil {
			if rerr := b.remove(ctx, []*entry{e}); rerr != nil {
				return backend.Grant{}, rerr
			}
			return backend.Grant{}, err
		}
		v := newValue(c, e.lease.ttl, next.sum()).encode()
		puts = append(puts, clientv3.OpPut(e.name, string(v), clientv3.WithIgnoreLease()))
		resp, err := b.txn(ctx, append(b.names.basesAre(e.key, bs), exists(e.name, e.rev)), puts,
			append(b.names.readBases(e.key), clientv3.OpGet(e.name, clientv3.WithKeysOnly())))
		if err != nil {
			return backend.Grant{}, backend.Unavailable(b.explain(ctx, err))
		}
		if resp.Succeeded {
			b.mu.Lock()
			e.base = next.sum()
			b.mu.Unlock()
			b.keepBases(e.key, next)
			bs = next
			continue
		}
		if len(resp.Responses[2].GetResponseRange().Kvs) == 0 {
			return backend.Grant{}, b.missing(ctx, e, c)
		}
		if bs, err = b.learnBases(ctx, e.key, resp.Responses); err != nil {
			return backend.Grant{}, backend.Unavailable(err)
		}
	}
}
