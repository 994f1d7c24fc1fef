package etcdlock

import (
	"context"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Inspect implements [backend.Backend]. The read is linearizable. Record.HeldFor
// is unknown: etcd keeps no time. Record.Remaining is what is left of the etcd
// lease, in whole seconds.
func (b *Backend) Inspect(ctx context.Context, key string) (backend.Record, error) {
	const op = "inspect"
	if err := backend.ValidateKey(key); err != nil {
		return backend.Record{}, b.fail(op, key, err)
	}
	if err := b.enter(op, key); err != nil {
		return backend.Record{}, err
	}
	resp, err := b.get(ctx, b.names.queue(key), clientv3.WithFirstCreate()...)
	if err != nil {
		return backend.Record{}, b.fail(op, key, b.explain(ctx, err))
	}
	if len(resp.Kvs) == 0 {
		return backend.Record{Key: key, State: backend.Free}, nil
	}
	rec, err := b.record(resp.Kvs[0], resp.Count-1)
	if err != nil {
		return backend.Record{}, b.fail(op, key, err)
	}
	ttl, err := b.client.TimeToLive(clientv3.WithRequireLeader(ctx), clientv3.LeaseID(resp.Kvs[0].Lease))
	if err != nil {
		return backend.Record{}, b.fail(op, key, b.explain(ctx, err))
	}
	rec.Remaining = time.Duration(max(ttl.TTL, 0)) * time.Second
	return rec, nil
}

// listPage is how many entries one request of List reads.
const listPage = 1000

// List implements [backend.Lister]. It reads page by page at one revision, so
// the answer is how things stood at one moment. Record.Remaining is left out.
// What cannot be read is listed as Unknown.
func (b *Backend) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	const op = "list"
	if err := b.enter(op, prefix); err != nil {
		return nil, err
	}
	from := b.names.locks() + prefix
	end := clientv3.GetPrefixRangeEnd(from)
	var recs []backend.Record
	var owner *mvccpb.KeyValue
	var waiting, rev int64
	last := ""
	flush := func() {
		if owner != nil {
			recs = append(recs, b.listed(last, owner, waiting))
		}
		owner, waiting = nil, 0
	}
	for {
		resp, err := b.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(listPage), clientv3.WithRev(rev))
		if err != nil {
			return nil, b.fail(op, prefix, b.explain(ctx, err))
		}
		rev = resp.Header.Revision
		for _, kv := range resp.Kvs {
			key, ok := b.names.keyOf(string(kv.Key))
			if !ok { // it is in nobody's queue
				key = strings.TrimPrefix(string(kv.Key), b.names.locks())
			}
			if key != last || !ok {
				flush()
			}
			last = key
			switch {
			case owner == nil:
				owner = kv
			case kv.CreateRevision < owner.CreateRevision:
				owner, waiting = kv, waiting+1
			default:
				waiting++
			}
			if !ok {
				flush()
			}
		}
		if !resp.More {
			break
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	flush()
	return recs, nil
}

// listed describes what is under a key: the others can be told if this cannot.
func (b *Backend) listed(key string, owner *mvccpb.KeyValue, waiting int64) backend.Record {
	rec, err := b.record(owner, waiting)
	if err != nil {
		return backend.Record{Key: key, State: backend.Unknown, Note: backend.Text(err)}
	}
	return rec
}
