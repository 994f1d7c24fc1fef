package etcdtest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// interceptedClient returns a client each of whose requests goes through f, also those
// that the library sends again by itself.
func interceptedClient(t *testing.T, srv *etcdtest.Server, f grpc.UnaryClientInterceptor) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{srv.Endpoint()}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(f)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// deletes tells whether a request deletes something, if its conditions hold.
func deletes(req any) bool {
	switch req := req.(type) {
	case *etcdserverpb.DeleteRangeRequest:
		return true
	case *etcdserverpb.TxnRequest:
		for _, op := range append(append([]*etcdserverpb.RequestOp{}, req.Success...), req.Failure...) {
			if op.GetRequestDeleteRange() != nil || op.GetRequestTxn() != nil && deletes(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

// While a Release is under way, its entry may be removed by something else, and the
// next claim of the same process gets the key, and the entry's name. The deletion, when
// it arrives, is not of that claim's entry.
func TestReleaseBesideRemoval(t *testing.T) {
	for name, tc := range map[string]struct {
		ttl    time.Duration
		remove func(ctx context.Context, srv *etcdtest.Server, b *etcdlock.Backend, g backend.Grant, stop func(context.Context, bool) error) error
	}{
		"the end of its wait": {20 * time.Second, func(ctx context.Context, _ *etcdtest.Server, _ *etcdlock.Backend, _ backend.Grant, stop func(context.Context, bool) error) error {
			return stop(ctx, false)
		}},
		"another release": {20 * time.Second, func(ctx context.Context, _ *etcdtest.Server, b *etcdlock.Backend, g backend.Grant, _ func(context.Context, bool) error) error {
			return b.Release(ctx, g)
		}},
		"its TTL": {time.Second, func(context.Context, *etcdtest.Server, *etcdlock.Backend, backend.Grant, func(context.Context, bool) error) error {
			return nil // it runs out by itself
		}},
	} {
		t.Run(name, func(t *testing.T) {
			srv := etcdtest.Start(t, nil)
			ctx := testContext(t)
			var hold atomic.Bool
			sent, arrive := make(chan struct{}), make(chan struct{})
			b := newBackend(t, interceptedClient(t, srv, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if deletes(req) && hold.CompareAndSwap(true, false) {
					close(sent)
					<-arrive
				}
				return invoker(ctx, method, req, reply, cc, opts...)
			}))
			c := claim(tc.ttl)
			_, stop, err := b.Watch(ctx, "k", c)
			if err != nil {
				t.Fatal(err)
			}
			g := mustAcquire(t, b, "k", c)
			hold.Store(true)
			released := make(chan error, 1)
			go func() { released <- b.Release(ctx, g) }()
			<-sent
			if err := tc.remove(ctx, srv, b, g, stop); err != nil {
				t.Fatal(err)
			}
			mustHaveNoLocks(t, srv)
			next := mustAcquire(t, b, "k", claim(20*time.Second))
			close(arrive)
			if err := <-released; err != nil && name != "its TTL" {
				t.Errorf("a release whose entry this backend has removed meanwhile: %v", err)
			}
			if _, err := b.Renew(ctx, next); err != nil {
				t.Errorf("the next holder: %v", err)
			}
			mustRelease(t, b, next)
			if err := stop(ctx, true); err != nil {
				t.Error(err)
			}
		})
	}
}

// The client library sends a deletion again if its answer says that it took too long,
// which a proxy may say of one that was carried out. The second finds nothing, and that
// is no loss. What was lost before is told all the same where it can be known.
func TestReleaseThatIsRepeated(t *testing.T) {
	for name, tc := range map[string]struct {
		repeat bool
		before func(ctx context.Context, srv *etcdtest.Server, kv func() *clientv3.GetResponse) error
		lost   bool
	}{
		"held": {repeat: true},
		"deleted before, and sent once": {false, func(ctx context.Context, srv *etcdtest.Server, kv func() *clientv3.GetResponse) error {
			return errOf(srv.Client().Delete(ctx, string(kv().Kvs[0].Key)))
		}, true},
		"ended with its lease": {true, func(ctx context.Context, srv *etcdtest.Server, kv func() *clientv3.GetResponse) error {
			return errOf(srv.Client().Revoke(ctx, clientv3.LeaseID(kv().Kvs[0].Lease)))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := etcdtest.Start(t, nil)
			ctx := testContext(t)
			var repeat atomic.Bool
			b := newBackend(t, interceptedClient(t, srv, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				err := invoker(ctx, method, req, reply, cc, opts...)
				if err == nil && deletes(req) && repeat.CompareAndSwap(true, false) {
					return status.Error(codes.DeadlineExceeded, "said by the test")
				}
				return err
			}))
			g := mustAcquire(t, b, "k", claim(20*time.Second))
			if tc.before != nil {
				if err := tc.before(ctx, srv, func() *clientv3.GetResponse {
					resp, err := srv.Client().Get(ctx, etcdlock.DefaultPrefix+"lock/k\t", clientv3.WithPrefix())
					if err != nil || len(resp.Kvs) != 1 {
						t.Fatalf("%v, %v", resp, err)
					}
					return resp
				}); err != nil {
					t.Fatal(err)
				}
			}
			repeat.Store(tc.repeat)
			err := b.Release(ctx, g)
			if repeat.Load() {
				t.Fatal("nothing was deleted")
			}
			if tc.lost {
				mustBe(t, "a lock that was lost", err, backend.ErrLost)
			} else if err != nil {
				t.Errorf("released while held: %v", err)
			}
			if err := b.Release(ctx, g); (err == nil) == tc.lost {
				t.Errorf("the same once more: %v", err)
			}
		})
	}
}

// So does it with a break, which has then broken the lock.
func TestBreakThatIsRepeated(t *testing.T) {
	for name, taken := range map[string]bool{"free": false, "another's": true} {
		t.Run(name, func(t *testing.T) {
			srv := etcdtest.Start(t, nil)
			ctx := testContext(t)
			other := newBackend(t, srv.Client())
			var repeat atomic.Bool
			b := newBackend(t, interceptedClient(t, srv, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				err := invoker(ctx, method, req, reply, cc, opts...)
				if err == nil && deletes(req) && repeat.CompareAndSwap(true, false) {
					if taken {
						mustAcquire(t, other, "k", claim(20*time.Second))
					}
					return status.Error(codes.DeadlineExceeded, "said by the test")
				}
				return err
			}))
			g := mustAcquire(t, other, "k", claim(20*time.Second))
			repeat.Store(true)
			if err := b.Break(ctx, "k", g.Token); err != nil {
				t.Error(err)
			}
			if repeat.Load() {
				t.Fatal("nothing was deleted")
			}
		})
	}
}
