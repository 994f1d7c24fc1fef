package etcdlock

import (
	"context"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Requests ask the member that gets them to refuse at once if it knows no
// leader, and are then sent to the next member. Without that, a member that is
// cut off from the others keeps its share of the requests until they time out.
// A request so refused has not been carried out, so it can be sent again
// whatever it is; nothing else is repeated here.
const (
	leaderPause = 10 * time.Millisecond
	leaderWait  = 2 * time.Second
)

func (b *Backend) withLeader(ctx context.Context, send func(ctx context.Context) error) error {
	ctx = clientv3.WithRequireLeader(ctx)
	var start time.Time
	for {
		err := rpctypes.Error(send(ctx))
		if !is(err, rpctypes.ErrNoLeader) {
			return err
		}
		if start.IsZero() {
			start = time.Now()
		} else if time.Since(start) > leaderWait {
			return err
		}
		t := time.NewTimer(leaderPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

func (b *Backend) do(ctx context.Context, op clientv3.Op) (resp clientv3.OpResponse, err error) {
	err = b.withLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = clientv3.NewKVFromKVClient(b.kv, b.client).Do(ctx, op)
		return err
	})
	return resp, err
}

// txn is a transaction: if all of cmps hold then, else otherwise.
func (b *Backend) txn(ctx context.Context, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := b.do(ctx, clientv3.OpTxn(cmps, then, otherwise))
	if err != nil {
		return nil, err
	}
	return resp.Txn(), nil
}

func (b *Backend) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := b.do(ctx, clientv3.OpGet(key, opts...))
	if err != nil {
		return nil, err
	}
	return resp.Get(), nil
}

// callOptions are those that the client library sends its requests with.
var callOptions = []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32)}

// send sends a transaction that was put together without the client library.
func (b *Backend) send(ctx context.Context, req *etcdserverpb.TxnRequest) (resp *etcdserverpb.TxnResponse, err error) {
	err = b.withLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = b.kv.Txn(ctx, req, callOptions...)
		return clientv3.ContextError(ctx, err)
	})
	return resp, err
}

func (b *Backend) delete(ctx context.Context, key string) (resp *etcdserverpb.DeleteRangeResponse, err error) {
	req := &etcdserverpb.DeleteRangeRequest{Key: []byte(key)}
	err = b.withLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = b.kv.DeleteRange(ctx, req, callOptions...)
		return clientv3.ContextError(ctx, err)
	})
	return resp, err
}

func valueIs(key, value string) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Key: []byte(key), Target: etcdserverpb.Compare_VALUE,
		TargetUnion: &etcdserverpb.Compare_Value{Value: []byte(value)},
	}
}

// createdAt compares the create revision, which is 0 if there is no such key.
func createdAt(key string, rev int64) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Key: []byte(key), Target: etcdserverpb.Compare_CREATE,
		TargetUnion: &etcdserverpb.Compare_CreateRevision{CreateRevision: rev},
	}
}

func read(r *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
}

type (
	cmps = []clientv3.Cmp
	ops  = []clientv3.Op
)
