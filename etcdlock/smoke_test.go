package etcdlock_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hasplock/hasp"
)

// What is here needs no server but for TestSmoke. The tests of the queue, the leases and
// every fault are in a module of their own, for what they need.
func TestMain(m *testing.M) {
	fmt.Println("etcdlock: the tests against real servers are in realtest/etcdtest: go test ./realtest/etcdtest at the top of the tree, or make test")
	os.Exit(m.Run())
}

// serverURL is HASP_ETCD_URL, or that of a server that the test starts.
func serverURL(t *testing.T) string {
	if url := os.Getenv("HASP_ETCD_URL"); url != "" {
		return url
	}
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Skipf("no server: set HASP_ETCD_URL, or install etcd: %v", err)
	}
	for range 5 {
		// Below the ports that the kernel gives to outgoing connections. Another may take
		// them all the same: then etcd ends.
		client, peer := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)), fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		cmd := exec.Command(program, "--data-dir", t.TempDir(), "--log-level", "error",
			"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
			"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it says that it was killed
			close(ended)
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
		for begun := time.Now(); time.Since(begun) < time.Minute; {
			r, err := http.Get("http://" + client + "/health")
			if err == nil {
				r.Body.Close()
				if r.StatusCode == http.StatusOK {
					return "etcd://" + client
				}
			}
			select {
			case <-ended:
				begun = time.Time{}
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	t.Fatalf("%s does not start", program)
	return ""
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
