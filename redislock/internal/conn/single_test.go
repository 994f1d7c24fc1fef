package conn

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func ping(ctx context.Context, c redis.UniversalClient) error { return c.Ping(ctx).Err() }

// Waiting for an answer ends with the context, and the connection is not used again.
func TestAnswerIsNotWaitedFor(t *testing.T) {
	var dialed int
	p := NewPool(redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DisableIdentity: true, Protocol: 2},
		func(_ context.Context, _, _ string, raw func(net.Conn)) (net.Conn, error) {
			a, _ := pair(t) // nobody answers
			raw(a)
			dialed++
			return a, nil
		})
	defer p.Close()
	for i := range 10 {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(5*time.Millisecond, cancel)
		if err := p.Do(ctx, ping); !errors.Is(err, context.Canceled) {
			t.Errorf("ping: %v, want context.Canceled", err)
		}
		if len(p.idle) > 0 || dialed != i+1 {
			t.Errorf("%d connections are kept, of %d that were made", len(p.idle), dialed)
		}
	}
}

// An interruption that comes when the answer has been read costs a connection, and does
// not touch the next call.
func TestLateInterrupt(t *testing.T) {
	p := NewPool(redis.Options{Addr: "127.0.0.1:1"}, nil)
	defer p.Close()
	var first redis.UniversalClient
	ctx, cancel := context.WithCancel(context.Background())
	if err := p.Do(ctx, func(_ context.Context, c redis.UniversalClient) error { first = c; cancel(); return nil }); err != nil {
		t.Error(err)
	}
	if err := p.Do(context.Background(), func(_ context.Context, c redis.UniversalClient) error {
		if c == first {
			t.Error("a connection that is being interrupted is used again")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// Connecting is interrupted too.
func TestConnectIsInterrupted(t *testing.T) {
	p := NewPool(redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1, MaxRetries: -1, ContextTimeoutEnabled: true},
		func(ctx context.Context, _, _ string, _ func(net.Conn)) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
	defer p.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := p.Do(ctx, ping); !errors.Is(err, context.Canceled) {
		t.Errorf("ping: %v, want context.Canceled", err)
	}
	if len(p.idle) > 0 {
		t.Error("what has no connection is kept")
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.Do(ctx, ping); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping: %v, want context.DeadlineExceeded", err)
	}
}

// What a call that was interrupted has not sent is not sent any more.
func TestInterruptedCallIsNotSent(t *testing.T) {
	c, other := pair(t)
	if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	sent, err := c.Write(make([]byte, 64<<20)) // as much as fits into all buffers
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes, %v", sent, err)
	}
	s := &single{raw: c}
	s.interrupt()
	if n, err := io.Copy(io.Discard, other); n >= int64(sent) || err == nil {
		t.Errorf("%d of %d bytes arrived, %v, want less and the connection reset", n, sent, err)
	}
}
