package etcdtest_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tampered is a client whose next transaction that is not only a read can be lost
// on its way there, or its answer on its way back.
type tampered struct {
	*clientv3.Client
	loseAnswer atomic.Bool
	holdBack   atomic.Bool
	late       atomic.Pointer[func() error] // sends what was held back
}

func newTampered(t *testing.T, srv *etcdtest.Server) *tampered {
	t.Helper()
	return tamperWith(t, srv, "ignore_value")
}

// tamperWith returns a client to tamper with transactions that have text in them.
func tamperWith(t *testing.T, srv *etcdtest.Server, text string) *tampered {
	t.Helper()
	c := &tampered{}
	var err error
	c.Client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{srv.Endpoint()}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				send := func() error { return invoker(context.WithoutCancel(ctx), method, req, reply, cc, opts...) }
				moves := strings.HasSuffix(method, "/Txn") && strings.Contains(req.(interface{ String() string }).String(), text)
				switch {
				case moves && c.holdBack.CompareAndSwap(true, false):
					c.late.Store(&send)
					return status.Error(codes.Unavailable, "held back by the test")
				case moves && c.loseAnswer.CompareAndSwap(true, false):
					if err := send(); err != nil {
						return err
					}
					return status.Error(codes.Unavailable, "lost by the test")
				}
				return send()
			})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// The move to a lock's lease is lost on its way, or its answer is: the next renewal
// makes it good, and wherever the entry is, it is released.
func TestMoveOfUnknownOutcome(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	for _, again := range []bool{false, true} {
		for name, lose := range map[string]func(*tampered){
			"request lost": func(c *tampered) { c.holdBack.Store(true) },
			"answer lost":  func(c *tampered) { c.loseAnswer.Store(true) },
		} {
			if again {
				name += ", renewed again"
			}
			t.Run(name, func(t *testing.T) {
				client := newTampered(t, srv)
				a, b := newBackend(t, srv.Client()), newBackend(t, client.Client)
				g := inherit(t, a, b, "k", longTTL)
				lose(client)
				mustBe(t, "a renewal whose move is lost", errOf(b.Renew(ctx, g)), backend.ErrUnavailable)
				if again {
					next, err := b.Renew(ctx, g)
					if err != nil || next.TTL < longTTL {
						t.Fatalf("the next renewal: TTL %v, %v", next.TTL, err)
					}
					id, ttl := leaseOf(t, srv, "k")
					if ttl < longTTL {
						t.Errorf("on a lease of %v", ttl)
					}
					if late := client.late.Load(); late != nil {
						if err := (*late)(); err != nil {
							t.Fatal(err)
						}
						if now, _ := leaseOf(t, srv, "k"); now != id {
							t.Error("a move that came late has put the entry on another lease")
						}
					}
				}
				mustRelease(t, b, g)
				if late := client.late.Load(); late != nil {
					if err := (*late)(); err != nil {
						t.Fatal(err)
					}
				}
				mustHaveNothing(t, srv, "k")
			})
		}
	}
}

// As before, but the lock is not renewed again. It runs out as it would have, although
// the lease that it may be on by now is kept alive for another lock.
func TestMoveOfUnknownOutcomeRunsOut(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	client := newTampered(t, srv)
	a, b, other := newBackend(t, srv.Client()), newBackend(t, client.Client), newBackend(t, srv.Client())
	kept := mustAcquire(t, b, "kept", claim(longTTL))
	start := time.Now()
	g := inherit(t, a, b, "k", longTTL)
	client.loseAnswer.Store(true)
	mustBe(t, "a renewal whose answer is lost", errOf(b.Renew(ctx, g)), backend.ErrUnavailable)
	if _, ttl := leaseOf(t, srv, "k"); ttl < longTTL {
		t.Fatalf("the entry is on a lease of %v: it was not moved", ttl)
	}
	next, after := freeAt(t, other, "k", start)
	if after < g.TTL || after > g.TTL+expirySlack {
		t.Errorf("stale after %v, %v was granted", after, g.TTL)
	}
	mustRelease(t, other, next)
	mustRelease(t, b, kept)
	mustHaveNoLocks(t, srv)
}

// A grant is handed to another backend, whose move of the entry to its own lease is
// held back until it has given the grant up. It stays with the first one.
func TestTakenOverGrantMovesTooLate(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	client := newTampered(t, srv)
	a, b := newBackend(t, srv.Client()), newBackend(t, client.Client)
	const ttl = 6 * time.Second
	kept := mustAcquire(t, b, "kept", claim(ttl)) // b's lease lives on
	g := mustAcquire(t, a, "k", claim(ttl))
	mine, _ := leaseOf(t, srv, "k")
	handed := g
	handed.State = nil
	lost := make(chan string, 4)
	defer b.OnLoss(func(key, id string) { lost <- key })()
	client.holdBack.Store(true)
	mustBe(t, "a renewal by another backend that is held back", errOf(b.Renew(ctx, handed)), backend.ErrUnavailable)
	for gone := false; !gone; {
		select {
		case <-lost:
			gone = true
		case <-time.After(ttl / 10):
		case <-ctx.Done():
			t.Fatal("the other backend does not give the grant up")
		}
		var err error
		if g, err = a.Renew(ctx, g); err != nil {
			t.Fatal(err)
		}
		if kept, err = b.Renew(ctx, kept); err != nil {
			t.Fatal(err)
		}
	}
	// given up in memory; wait until it is in etcd, too
	waitWritten(t, srv, "k")
	if err := (*client.late.Load())(); err != nil {
		t.Fatal(err)
	}
	if id, _ := leaseOf(t, srv, "k"); id != mine {
		t.Error("the entry was moved by a backend that does not know of it any more")
	}
	mustRelease(t, a, g)
	mustRelease(t, b, kept)
	mustHaveNoLocks(t, srv)
}

// waitWritten returns when key's entry has been written again since it was put.
func waitWritten(t *testing.T, srv *etcdtest.Server, key string) {
	t.Helper()
	ctx := testContext(t)
	c := srv.Client()
	for {
		resp, err := c.Get(ctx, etcdlock.DefaultPrefix+"lock/"+key+"\t", clientv3.WithFirstCreate()...)
		if err != nil || len(resp.Kvs) == 0 {
			t.Fatalf("%d entries, %v", len(resp.Kvs), err)
		}
		if resp.Kvs[0].Version > 1 {
			return
		}
	}
}

// A grant is handed to another backend, whose first renewal is lost on the way. That
// is no loss: the next one succeeds, and what it holds can be released.
func TestHandedGrantIsRenewedAgain(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	for _, again := range []bool{true, false} {
		client := newTampered(t, srv)
		a, b := newBackend(t, srv.Client()), newBackend(t, client.Client)
		g := mustAcquire(t, a, "k", claim(20*time.Second))
		g.State = nil
		client.holdBack.Store(true)
		mustBe(t, "a renewal that is lost", errOf(b.Renew(ctx, g)), backend.ErrUnavailable)
		if again {
			if _, err := b.Renew(ctx, g); err != nil {
				t.Errorf("the next renewal: %v", err)
			}
		}
		mustRelease(t, b, g)
		mustHaveNothing(t, srv, "k")
	}
}
