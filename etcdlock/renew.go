package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var errGone = fmt.Errorf("%w: its key in etcd is gone: it ran out, was broken, or was deleted", backend.ErrLost)

// Renew implements [backend.Backend].
func (b *Backend) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	r := b.RenewAll(ctx, []backend.Grant{g})[0]
	return r.Grant, r.Err
}

// RenewAll implements [backend.BatchRenewer]: one keepalive for each TTL among
// the grants, then one look at every entry, a transaction for each 128 of them.
//
// Both are needed. The keepalive alone would not notice an entry that was
// deleted while its lease lives on. The watch that OnLoss is served by is no
// substitute for looking: it reports later, and never if it is cut off, and a
// lock that was broken must not be renewed the moment after. What a lease's
// death means for an entry is left to the looking as well, so that loss is
// concluded from one thing only: a linearizable read in which the entry is
// missing.
func (b *Backend) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	const op = "renew"
	out := make([]backend.Renewal, len(gs))
	byLease := map[*lease][]renewal{}
	closed := b.enter(op, "")
	for i, g := range gs {
		if closed != nil {
			out[i].Err = closed
			continue
		}
		e, err := b.entryOf(ctx, g)
		if err != nil {
			out[i].Err = b.fail(op, g.Key, err)
			continue
		}
		rs := byLease[e.lease]
		if rs == nil {
			rs = make([]renewal, 0, len(gs)-i)
		}
		byLease[e.lease] = append(rs, renewal{i, e})
	}
	for l, rs := range byLease {
		err := b.freshen(ctx, l)
		if err != nil && !errors.Is(err, errLeaseGone) {
			for _, r := range rs {
				out[r.i].Err = b.fail(op, r.e.key, backend.Unavailable(err))
			}
			continue
		}
		for len(rs) > 0 {
			n := min(len(rs), maxOps)
			b.renewSome(ctx, gs, out, rs[:n], err)
			rs = rs[n:]
		}
	}
	return out
}

// renewal is grant number i of a batch.
type renewal struct {
	i int
	e *entry
}

// renewSome looks whether the entries are there and fills in out. kept is what
// the keepalive of their lease came to.
func (b *Backend) renewSome(ctx context.Context, gs []backend.Grant, out []backend.Renewal, rs []renewal, kept error) {
	const op = "renew"
	missing, err := b.look(ctx, rs)
	var lost []*entry
	b.mu.Lock()
	now := time.Now() // here, or an entry granted meanwhile could be due after these
	for j, r := range rs {
		switch {
		case err != nil:
			out[r.i].Err = b.fail(op, r.e.key, backend.Unavailable(err))
		case missing[j]:
			out[r.i].Err = b.fail(op, r.e.key, errGone)
			b.forgetLocked(r.e)
			lost = append(lost, r.e)
		case r.e.forgotten || r.e.state != held:
			// released or run out meanwhile
			out[r.i].Err = b.fail(op, r.e.key, errGone)
		case kept != nil:
			out[r.i].Err = b.fail(op, r.e.key, backend.Unavailable(kept))
		default:
			b.scheduleLocked(r.e, now.Add(r.e.lease.ttl))
			g := gs[r.i]
			g.TTL = r.e.lease.ttl
			if _, ok := g.State.(grantState); !ok {
				g.State = grantState{name: r.e.name, rev: r.e.rev}
			}
			out[r.i].Grant = g
		}
	}
	b.mu.Unlock()
	b.report(lost)
}

// look tells which of at most maxOps entries are missing.
func (b *Backend) look(ctx context.Context, rs []renewal) (missing []bool, err error) {
	missing = make([]bool, len(rs))
	all, err := b.allExist(ctx, rs)
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	if all {
		return missing, nil
	}
	if len(rs) == 1 {
		missing[0] = true
		return missing, nil
	}
	// Which ones is asked only now: to send that along each time doubled the
	// work of renewing a hundred thousand locks.
	gets := make(ops, len(rs))
	for j, r := range rs {
		gets[j] = clientv3.OpGet(r.e.name, clientv3.WithKeysOnly())
	}
	resp, err := b.txn(ctx, nil, gets, nil)
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	for j, r := range rs {
		kvs := resp.Responses[j].GetResponseRange().Kvs
		missing[j] = len(kvs) == 0 || kvs[0].CreateRevision != r.e.rev
	}
	return missing, nil
}

// allExist tells whether all of at most maxOps entries are there. The request is
// built by hand, a few allocations for all comparisons together: this is most of
// what renewing a hundred thousand locks costs.
func (b *Backend) allExist(ctx context.Context, rs []renewal) (bool, error) {
	cmps := make([]etcdserverpb.Compare, len(rs))
	revs := make([]etcdserverpb.Compare_CreateRevision, len(rs))
	req := &etcdserverpb.TxnRequest{Compare: make([]*etcdserverpb.Compare, len(rs))}
	size := 0
	for _, r := range rs {
		size += len(r.e.name)
	}
	names := make([]byte, 0, size)
	for j, r := range rs {
		names = append(names, r.e.name...)
		revs[j].CreateRevision = r.e.rev
		c := &cmps[j]
		c.Target, c.Result = etcdserverpb.Compare_CREATE, etcdserverpb.Compare_EQUAL
		c.Key, c.TargetUnion = names[len(names)-len(r.e.name):], &revs[j]
		req.Compare[j] = c
	}
	// A transaction without any operation would be answered from whatever state
	// the member has; one read makes it linearizable.
	req.Success = []*etcdserverpb.RequestOp{read(&etcdserverpb.RangeRequest{Key: []byte(b.names.base()), CountOnly: true})}
	req.Failure = req.Success
	resp, err := b.send(ctx, req)
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}

// entryOf finds the entry of a grant. One that this backend does not know,
// because the grant came from another, is looked up and moved to a lease of
// this one: only its own may be kept alive.
func (b *Backend) entryOf(ctx context.Context, g backend.Grant) (*entry, error) {
	b.mu.Lock()
	e := b.entries[ident{g.Key, g.ID}]
	gone := e == nil && b.released.has(ident{g.Key, g.ID})
	b.mu.Unlock()
	switch {
	case e != nil && e.state == held:
		if st, ok := g.State.(grantState); ok && st.rev != e.rev {
			return nil, errGone
		}
		return e, nil
	case e != nil && e.state == expired, gone:
		return nil, errGone
	case e != nil:
		return nil, fmt.Errorf("%w: the claim waits and holds nothing", backend.ErrLost)
	}
	if err := backend.ValidateKey(g.Key); err != nil {
		return nil, err
	}
	if g.TTL <= 0 {
		return nil, fmt.Errorf("%w: the grant has no TTL", backend.ErrLost)
	}
	resp, err := b.get(ctx, b.names.queue(g.Key), clientv3.WithFirstCreate()...)
	if err != nil {
		return nil, backend.Unavailable(b.explain(ctx, err))
	}
	if len(resp.Kvs) == 0 {
		return nil, errGone
	}
	kv := resp.Kvs[0]
	v, err := decode(kv)
	if err != nil || v.ID != g.ID {
		return nil, errGone // it is another's
	}
	token, err := tokenOf(v.Base, kv.CreateRevision)
	if err != nil || g.Token != 0 && token != g.Token {
		return nil, errGone
	}
	l, err := b.current(ctx, b.slotFor(g.TTL))
	if err != nil {
		return nil, backend.Unavailable(err)
	}
	e = b.trackForeign(g.Key, g.ID, l, kv, v.Base)
	if err := b.moveHere(ctx, e); err != nil {
		if errors.Is(err, errAgain) {
			return nil, errGone
		}
		return nil, err
	}
	if _, err := b.granted(e, backend.Claim{Holder: g.Holder}, token); err != nil {
		return nil, errGone
	}
	return e, nil
}
