package etcdlock

import (
	"context"
	"errors"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
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
		e, w := b.tracked(key, c.ID), b.waiting(key, c.ID)
		switch {
		case e != nil:
			g, err = b.reclaim(ctx, e, c)
		case w != nil:
			// Its entry is gone, and it could not be put again at once.
			if err = w.enqueue(ctx, c); err == nil {
				err = errAgain
			}
		default:
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

func (b *Backend) heldBy(kv *mvccpb.KeyValue, count int64) error {
	rec, err := b.record(kv, count-1)
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
	state, l := e.state, e.lease
	b.mu.Unlock()
	if state == expired {
		if err := b.remove(ctx, []*entry{e}); err != nil {
			return backend.Grant{}, backend.Unavailable(err)
		}
		return backend.Grant{}, errAgain
	}
	if w := b.waiting(e.key, e.id); w != nil && state == pending {
		w.adopt(e) // the answer to its queueing again was lost
	}
	kept := b.freshening(ctx, l)
	// Nothing is put, so this is a read that needs no log entry: a waiter whose
	// turn has come owns the key already.
	resp, err := b.txn(ctx, nil,
		append(b.names.readBases(e.key), b.names.owner(e.key), clientv3.OpGet(e.name)), nil)
	keptErr := kept()
	if err != nil {
		return backend.Grant{}, backend.Unavailable(b.explain(ctx, err))
	}
	bs, err := b.tokens.learn(ctx, e.key, resp.Responses)
	if err != nil {
		return backend.Grant{}, backend.Unavailable(err)
	}
	owner := resp.Responses[2].GetResponseRange()
	own := resp.Responses[3].GetResponseRange().Kvs
	if len(own) == 0 {
		return backend.Grant{}, b.missing(ctx, e)
	}
	v, err := decode(own[0])
	if err != nil {
		return backend.Grant{}, backend.Unavailable(err)
	}
	if v.ID != c.ID {
		return backend.Grant{}, b.missing(ctx, e)
	}
	b.mu.Lock()
	if e.rev != own[0].CreateRevision {
		e.token = 0
	}
	e.rev, e.base = own[0].CreateRevision, v.Base
	e.seenLocked(own[0])
	rev, token, w := e.rev, e.token, b.waiters[e.ident()]
	b.mu.Unlock()

	if owner.Kvs[0].CreateRevision != rev {
		if w == nil {
			// left by a wait that was given up; who does not wait leaves nothing
			if err := b.remove(ctx, []*entry{e}); err != nil {
				return backend.Grant{}, backend.Unavailable(err)
			}
		} else {
			w.searchAgain()
		}
		return backend.Grant{}, b.heldBy(owner.Kvs[0], owner.Count)
	}
	if token != 0 {
		// It was granted before, and is asked for again: there is time to move it.
		home, err := b.home(ctx, e)
		if err != nil {
			return backend.Grant{}, backend.Unavailable(err)
		}
		if home != l {
			l, keptErr = home, b.freshen(ctx, home)
		}
	}
	if keptErr != nil {
		return backend.Grant{}, backend.Unavailable(keptErr)
	}
	if clientv3.LeaseID(own[0].Lease) != l.id {
		// its claim was made by another backend, or it has waited
		if err := b.moveOne(ctx, e, l); err != nil {
			return backend.Grant{}, err
		}
	}
	if token != 0 {
		return b.granted(e, c, token)
	}
	return b.grant(ctx, e, c, bs)
}

// missing deals with an entry that is not there any more: it ran out, or
// somebody deleted it. It returns errAgain, upon which a waiter queues again, at the end.
func (b *Backend) missing(ctx context.Context, e *entry) error {
	b.mu.Lock()
	answered := e.rev != 0
	b.mu.Unlock()
	if !answered {
		// Not there yet, it may be: a read does not settle that.
		if err := b.settle(ctx, []*entry{e}); err != nil {
			return backend.Unavailable(err)
		}
	}
	b.mu.Lock()
	if !answered && e.rev != 0 {
		b.mu.Unlock()
		return errAgain // it has arrived since
	}
	b.forgetLocked(e)
	b.mu.Unlock()
	return errAgain
}

// moveOne puts e on l.
func (b *Backend) moveOne(ctx context.Context, e *entry, l *lease) error {
	missing, err := b.move(ctx, []*entry{e}, l)
	switch {
	case err != nil:
		return backend.Unavailable(err)
	case missing[0]:
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
		b.mu.Lock()
		rev, base := e.rev, e.base
		b.mu.Unlock()
		token, err := tokenOf(bs.sum(), rev)
		floor := max(bs.floor(), c.TokenFloor)
		if err == nil && token > floor && base == bs.sum() {
			return b.granted(e, c, token)
		}
		next := bs
		var puts []clientv3.Op
		if err == nil && token <= floor {
			next, puts, err = b.tokens.lift(e.key, bs, rev, floor)
		}
		if err != nil {
			if rerr := b.remove(ctx, []*entry{e}); rerr != nil {
				return backend.Grant{}, backend.Unavailable(rerr)
			}
			return backend.Grant{}, err
		}
		b.mu.Lock()
		ttl := max(e.lease.ttl, e.want)
		b.mu.Unlock()
		v := newValue(c, ttl, next.sum()).encode()
		puts = append(puts, clientv3.OpPut(e.name, v, clientv3.WithIgnoreLease()))
		resp, err := b.txn(ctx, append(b.names.unchanged(e.key, bs), exists(e.name, rev)), puts,
			append(b.names.readBases(e.key), clientv3.OpGet(e.name, clientv3.WithKeysOnly())))
		if err != nil {
			return backend.Grant{}, backend.Unavailable(b.explain(ctx, err))
		}
		if resp.Succeeded {
			b.mu.Lock()
			e.base, e.mod = next.sum(), resp.Header.Revision
			b.mu.Unlock()
			b.tokens.keep(e.key, next)
			bs = next
			continue
		}
		if len(resp.Responses[2].GetResponseRange().Kvs) == 0 {
			return backend.Grant{}, b.missing(ctx, e)
		}
		if bs, err = b.tokens.learn(ctx, e.key, resp.Responses); err != nil {
			return backend.Grant{}, backend.Unavailable(err)
		}
	}
}
