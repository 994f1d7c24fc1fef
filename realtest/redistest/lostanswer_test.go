package redistest_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// thief is a proxy that can lose one answer: the next request reaches the server,
// which carries it out, and its answer does not reach the client, whose connection
// breaks.
type thief struct {
	l      net.Listener
	target string
	armed  atomic.Bool
	stolen atomic.Int32
	wg     sync.WaitGroup
}

func startThief(t *testing.T, target string) *thief {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &thief{l: l, target: target}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { // after the clients, whose clean-up comes first
		l.Close()
		p.wg.Wait()
	})
	return p
}

func (p *thief) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	var steal atomic.Bool
	p.wg.Go(func() {
		defer client.Close()
		defer server.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if steal.Load() {
				p.stolen.Add(1)
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if p.armed.CompareAndSwap(true, false) {
			steal.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A release is carried out, its answer is lost, and a waiter has the lock before it is
// repeated: no loss.
func TestReleaseWhoseAnswerIsLost(t *testing.T) {
	t.Run("repeated by the engine", func(t *testing.T) {
		testReleaseWhoseAnswerIsLost(t, func(addr string) backend.Backend { return open(t, "redis://"+addr) })
	})
	// The engine does not know of it then.
	t.Run("repeated by the client", func(t *testing.T) {
		testReleaseWhoseAnswerIsLost(t, func(addr string) backend.Backend {
			// The next holder has the lock before it is repeated.
			c := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, MinRetryBackoff: 200 * time.Millisecond, MaxRetryBackoff: 200 * time.Millisecond})
			t.Cleanup(func() { c.Close() })
			b, err := redislock.New(c, nil)
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
	})
}

func testReleaseWhoseAnswerIsLost(t *testing.T, opened func(addr string) backend.Backend) {
	s := redistest.Start(t, nil)
	p := startThief(t, s.Addr())
	ctx := context.Background()
	a := hasp.New(opened(p.l.Addr().String()), nil)
	b := hasp.New(open(t, s.URL()), nil)
	defer a.Close()
	defer b.Close()
	for range 5 {
		lease, err := a.Acquire(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		var next *hasp.Lease
		go func() {
			var err error
			next, err = b.Acquire(ctx, "k")
			got <- err
		}()
		waits := func() bool { return len(s.Keys()) > 1 } // the lock, and who waits
		for end := time.Now().Add(20 * time.Second); !waits(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("nobody waits; keys: %q", s.Keys())
			}
		}
		p.armed.Store(true)
		if err := lease.Release(ctx); err != nil {
			t.Errorf("release: %v", err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		if err := next.Release(ctx); err != nil {
			t.Errorf("the waiter's release: %v", err)
		}
	}
	if n := p.stolen.Load(); n != 5 {
		t.Errorf("%d answers were lost, want 5", n)
	}
}

// The same, and the lock had been taken away before: that is a loss.
func TestReleaseWhoseAnswerIsLostAfterALoss(t *testing.T) {
	s := redistest.Start(t, nil)
	p := startThief(t, s.Addr())
	ctx := context.Background()
	a := hasp.New(open(t, "redis://"+p.l.Addr().String()), &hasp.Options{TTL: time.Minute, Margin: 100 * time.Millisecond})
	b := hasp.New(open(t, s.URL()), nil)
	defer a.Close()
	defer b.Close()
	lease, err := a.Acquire(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	s.Do("flushall") // nobody is told
	next, err := b.Acquire(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	for {
		rec, err := b.Inspect(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if rec.HeldFor > 2*time.Second {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.armed.Store(true)
	if err := lease.Release(ctx); !errors.Is(err, hasp.ErrLost) {
		t.Errorf("release: %v, want ErrLost", err)
	}
	if n := p.stolen.Load(); n != 1 {
		t.Errorf("%d answers were lost, want 1", n)
	}
	if err := next.Release(ctx); err != nil {
		t.Errorf("the successor's release: %v", err)
	}
}
