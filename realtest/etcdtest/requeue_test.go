package etcdtest_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A waiter whose entry has gone, and whose queueing again fails, queues again at the
// next attempt: those who came later would be served before it for ever.
func TestQueueingAgainFails(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "said by the test")
	queues := func(req any) bool {
		txn, ok := req.(*etcdserverpb.TxnRequest)
		return ok && len(txn.Success) == 2 && txn.Success[0].GetRequestPut() != nil
	}
	for name, intercept := range map[string]func(fail *atomic.Bool, method string, req any, send func() error) error{
		"the put's answer is lost": func(fail *atomic.Bool, _ string, req any, send func() error) error {
			if err := send(); err != nil || !queues(req) || !fail.CompareAndSwap(true, false) {
				return err
			}
			return unavailable
		},
		"the put is lost": func(fail *atomic.Bool, _ string, req any, send func() error) error {
			if queues(req) && fail.CompareAndSwap(true, false) {
				return unavailable
			}
			return send()
		},
		"no lease can be made": func(fail *atomic.Bool, method string, _ any, send func() error) error {
			if strings.HasSuffix(method, "/LeaseGrant") && fail.CompareAndSwap(true, false) {
				return unavailable
			}
			return send()
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := etcdtest.Start(t, nil)
			ctx := testContext(t)
			op := srv.Client()
			var fail, on atomic.Bool
			b := newBackend(t, interceptedClient(t, srv, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				send := func() error { return invoker(ctx, method, req, reply, cc, opts...) }
				if !on.Load() {
					return send()
				}
				return intercept(&fail, method, req, send)
			}))
			other := newBackend(t, op)
			held := mustAcquire(t, other, "k", claim(60*time.Second))
			c := claim(60 * time.Second)
			wake, stop, err := b.Watch(ctx, "k", c)
			if err != nil {
				t.Fatal(err)
			}
			entry := func() (lease clientv3.LeaseID) {
				resp, err := op.Get(ctx, etcdlock.DefaultPrefix+"lock/k\t", clientv3.WithPrefix())
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range resp.Kvs {
					if strings.Contains(string(kv.Value), c.ID) {
						lease = clientv3.LeaseID(kv.Lease)
					}
				}
				return lease
			}
			// as after ten seconds without a connection
			if err := errOf(op.Revoke(ctx, entry())); err != nil {
				t.Fatal(err)
			}
			fail.Store(true)
			on.Store(true)
			mustBe(t, "the attempt that queues again", errOf(b.Acquire(ctx, "k", c)), backend.ErrUnavailable)
			if fail.Load() {
				t.Fatal("it did not queue again")
			}
			mustBeHeld(t, b, "k", c)
			if entry() == 0 {
				t.Error("the next attempt has not queued again")
			}
			mustBeHeld(t, b, "k", c)
			if entry() == 0 {
				t.Fatal("it is not in the queue")
			}
			_, stopLater, err := other.Watch(ctx, "k", claim(60*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			mustRelease(t, other, held)
			for {
				select {
				case <-wake:
				case <-ctx.Done():
					t.Fatal("it is not woken")
				}
				g, err := b.Acquire(ctx, "k", c)
				if errors.Is(err, backend.ErrHeld) {
					continue // woken for what is past
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := stop(ctx, true); err != nil {
					t.Error(err)
				}
				mustRelease(t, b, g)
				break
			}
			if err := stopLater(ctx, false); err != nil {
				t.Error(err)
			}
			mustHaveNoLocks(t, srv)
		})
	}
}
