package etcdtest_test

import (
	"context"
	"os/exec"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/internal/port"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// alteredStream is a stream of keepalives whose answers a test changes.
type alteredStream struct {
	grpc.ClientStream
	alter func(ttl int64) int64
}

func (s *alteredStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		ttl := reflect.ValueOf(m).Elem().FieldByName("TTL")
		ttl.SetInt(s.alter(ttl.Int()))
	}
	return err
}

// keepaliveClient is a client whose streams of keepalives are counted and changed.
func keepaliveClient(t *testing.T, srv *etcdtest.Server, streams *atomic.Int32, alter func(int64) int64) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{srv.Endpoint()}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := streamer(ctx, desc, cc, method, opts...)
				if err != nil || !strings.HasSuffix(method, "/LeaseKeepAlive") {
					return s, err
				}
				streams.Add(1)
				return &alteredStream{s, alter}, nil
			})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// An answer that says that less than the whole TTL is left is no renewal: something in
// between has answered with what it knew.
func TestKeepaliveThatIsNone(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	var partial atomic.Bool
	var streams atomic.Int32
	b := newBackend(t, keepaliveClient(t, srv, &streams, func(ttl int64) int64 {
		if partial.Load() {
			return ttl - 1
		}
		return ttl
	}))
	g := mustAcquire(t, b, "k", claim(20*time.Second))
	time.Sleep(1200 * time.Millisecond) // until a renewal needs a keepalive
	partial.Store(true)
	mustFail(t, 3*time.Second, func(ctx context.Context) error { return errOf(b.Renew(ctx, g)) }, true, "not renewed", "proxy", "20 s", "21 s")
	partial.Store(false)
	if _, err := b.Renew(ctx, g); err != nil {
		t.Error(err)
	}
	mustRelease(t, b, g)
}

// One stream serves all keepalives, until it breaks.
func TestKeepalivesShareAStream(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	var streams atomic.Int32
	b := newBackend(t, keepaliveClient(t, srv, &streams, func(ttl int64) int64 { return ttl }))
	var gs []backend.Grant
	for ttl := range 5 { // as many leases
		gs = append(gs, mustAcquire(t, b, strings.Repeat("k", ttl+1), claim(time.Duration(20+ttl)*time.Second)))
	}
	renew := func() {
		t.Helper()
		time.Sleep(1200 * time.Millisecond) // until each needs a keepalive
		for _, r := range b.RenewAll(ctx, gs) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	renew()
	renew()
	if n := streams.Load(); n != 1 {
		t.Errorf("%d streams for the keepalives of 5 leases", n)
	}
	srv.Restart()
	for {
		_, err := b.Renew(ctx, gs[0])
		if err == nil {
			break
		}
		mustBe(t, "a renewal after a restart", err, backend.ErrUnavailable)
	}
	renew()
	for _, g := range gs {
		mustRelease(t, b, g)
	}
}

// etcd's own proxy answers only the first keepalive on a stream at once.
func TestThroughGRPCProxy(t *testing.T) {
	t.Parallel()
	path, err := etcdtest.FindProgram()
	if err != nil {
		t.Skip(err)
	}
	srv := etcdtest.Start(t, nil)
	addr := port.Free(t)
	cmd := exec.Command(path, "grpc-proxy", "start", "--endpoints="+srv.Addr(), "--listen-addr="+addr, "--data-dir="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
	})
	ctx := testContext(t)
	var b *etcdlock.Backend
	for b == nil {
		opened, err := backend.Open(ctx, "etcd://"+addr+"/")
		if err == nil {
			b = opened.(*etcdlock.Backend)
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	defer b.Close()
	const ttl = 9 * time.Second
	g := mustAcquire(t, b, "k", claim(ttl))
	other := newBackend(t, srv.Client())
	for start := time.Now(); time.Since(start) < 2*ttl; time.Sleep(ttl / 6) {
		begun := time.Now()
		for {
			rctx, cancel := context.WithTimeout(ctx, ttl/3)
			_, err := b.Renew(rctx, g)
			cancel()
			if err == nil {
				break
			}
			t.Logf("after %v: %v", time.Since(begun), err)
			mustBe(t, "a renewal through the proxy", err, backend.ErrUnavailable)
			if time.Since(begun) > ttl/2 {
				t.Fatalf("no renewal succeeds through the proxy")
			}
		}
		t.Logf("renewed within %v", time.Since(begun))
		mustBeHeld(t, other, "k", claim(ttl))
	}
	if err := b.Release(ctx, g); err != nil {
		t.Error(err)
	}
	mustHaveNoLocks(t, srv)
}
