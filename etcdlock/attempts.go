package etcdlock

import (
	"context"
	"reflect"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The client library sends a request again by itself if its answer is Canceled or
// DeadlineExceeded and the caller's context has not ended: a proxy may say so of a
// request that is carried out. A deletion that found nothing may then have found it
// the first time, which the answer does not tell. So the requests are counted.

// counting counts the transactions of its client that may have been carried out.
type counting struct {
	etcdserverpb.KVClient
	sent *atomic.Int32
}

func (c counting) Txn(ctx context.Context, in *etcdserverpb.TxnRequest, opts ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	return c.KVClient.Txn(ctx, in, append(slices.Clip(opts), grpc.OnFinish(c.finished))...)
}

// finished is called once for each time that the request was sent.
func (c counting) finished(err error) {
	switch status.Code(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded: // others are not sent again, or were refused
		c.sent.Add(1)
	}
}

// plainKV is the type of a client's KV which nobody has wrapped.
var plainKV = reflect.TypeOf(clientv3.NewKVFromKVClient(nil, nil))

// txnOnce is txn, and tells whether it may have been carried out more than once. Of a
// client whose KV is wrapped that is not known: what it sends is the wrapper's affair.
func (s *store) txnOnce(ctx context.Context, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (_ *clientv3.TxnResponse, repeated bool, err error) {
	if reflect.TypeOf(s.client.KV) != plainKV {
		resp, err := s.txn(ctx, cmps, then, otherwise)
		return resp, false, err
	}
	var sent atomic.Int32
	kv := clientv3.NewKVFromKVClient(counting{clientv3.RetryKVClient(s.client), &sent}, s.client)
	var resp clientv3.OpResponse
	err = s.withLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = kv.Do(ctx, clientv3.OpTxn(cmps, then, otherwise))
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return resp.Txn(), sent.Load() > 1, nil
}
