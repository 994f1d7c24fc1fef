package redislock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// pair returns both ends of a connection.
func pair(t *testing.T, crowd func() bool) (*conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return newConn(a, crowd), b
}

func nobody() bool { return false }

func TestConnDeadlines(t *testing.T) {
	c, other := pair(t, nobody)
	buf := make([]byte, 8)
	for range 3 {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want the deadline's error", err)
		}
		// one that has passed does not count for the next
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		if c.eager != nil {
			readAtOnce(t, c.eager, buf[:6])
			continue
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("read %q, %v", buf[:n], err)
		}
	}
	// nobody reads at the other end
	if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 64<<20)
	n, err := c.Write(big)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(big) {
		t.Errorf("wrote %d bytes, %v, want some and the deadline's error", n, err)
	}
	go other.Close()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(buf); err == nil {
		t.Errorf("read from a closed connection: %v", err)
	}
}

func TestConnInterrupt(t *testing.T) {
	c, other := pair(t, nobody)
	buf := make([]byte, 8)
	for range 20 {
		if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		go c.interrupt()
		if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("interrupted read: %v", err)
		}
		// and so is what comes after, whatever deadline it sets
		if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read after the interruption: %v", err)
		}
		if _, err := c.Write(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("write after the interruption: %v", err)
		}
		c.resume()
		if _, err := c.Write([]byte("ask")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(other, buf[:3]); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Write([]byte("tell")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "tell" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
	}
}

// An interruption that comes too late, when the answer has been read or in the next
// call, does not interrupt that.
func TestLateInterrupt(t *testing.T) {
	for name, finish := range map[string]bool{"during the call": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			c, other := pair(t, nobody)
			l := &lane{conn: c}
			first := l.begin()
			if !finish {
				l.interrupt(first)
			}
			l.finish()
			l.begin()
			l.interrupt(first)
			if _, err := other.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("the second call was interrupted: %v", err)
			}
		})
	}
}

// Connecting is interrupted too.
func TestConnectIsInterrupted(t *testing.T) {
	ls := newLanes(redis.Options{Addr: unconnectable(t), DialTimeout: time.Hour, DialerRetries: 1, MaxRetries: -1, ContextTimeoutEnabled: true})
	defer ls.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	time.AfterFunc(20*time.Millisecond, cancel)
	err := ls.do(ctx, func(ctx context.Context, c redis.UniversalClient) error { return c.Ping(ctx).Err() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ping: %v, want context.Canceled", err)
	}
	if len(ls.idle) > 0 {
		t.Error("the lane without a connection is kept")
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err = ls.do(ctx, func(ctx context.Context, c redis.UniversalClient) error { return c.Ping(ctx).Err() })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping: %v, want context.DeadlineExceeded", err)
	}
}

// An error of the system's is told as it is.
func TestConnReset(t *testing.T) {
	c, other := pair(t, nobody)
	if err := other.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read from a connection that was reset: %v", err)
	}
}

// What a call that was interrupted has not sent is not sent when its connection is
// closed.
func TestInterruptedCallIsNotSent(t *testing.T) {
	c, other := pair(t, nobody)
	if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	sent, err := c.Write(make([]byte, 64<<20)) // as much as fits into all buffers
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes, %v", sent, err)
	}
	c.interrupt()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, other); n >= int64(sent) || err == nil {
		t.Errorf("%d of %d bytes arrived, %v, want less and the connection reset", n, sent, err)
	}
}
