package etcdtest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// rawCodec passes messages on as they are.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), b...)
	return nil
}

// startPartial starts a server that does what srv does, except that it answers calls
// of one method with an error.
func startPartial(t *testing.T, srv *etcdtest.Server, method string, refusal error) (addr string) {
	t.Helper()
	conn, err := grpc.NewClient(srv.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	forward := func(_ any, down grpc.ServerStream) error {
		called, _ := grpc.MethodFromServerStream(down)
		if called == method {
			return refusal
		}
		ctx, cancel := context.WithCancel(down.Context())
		defer cancel()
		up, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, called, grpc.ForceCodec(rawCodec{}))
		if err != nil {
			return err
		}
		go func() {
			for {
				var b []byte
				if err := down.RecvMsg(&b); err != nil {
					_ = up.CloseSend()
					return
				}
				if err := up.SendMsg(&b); err != nil {
					return
				}
			}
		}()
		for {
			var b []byte
			if err := up.RecvMsg(&b); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := down.SendMsg(&b); err != nil {
				return err
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(forward))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // until it is stopped
	}()
	t.Cleanup(func() { s.Stop(); <-served })
	return l.Addr().String()
}

// A store that speaks a part of etcd's protocol is told from one that is not reached,
// and what it lacks is named.
func TestPartOfEtcd(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	unknown := status.Error(codes.Unimplemented, "unknown service")
	for _, tc := range []struct {
		name, method string
		refusal      error
		words        []string
	}{
		{"no transactions but a few", "/etcdserverpb.KV/Txn", errors.New("unsupported transaction"), []string{"transactions", "unsupported transaction"}},
		{"no transactions in general", "/etcdserverpb.KV/Txn", status.Error(codes.InvalidArgument, "etcdserver: unsupported operations in txn request"), []string{"transactions", "unsupported operations"}},
		{"no transactions", "/etcdserverpb.KV/Txn", unknown, []string{"transactions"}},
		{"no keepalives", "/etcdserverpb.Lease/LeaseKeepAlive", errors.New("keepalive is not supported"), []string{"keepalives of leases", "is not supported"}},
		{"no leases", "/etcdserverpb.Lease/LeaseKeepAlive", unknown, []string{"keepalives of leases"}},
		{"no watches", "/etcdserverpb.Watch/Watch", unknown, []string{"watches"}},
		{"watches refused", "/etcdserverpb.Watch/Watch", errors.New("watch is not supported"), []string{"watches"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := startPartial(t, srv, tc.method, tc.refusal)
			mustFail(t, 5*time.Second, opening("etcd://"+addr+"/"), false, append(tc.words, addr, "is not etcd")...)
		})
	}
	t.Run("all of it", func(t *testing.T) {
		b, err := backend.Open(ctx, "etcd://"+startPartial(t, srv, "", nil)+"/")
		if err != nil {
			t.Fatal(err)
		}
		mustRelease(t, b, mustAcquire(t, b, "k", claim(20*time.Second)))
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("on a client", func(t *testing.T) {
		for _, refusal := range []error{unknown, errors.New("unsupported transaction")} {
			client, err := clientv3.New(clientv3.Config{
				Endpoints: []string{"http://" + startPartial(t, srv, "/etcdserverpb.KV/Txn", refusal)}, Logger: zap.NewNop(),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			b := etcdlock.New(client, nil)
			t.Cleanup(func() { _ = b.Close() })
			mustFail(t, 5*time.Second, func(ctx context.Context) error { return errOf(b.Acquire(ctx, "k", claim(20*time.Second))) }, false, "not etcd")
		}
	})
}
