package etcdtest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

func TestFIFO(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	holder := newBackend(t, srv.Client())
	g := mustAcquire(t, holder, "k", claim(20*time.Second))
	const n = 8
	order := make(chan int, n)
	var wg sync.WaitGroup
	for i := range n {
		b := newBackend(t, srv.Client())
		c := claim(20 * time.Second)
		wake, stop, err := b.Watch(ctx, "k", c)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				<-wake
				g, err := b.Acquire(ctx, "k", c)
				if errors.Is(err, backend.ErrHeld) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				order <- i
				if err := errors.Join(stop(ctx, true), b.Release(ctx, g)); err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	rec, err := holder.Inspect(ctx, "k")
	if err != nil || rec.ID != g.ID {
		t.Fatalf("%+v, %v", rec, err)
	}
	t.Log(rec)
	mustRelease(t, holder, g)
	wg.Wait()
	for i := range n {
		if got := <-order; got != i {
			t.Errorf("number %d was served in place %d", got, i)
		}
	}
}

// An attempt that does not wait leaves a queue alone, and nothing behind.
func TestNoJumping(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b, c := newBackend(t, srv.Client()), newBackend(t, srv.Client()), newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(20*time.Second))
	cb := claim(20 * time.Second)
	wake, stop, err := b.Watch(ctx, "k", cb)
	if err != nil {
		t.Fatal(err)
	}
	mustBeHeld(t, b, "k", cb)
	mustRelease(t, a, g)
	// b's turn has come, and it has not said anything yet
	for range 10 {
		mustBeHeld(t, c, "k", claim(20*time.Second))
	}
	select {
	case <-wake:
	case <-ctx.Done():
		t.Fatal("the waiter was not woken")
	}
	gb := mustAcquire(t, b, "k", cb)
	if err := stop(ctx, true); err != nil {
		t.Fatal(err)
	}
	mustBeHeld(t, c, "k", claim(20*time.Second))
	mustRelease(t, b, gb)
	mustHaveNoLocks(t, srv)
}

func TestCancelledWaiterLeavesNothing(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a := newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(20*time.Second))
	waiters := make([]*etcdlock.Backend, 3)
	stops := make([]func(context.Context, bool) error, 3)
	wakes := make([]<-chan struct{}, 3)
	cs := make([]backend.Claim, 3)
	for i := range waiters {
		waiters[i], cs[i] = newBackend(t, srv.Client()), claim(20*time.Second)
		var err error
		if wakes[i], stops[i], err = waiters[i].Watch(ctx, "k", cs[i]); err != nil {
			t.Fatal(err)
		}
	}
	// the one in the middle, and then the first
	for _, i := range []int{1, 0} {
		if err := stops[i](ctx, false); err != nil {
			t.Fatal(err)
		}
	}
	mustRelease(t, a, g)
	for {
		<-wakes[2]
		got, err := waiters[2].Acquire(ctx, "k", cs[2])
		if errors.Is(err, backend.ErrHeld) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := stops[2](ctx, true); err != nil {
			t.Fatal(err)
		}
		mustRelease(t, waiters[2], got)
		break
	}
	// a registration that is cancelled on the way
	g = mustAcquire(t, a, "k", claim(20*time.Second))
	for i := range 20 {
		wctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Duration(i)*100*time.Microsecond, cancel)
		if _, stop, err := waiters[0].Watch(wctx, "k", claim(20*time.Second)); err == nil {
			if err := stop(ctx, false); err != nil {
				t.Error(err)
			}
		}
		cancel()
	}
	mustRelease(t, a, g)
	mustHaveNoLocks(t, srv)
}

// A waiter whose entry is deleted, by an operator or with its lease, queues
// again.
func TestWaiterEntryDeleted(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	op := srv.Client()
	g := mustAcquire(t, a, "k", claim(20*time.Second))
	got := make(chan error, 1)
	c := claim(20 * time.Second)
	go func() {
		gb, err := acquireWaiting(ctx, b, "k", c, 200*time.Millisecond)
		if err == nil {
			err = b.Release(ctx, gb)
		}
		got <- err
	}()
	for deleted := 0; deleted < 3; {
		resp, err := op.Get(ctx, "hasp/lock/k\t", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range resp.Kvs {
			if !strings.Contains(string(kv.Value), c.ID) {
				continue
			}
			if _, err := op.Delete(ctx, string(kv.Key)); err != nil {
				t.Fatal(err)
			}
			deleted++
		}
	}
	mustRelease(t, a, g)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	mustHaveNoLocks(t, srv)
}

// mustHaveNoLocks waits until no entry is left; some are removed in the
// background.
func mustHaveNoLocks(t *testing.T, srv *etcdtest.Server) {
	t.Helper()
	ctx := testContext(t)
	c := srv.Client()
	for {
		resp, err := c.Get(ctx, "hasp/lock/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			t.Fatalf("entries are left: %v", err)
		}
		if len(resp.Kvs) == 0 {
			return
		}
	}
}

// Several clients take turns on a counter that is read and written in two steps.
func TestLostUpdate(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	const clients, rounds = 6, 25
	var wg sync.WaitGroup
	var mu sync.Mutex // for the race detector's sake alone
	counter, lastToken, inside := 0, uint64(0), 0
	for range clients {
		b := newBackend(t, srv.Client())
		wg.Go(func() {
			for range rounds {
				g, err := acquireWaiting(ctx, b, "k", claim(20*time.Second), never)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				if inside != 1 {
					t.Errorf("%d hold the lock", inside)
				}
				if g.Token <= lastToken {
					t.Errorf("token %d after %d", g.Token, lastToken)
				}
				lastToken = g.Token
				read := counter
				mu.Unlock()
				time.Sleep(100 * time.Microsecond)
				mu.Lock()
				counter = read + 1
				inside--
				mu.Unlock()
				if err := b.Release(ctx, g); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if counter != clients*rounds {
		t.Errorf("counter is %d after %d increments", counter, clients*rounds)
	}
	mustHaveNoLocks(t, srv)
}

// The entry ahead may be gone by the time that the watch for its deletion is made,
// which then tells of nothing. So the waiter looks, and is not misled by another
// entry that has the same name by then.
func TestWatchMadeTooLate(t *testing.T) {
	for name, again := range map[string]bool{"gone": false, "gone, and its name in use again": true} {
		t.Run(name, func(t *testing.T) {
			srv := etcdtest.Start(t, nil)
			ctx := testContext(t)
			asked, gate := make(chan struct{}, 16), make(chan struct{})
			client, err := clientv3.New(clientv3.Config{
				Endpoints: []string{srv.Endpoint()}, Logger: zap.NewNop(),
				DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(
					func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
						if strings.HasSuffix(method, ".Watch/Watch") {
							asked <- struct{}{}
							select {
							case <-gate:
							case <-ctx.Done():
							}
						}
						return streamer(ctx, desc, cc, method, opts...)
					})},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			holder, b := newBackend(t, srv.Client()), newBackend(t, client)
			g := mustAcquire(t, holder, "k", claim(20*time.Second))
			c := claim(20 * time.Second)
			wake, stop, err := b.Watch(ctx, "k", c)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-asked:
			case <-ctx.Done():
				t.Fatal("no watch is made")
			}
			mustRelease(t, holder, g)
			if again {
				_, stop, err := holder.Watch(ctx, "k", claim(20*time.Second))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := stop(ctx, false); err != nil {
						t.Error(err)
					}
				}()
			}
			close(gate)
			select {
			case <-wake:
			case <-ctx.Done():
				t.Fatal("the waiter was not woken")
			}
			g = mustAcquire(t, b, "k", c)
			if err := stop(ctx, true); err != nil {
				t.Error(err)
			}
			mustRelease(t, b, g)
		})
	}
}
