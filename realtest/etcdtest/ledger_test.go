package etcdtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ledger notes what etcd has promised of each lease, to any client, and when each
// entry was seen to be deleted: so that a lease which etcd revokes before its time,
// as a leader does that was stopped and wakes, can be told from a fault of ours.
type ledger struct {
	mu      sync.Mutex
	until   map[int64]time.Time // by lease: as promised, from before the request
	asked   map[int64]bool      // its revocation was asked for
	leases  map[string]int64    // by claim: what its entry was on
	deleted map[string]time.Time
}

func newLedger(t *testing.T, cl *etcdtest.Cluster) *ledger {
	t.Helper()
	l := &ledger{until: map[int64]time.Time{}, asked: map[int64]bool{}, leases: map[string]int64{}, deleted: map[string]time.Time{}}
	client := cl.Client()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.follow(ctx, client)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

// follow notes entries, through failures of the servers.
func (l *ledger) follow(ctx context.Context, client *clientv3.Client) {
	from := int64(1)
	for ctx.Err() == nil {
		events := client.Watch(ctx, etcdlock.DefaultPrefix+"lock/", clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithPrevKV())
		for resp := range events {
			now := time.Now()
			l.mu.Lock()
			for _, ev := range resp.Events {
				from = ev.Kv.ModRevision + 1
				kv := ev.Kv
				if ev.Type == clientv3.EventTypeDelete {
					kv = ev.PrevKv
				}
				var v struct{ ID string }
				if kv == nil || json.Unmarshal(kv.Value, &v) != nil {
					continue
				}
				if ev.Type == clientv3.EventTypeDelete {
					l.deleted[v.ID] = now
				} else {
					l.leases[v.ID] = kv.Lease
				}
			}
			l.mu.Unlock()
		}
	}
}

// client returns a client of the cluster whose leases are noted.
func (l *ledger) client(t *testing.T, cl *etcdtest.Cluster) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: cl.Endpoints(), Logger: zap.NewNop(), DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if strings.HasSuffix(method, "/LeaseRevoke") {
					l.mu.Lock()
					l.asked[intField(req, "ID")] = true
					l.mu.Unlock()
				}
				start := time.Now()
				err := invoke(ctx, method, req, reply, cc, opts...)
				if err == nil && strings.HasSuffix(method, "/LeaseGrant") {
					l.promised(intField(reply, "ID"), intField(reply, "TTL"), start)
				}
				return err
			}),
			grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := streamer(ctx, desc, cc, method, opts...)
				if err != nil || !strings.HasSuffix(method, "/LeaseKeepAlive") {
					return s, err
				}
				return &notedStream{ClientStream: s, l: l, sent: map[int64][]time.Time{}}, nil
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func intField(m any, name string) int64 { return reflect.ValueOf(m).Elem().FieldByName(name).Int() }

func (l *ledger) promised(id, seconds int64, start time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until := start.Add(time.Duration(seconds) * time.Second); until.After(l.until[id]) {
		l.until[id] = until
	}
}

// notedStream is a stream of keepalives, whose answers come in order for each lease.
type notedStream struct {
	grpc.ClientStream
	l    *ledger
	mu   sync.Mutex
	sent map[int64][]time.Time
}

func (s *notedStream) SendMsg(m any) error {
	id := intField(m, "ID")
	s.mu.Lock()
	s.sent[id] = append(s.sent[id], time.Now())
	s.mu.Unlock()
	return s.ClientStream.SendMsg(m)
}

func (s *notedStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	id, ttl := intField(m, "ID"), intField(m, "TTL")
	s.mu.Lock()
	start := s.sent[id][0]
	s.sent[id] = s.sent[id][1:]
	s.mu.Unlock()
	if ttl > 0 {
		s.l.promised(id, ttl, start)
	}
	return nil
}

// broken tells whether etcd has ended the lease that a claim's entry was on, which
// nobody had asked for, and deleted the entry with it before the time that it had
// itself promised, and when that was. Everything else that takes a lock from its
// holder is a fault of ours.
func (l *ledger) broken(ctx context.Context, client *clientv3.Client, claim string) (how string, err error) {
	l.mu.Lock()
	id, noted := l.leases[claim]
	deleted, gone := l.deleted[claim]
	until, asked := l.until[id], l.asked[id]
	l.mu.Unlock()
	if !noted || !gone || asked || !deleted.Before(until) {
		return "", nil
	}
	resp, err := client.TimeToLive(ctx, clientv3.LeaseID(id))
	if err != nil || resp.TTL > 0 {
		return "", err
	}
	return fmt.Sprintf("etcd has ended lease %x, which nobody asked for, %v before the time that it had promised", id, until.Sub(deleted)), nil
}

// What the ledger excuses is a lease that was ended early, and nothing else.
func TestLedger(t *testing.T) {
	cl := etcdtest.StartCluster(t, 1, nil)
	ctx := testContext(t)
	l := newLedger(t, cl)
	op := cl.Client()
	const long, short = 30 * time.Second, 2 * time.Second
	for _, tc := range []struct {
		name string
		ttl  time.Duration
		do   func(b *etcdlock.Backend, id int64, key string) error
		want bool
	}{
		{"revoked by nobody of ours", long, func(_ *etcdlock.Backend, id int64, _ string) error {
			return errOf(op.Revoke(ctx, clientv3.LeaseID(id)))
		}, true},
		{"entry deleted", long, func(_ *etcdlock.Backend, _ int64, key string) error {
			return errOf(op.Delete(ctx, etcdlock.DefaultPrefix+"lock/"+key+"\t", clientv3.WithPrefix()))
		}, false},
		{"revoked by its client", long, func(b *etcdlock.Backend, id int64, _ string) error {
			return errOf(l.client(t, cl).Revoke(ctx, clientv3.LeaseID(id)))
		}, false},
		{"run out", short, func(b *etcdlock.Backend, _ int64, _ string) error { return b.Close() }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBackend(t, l.client(t, cl))
			key := strings.ReplaceAll(tc.name, " ", "-")
			c := claim(tc.ttl)
			mustAcquire(t, b, key, c)
			id := int64(0)
			for id == 0 && ctx.Err() == nil {
				l.mu.Lock()
				id = l.leases[c.ID]
				l.mu.Unlock()
			}
			if err := tc.do(b, id, key); err != nil {
				t.Fatal(err)
			}
			for gone := false; !gone; {
				l.mu.Lock()
				_, gone = l.deleted[c.ID]
				l.mu.Unlock()
				if ctx.Err() != nil {
					t.Fatal("the entry stays")
				}
			}
			how, err := l.broken(ctx, op, c.ID)
			if err != nil || (how != "") != tc.want {
				t.Errorf("etcd's fault: %q, %v", how, err)
			}
		})
	}
}
