package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
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
		e, l, err := b.entryOf(ctx, g)
		if err != nil {
			out[i].Err = b.fail(op, g.Key, err)
			continue
		}
		rs := byLease[l]
		if rs == nil {
			rs = make([]renewal, 0, len(gs)-i)
		}
		byLease[l] = append(rs, renewal{i, e})
	}
	for l, rs := range byLease {
		err := b.freshen(ctx, l)
		if err != nil && !errors.Is(err, errLeaseGone) {
			for _, r := range rs {
				out[r.i].Err = b.fail(op, r.e.key, backend.Unavailable(err))
			}
			continue
		}
		var waited []renewal
		if err == nil {
			rs, waited = b.part(rs, l)
		}
		for some := range slices.Chunk(rs, maxOps) {
			missing, lookErr := b.look(ctx, some)
			b.renewSome(gs, out, some, missing, lookErr, err)
		}
		for some := range slices.Chunk(waited, maxOps/2) { // each is compared twice
			es := make([]*entry, len(some))
			for j, r := range some {
				es[j] = r.e
			}
			missing, moveErr := b.move(ctx, es, l)
			b.renewSome(gs, out, some, missing, moveErr, nil)
		}
	}
	return out
}

// part takes those out of rs that are not on l yet.
func (b *Backend) part(rs []renewal, l *lease) (on, off []renewal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(rs, func(r renewal) bool { return r.e.on != l.id }) {
		return rs, nil
	}
	for _, r := range rs {
		if r.e.on == l.id {
			on = append(on, r)
		} else {
			off = append(off, r)
		}
	}
	return on, off
}

// renewal is grant number i of a batch.
type renewal struct {
	i int
	e *entry
}

// renewSome fills in out. missing and err are what was seen of the entries, kept is
// what the keepalive of their lease came to.
func (b *Backend) renewSome(gs []backend.Grant, out []backend.Renewal, rs []renewal, missing []bool, err, kept error) {
	const op = "renew"
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
	b.mu.Lock()
	defer b.mu.Unlock()
	for j, r := range rs {
		kvs := resp.Responses[j].GetResponseRange().Kvs
		missing[j] = len(kvs) == 0 || kvs[0].CreateRevision != r.e.rev
	}
	return missing, nil
}

// allExist tells whether all of at most maxOps entries are there.
func (b *Backend) allExist(ctx context.Context, rs []renewal) (bool, error) {
	there := make(cmps, len(rs))
	b.mu.Lock()
	for j, r := range rs {
		there[j] = exists(r.e.name, r.e.rev)
	}
	b.mu.Unlock()
	// A transaction without any operation would be answered from whatever state
	// the member has; one read makes it linearizable.
	read := ops{clientv3.OpGet(b.names.base(), clientv3.WithCountOnly())}
	resp, err := b.txn(ctx, there, read, read)
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}

// entryOf finds the entry of a grant, and the lease that it is to be renewed on.
// One that this backend does not know, because the grant came from another, is
// looked up: only a lease of this one may be kept alive.
func (b *Backend) entryOf(ctx context.Context, g backend.Grant) (*entry, *lease, error) {
	b.mu.Lock()
	e := b.entries[ident{g.Key, g.ID}]
	var state entryState
	var l *lease
	var rev int64
	if e != nil {
		state, l, rev = e.state, e.lease, e.rev
		if e.moving != nil || l.ttl < e.want {
			l = nil
		}
	}
	gone := e == nil && b.released.has(ident{g.Key, g.ID})
	b.mu.Unlock()
	switch {
	case e != nil && state == held:
		if st, ok := g.State.(grantState); ok && st.rev != rev {
			return nil, nil, errGone
		}
		if l == nil {
			var err error
			if l, err = b.home(ctx, e); err != nil {
				return nil, nil, backend.Unavailable(err)
			}
		}
		return e, l, nil
	case e != nil && state == expired, gone:
		return nil, nil, errGone
	case e != nil:
		return nil, nil, fmt.Errorf("%w: the claim waits and holds nothing", backend.ErrLost)
	}
	return b.adoptGrant(ctx, g)
}

// adoptGrant remembers the entry of a grant that another backend made.
func (b *Backend) adoptGrant(ctx context.Context, g backend.Grant) (*entry, *lease, error) {
	if err := backend.ValidateKey(g.Key); err != nil {
		return nil, nil, err
	}
	if g.TTL <= 0 {
		return nil, nil, fmt.Errorf("%w: the grant has no TTL", backend.ErrLost)
	}
	kv, v, err := b.heldEntry(ctx, g)
	if err != nil {
		return nil, nil, err
	}
	token, err := tokenOf(v.Base, kv.CreateRevision)
	if err != nil {
		return nil, nil, errGone
	}
	// the TTL in its value, if the grant is one of those that are short at first
	l, err := b.current(ctx, b.slotFor(max(g.TTL, v.ttl())))
	if err != nil {
		return nil, nil, backend.Unavailable(err)
	}
	e := b.trackForeign(g.Key, g.ID, l, kv, v.Base)
	if _, err := b.granted(e, backend.Claim{Holder: g.Holder}, token); err != nil {
		return nil, nil, errGone
	}
	return e, l, nil
}

// heldEntry reads the entry by which g holds its key.
func (b *Backend) heldEntry(ctx context.Context, g backend.Grant) (*mvccpb.KeyValue, value, error) {
	resp, err := b.get(ctx, b.names.queue(g.Key), clientv3.WithFirstCreate()...)
	if err != nil {
		return nil, value{}, backend.Unavailable(b.explain(ctx, err))
	}
	if len(resp.Kvs) == 0 {
		return nil, value{}, errGone
	}
	kv := resp.Kvs[0]
	v, err := decode(kv)
	if err != nil || v.ID != g.ID {
		return nil, value{}, errGone // it is another's
	}
	token, err := tokenOf(v.Base, kv.CreateRevision)
	if err != nil || g.Token != 0 && token != g.Token {
		return nil, value{}, errGone
	}
	return kv, v, nil
}
