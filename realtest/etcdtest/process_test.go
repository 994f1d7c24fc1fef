package etcdtest_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/internal/pause"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// workerEnv makes the test binary a process that takes a lock: verb, endpoint,
// key and TTL.
const workerEnv = "HASP_ETCDTEST_WORKER"

func TestMain(m *testing.M) {
	conformance.WorkerMain()
	if args := os.Getenv(workerEnv); args != "" {
		if err := work(strings.Fields(args)); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // those that are parallel wait, each for a server of its own
	os.Exit(m.Run())
}

// work holds, or waits for, a key, says what it does, and renews, or sets values, until
// the test ends it or that fails.
func work(args []string) error {
	ttl, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{args[1]}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	ctx := context.Background()
	b := etcdlock.New(client, nil)
	c := claim(ttl)
	if args[0] == "wait" {
		if _, _, err := b.Watch(ctx, args[2], c); err != nil {
			return err
		}
		fmt.Println("waiting")
		select {}
	}
	g, err := b.Acquire(ctx, args[2], c)
	if err != nil {
		return err
	}
	fmt.Println("held", g.Token)
	for seq := uint64(1); args[0] == "set"; seq++ { // it is not renewed
		if _, err := b.SetValue(ctx, g, setTo(g.Token, seq, fmt.Sprint("late ", seq))); err != nil {
			fmt.Println("set:", err)
			return nil
		}
	}
	for {
		time.Sleep(ttl / 6)
		rctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := b.Renew(rctx, g)
		cancel()
		if err != nil {
			fmt.Println("renew:", err)
			fmt.Println("released:", b.Release(ctx, g))
			return nil
		}
	}
}

type worker struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startWorker(t *testing.T, verb, endpoint, key string, ttl time.Duration) *worker {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), workerEnv+"="+strings.Join([]string{verb, endpoint, key, ttl.String()}, " "))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &worker{t, cmd, bufio.NewScanner(out)}
	t.Cleanup(w.kill)
	return w
}

// says returns the worker's next line, which must start with prefix.
func (w *worker) says(prefix string) string {
	w.t.Helper()
	if !w.lines.Scan() {
		w.t.Fatalf("the worker ended instead of saying %q", prefix)
	}
	if !strings.HasPrefix(w.lines.Text(), prefix) {
		w.t.Fatalf("the worker says %q instead of %q", w.lines.Text(), prefix)
	}
	return w.lines.Text()
}

func (w *worker) kill() {
	_ = w.cmd.Process.Kill() // it may have ended
	_ = w.cmd.Wait()
}

func TestKilledHolder(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	const ttl = 3 * time.Second
	w := startWorker(t, "hold", srv.Endpoint(), "k", ttl)
	var token uint64
	if _, err := fmt.Sscanf(w.says("held"), "held %d", &token); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * ttl) // it is kept by heartbeats
	b := newBackend(t, srv.Client())
	if he := mustBeHeld(t, b, "k", claim(ttl)); he.Record.Token != token || he.Record.Holder.PID != w.cmd.Process.Pid {
		t.Errorf("held by %v", he)
	}
	w.kill()
	killed, stood := time.Now(), pause.Watch()
	g, err := acquireWaiting(ctx, b, "k", claim(ttl), never)
	if err != nil {
		t.Fatal(err)
	}
	if after := time.Since(killed) - stood(); after > ttl+expirySlack {
		t.Errorf("taken over %v after the holder was killed, the TTL is %v", after, ttl)
	}
	if g.Token <= token {
		t.Errorf("token %d after %d", g.Token, token)
	}
	mustRelease(t, b, g)
}

// A process that is stopped past its TTL wakes to a lost lease, and does its
// successor no harm.
func TestStoppedHolder(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	const ttl = 2 * time.Second
	w := startWorker(t, "hold", srv.Endpoint(), "k", ttl)
	w.says("held")
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, srv.Client())
	g, err := acquireWaiting(ctx, b, "k", claim(20*time.Second), never)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"renew:", "released:"} {
		if line := w.says(what); !strings.Contains(line, backend.ErrLost.Error()) {
			t.Errorf("the former holder says %q", line)
		}
	}
	if _, err := b.Renew(ctx, g); err != nil {
		t.Errorf("the successor's lock: %v", err)
	}
	mustRelease(t, b, g)
}

func TestKilledWaiter(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	const ttl = 3 * time.Second
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(20*time.Second))
	w := startWorker(t, "wait", srv.Endpoint(), "k", ttl)
	w.says("waiting")
	got := make(chan error, 1)
	go func() {
		gb, err := acquireWaiting(ctx, b, "k", claim(20*time.Second), never)
		if err == nil {
			err = b.Release(ctx, gb)
		}
		got <- err
	}()
	w.kill()
	killed, stood := time.Now(), pause.Watch()
	mustRelease(t, a, g)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if after := time.Since(killed) - stood(); after > ttl+expirySlack {
		t.Errorf("the queue went on %v after a waiter was killed, its TTL is %v", after, ttl)
	}
	mustHaveNoLocks(t, srv)
}
