package etcdlock

import (
	"context"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// store is etcd as all others here see it: what can be asked of it, and what its errors
// mean. It knows nothing of locks.
type store struct {
	client *clientv3.Client
	user   string // for messages
	login  *login // nil: the client has no user, or logs in by itself
	prefix string // for messages

	mu      sync.Mutex
	stream  int  // see watchStream
	checked bool // see checkLogin
}

// Requests ask the member that gets them to refuse at once if it knows no
// leader, and are then sent to the next member. Without that, a member that is
// cut off from the others keeps its share of the requests until they time out.
// A request so refused has not been carried out, so it can be sent again
// whatever it is; nothing else is repeated here.
const (
	leaderPause = 10 * time.Millisecond
	leaderWait  = 2 * time.Second
)

func (s *store) withLeader(ctx context.Context, send func(ctx context.Context) error) error {
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

func (s *store) do(ctx context.Context, op clientv3.Op) (resp clientv3.OpResponse, err error) {
	err = s.withLeader(ctx, func(ctx context.Context) (err error) {
		resp, err = s.client.Do(ctx, op)
		return err
	})
	return resp, err
}

// txn is a transaction: if all of cmps hold then, else otherwise.
func (s *store) txn(ctx context.Context, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := s.do(ctx, clientv3.OpTxn(cmps, then, otherwise))
	if err != nil {
		return nil, err
	}
	return resp.Txn(), nil
}

func (s *store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := s.do(ctx, clientv3.OpGet(key, opts...))
	if err != nil {
		return nil, err
	}
	return resp.Get(), nil
}

func (s *store) delete(ctx context.Context, key string) (*clientv3.DeleteResponse, error) {
	resp, err := s.do(ctx, clientv3.OpDelete(key))
	if err != nil {
		return nil, err
	}
	return resp.Del(), nil
}

// callOptions are those that the client library sends its requests with.
var callOptions = []grpc.CallOption{grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32)}

type (
	cmps = []clientv3.Cmp
	ops  = []clientv3.Op
)
