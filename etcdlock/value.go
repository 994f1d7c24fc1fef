package etcdlock

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// values is the prefix of what is kept beside locks.
func (n names) values() string { return n.prefix + "value/" }

func (n names) kept(key string) string { return n.values() + key }

// Value implements [backend.ValueStore]. The read is linearizable.
func (b *Backend) Value(ctx context.Context, key string) (backend.Value, error) {
	const op = "read the value"
	if err := backend.ValidateKey(key); err != nil {
		return backend.Value{}, b.fail(op, key, err)
	}
	if err := b.enter(op, key); err != nil {
		return backend.Value{}, err
	}
	resp, err := b.get(ctx, b.names.kept(key))
	if err != nil {
		return backend.Value{}, b.fail(op, key, b.explain(ctx, err))
	}
	v, err := keptIn(resp.Kvs)
	return v, b.fail(op, key, err)
}

// SetValue implements [backend.ValueStore]. It does not restart the TTL.
//
// The value is put in a transaction under two conditions: the grant's entry is there,
// which proves that it holds the key (see Owner), and the value is the one that was
// compared with v. So what arrives late, after the key was lost or another value set,
// does nothing.
func (b *Backend) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	const op = "set the value"
	if err := backend.ValidateKey(g.Key); err != nil {
		return g, b.fail(op, g.Key, err)
	}
	if err := v.Validate(); err != nil {
		return g, b.fail(op, g.Key, err)
	}
	if err := b.enter(op, g.Key); err != nil {
		return g, err
	}
	return g, b.fail(op, g.Key, b.setValue(ctx, g, v))
}

func (b *Backend) setValue(ctx context.Context, g backend.Grant, v backend.Value) error {
	holder, err := b.entryName(ctx, g)
	if err != nil {
		return err
	}
	name := b.names.kept(g.Key)
	look := ops{clientv3.OpGet(name), clientv3.OpGet(holder.name, clientv3.WithKeysOnly())}
	for {
		// Read first, and not only when the put fails: what an earlier attempt has put
		// without an answer is found here, also by etcd without room for another put.
		seen, err := b.txn(ctx, nil, look, nil)
		if err != nil {
			return b.explain(ctx, err)
		}
		if kvs := seen.Responses[1].GetResponseRange().Kvs; len(kvs) == 0 || kvs[0].CreateRevision != holder.rev {
			return errGone
		}
		kvs := seen.Responses[0].GetResponseRange().Kvs
		old, err := keptIn(kvs)
		if err != nil {
			return err
		}
		switch order := v.Compare(old); {
		case order == 0 && v.Deleted == old.Deleted && bytes.Equal(v.Data, old.Data):
			return nil
		case order <= 0:
			return backend.ErrOldValue
		}
		var mod int64 // there is none
		if len(kvs) > 0 {
			mod = kvs[0].ModRevision
		}
		put, err := b.txn(ctx, cmps{exists(holder.name, holder.rev), clientv3.Compare(clientv3.ModRevision(name), "=", mod)},
			ops{clientv3.OpPut(name, string(encodeKept(v)))}, nil)
		switch {
		case is(err, rpctypes.ErrNoSpace):
			// The put that first exceeds the quota is carried out all the same; the
			// next attempt tells.
			return backend.Unavailable(b.explain(ctx, err))
		case err != nil:
			return b.explain(ctx, err)
		case put.Succeeded:
			return nil
		}
	}
}

// entryName returns the entry whose being there proves that g holds its key. Unlike
// Renew it does not take over what another backend has put.
func (b *Backend) entryName(ctx context.Context, g backend.Grant) (grantState, error) {
	b.mu.Lock()
	e := b.entries[ident{g.Key, g.ID}]
	gone := e == nil && b.released.has(ident{g.Key, g.ID}) || e != nil && e.state != held
	var own grantState
	if e != nil {
		own = grantState{name: e.name, rev: e.rev}
	}
	b.mu.Unlock()
	st, ok := g.State.(grantState)
	switch {
	case gone:
		return grantState{}, errGone
	case ok && e != nil && st != own:
		return grantState{}, errGone
	case ok:
		return st, nil
	case e != nil:
		return own, nil
	}
	kv, _, err := b.heldEntry(ctx, g)
	if err != nil {
		return grantState{}, err
	}
	return grantState{name: string(kv.Key), rev: kv.CreateRevision}, nil
}

// valuePage is how many values one request of ListValues reads.
const valuePage = 64

// ListValues implements [backend.ValueStore]. It reads page by page at one revision, so
// the answer is how things stood at one moment.
func (b *Backend) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	const op = "list the values"
	if err := b.enter(op, prefix); err != nil {
		return nil, err
	}
	from := b.names.kept(prefix)
	end := clientv3.GetPrefixRangeEnd(from)
	var out []backend.KeyValue
	var rev int64
	for {
		resp, err := b.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(valuePage), clientv3.WithRev(rev))
		if err != nil {
			return nil, b.fail(op, prefix, b.explain(ctx, err))
		}
		rev = resp.Header.Revision
		for _, kv := range resp.Kvs {
			v, err := decodeKept(kv)
			if err != nil {
				return nil, b.fail(op, prefix, err)
			}
			out = append(out, backend.KeyValue{Key: string(kv.Key[len(b.names.values()):]), Value: v})
		}
		if !resp.More {
			return out, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

const (
	wordSet     = "set"
	wordDeleted = "deleted"
)

// encodeKept returns "<token> <sequence> <set|deleted>", a new line, and the data:
// etcdctl shows it.
func encodeKept(v backend.Value) []byte {
	word := wordSet
	if v.Deleted {
		word = wordDeleted
	}
	return append(fmt.Appendf(nil, "%d %d %s\n", v.Token, v.Seq, word), v.Data...)
}

// decodeKept is encodeKept's inverse. The error matches backend.ErrCorrupt.
func decodeKept(kv *mvccpb.KeyValue) (v backend.Value, err error) {
	head, data, ok := bytes.Cut(kv.Value, []byte("\n"))
	if f := bytes.Split(head, []byte(" ")); ok && len(f) == 3 {
		var err2 error
		v.Token, err = strconv.ParseUint(string(f[0]), 10, 64)
		v.Seq, err2 = strconv.ParseUint(string(f[1]), 10, 64)
		v.Deleted, v.Data = string(f[2]) == wordDeleted, data
		if err == nil && err2 == nil && (v.Deleted || string(f[2]) == wordSet) && v.Validate() == nil {
			return v, nil
		}
	}
	return backend.Value{}, fmt.Errorf("%w: the value of etcd key %q is not one that hasp wrote", backend.ErrCorrupt, kv.Key)
}

// keptIn reads what a range over one value has found.
func keptIn(kvs []*mvccpb.KeyValue) (backend.Value, error) {
	if len(kvs) == 0 {
		return backend.Value{}, nil
	}
	return decodeKept(kvs[0])
}
