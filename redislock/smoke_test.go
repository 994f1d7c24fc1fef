//go:build unix

package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp"
)

// What is here needs no server but for TestSmoke. The tests of the scripts, the queue and
// every fault are in a module of their own, for what they need.
func TestMain(m *testing.M) {
	fmt.Println("redislock: the tests against real servers are in realtest/redistest: go test ./realtest/redistest at the top of the tree, or make test")
	os.Exit(m.Run())
}

// serverURL is HASP_REDIS_URL, or that of a server that the test starts.
func serverURL(t *testing.T) string {
	if url := os.Getenv("HASP_REDIS_URL"); url != "" {
		return url
	}
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skipf("no server: set HASP_REDIS_URL, or install redis-server: %v", err)
	}
	dir, err := os.MkdirTemp("", "hasp") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	cmd := exec.Command(program, "--port", "0", "--unixsocket", sock, "--save", "", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
	})
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
			return "redis+unix://" + sock
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s does not start: %v", program, err)
		}
	}
}

// One holds the lock, another waits and gets it with a higher token, and a break is told.
func TestSmoke(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	url := serverURL(t)
	open := func() hasp.Locker {
		l, err := hasp.Open(ctx, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	a, b := open(), open()
	key := fmt.Sprintf("hasp-smoke/%d", time.Now().UnixNano())
	first, err := a.Acquire(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.TryAcquire(ctx, key); !errors.Is(err, hasp.ErrHeld) {
		t.Errorf("a second one got %v, want ErrHeld", err)
	}
	got := make(chan *hasp.Lease, 1)
	go func() {
		defer close(got)
		lease, err := b.Acquire(ctx, key)
		if err != nil {
			t.Error(err)
			return
		}
		got <- lease
	}()
	if err := first.Release(ctx); err != nil {
		t.Fatal(err)
	}
	second := <-got
	if second == nil {
		t.FailNow()
	}
	if second.Token() <= first.Token() {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	if err := a.Break(ctx, key, second.Token()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-second.Context().Done():
	case <-ctx.Done():
		t.Error("the holder of a broken lock is not told")
	}
	if err := second.Release(ctx); !errors.Is(err, hasp.ErrLost) {
		t.Errorf("release of a broken lock: %v", err)
	}
}
