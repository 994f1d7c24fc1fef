package redistest_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/redislock"
)

// The tests start themselves again as worker processes, to be killed and stopped.
const workerEnv = "HASP_REDISTEST_WORKER"

func TestMain(m *testing.M) {
	conformance.WorkerMain()
	if job := os.Getenv(workerEnv); job != "" {
		if err := work(strings.Fields(job)); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // those that are parallel wait, each for a server of its own
	os.Exit(m.Run())
}

// worker is a child process. It does its job and prints lines.
type worker struct {
	tb    testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
}

// startWorker starts a job: "hold URL KEY TTL", "wait URL KEY CLIENTS", "count URL KEY
// ROUNDS", "relay URL KEY", "set URL KEY TTL" or "crowd URL KEY WAITERS HOLD". It ends when its standard input does.
func startWorker(tb testing.TB, job ...any) *worker {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+strings.TrimSpace(fmt.Sprintln(job...)))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	w := &worker{tb, cmd, stdin, make(chan string, 100_000)}
	go func() {
		defer close(w.lines)
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			w.lines <- sc.Text()
		}
	}()
	tb.Cleanup(func() { w.kill() })
	return w
}

// line returns the worker's next line.
func (w *worker) line() string {
	w.tb.Helper()
	select {
	case l, ok := <-w.lines:
		if !ok {
			w.tb.Fatal("the worker has ended")
		}
		if strings.HasPrefix(l, "error:") {
			w.tb.Fatal("worker: ", l)
		}
		return l
	case <-time.After(2 * patient):
		w.tb.Fatal("the worker says nothing")
	}
	return ""
}

func (w *worker) signal(sig syscall.Signal) {
	w.tb.Helper()
	if err := w.cmd.Process.Signal(sig); err != nil {
		w.tb.Fatal(err)
	}
}

// kill is kill -9.
func (w *worker) kill() {
	w.cmd.Process.Kill()
	w.cmd.Wait()
}

func work(job []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b, err := backend.Open(ctx, job[1])
	if err != nil {
		return err
	}
	defer b.Close()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	key := job[2]
	switch job[0] {
	case "hold":
		ttl, _ := time.ParseDuration(job[3])
		g, err := b.Acquire(ctx, key, claim(ttl))
		if err != nil {
			return err
		}
		fmt.Println(g.Token)
		<-ctx.Done()
	case "set":
		ttl, _ := time.ParseDuration(job[3])
		return setOnAndOn(ctx, b.(*redislock.Backend), key, ttl)
	case "wait":
		var n int
		fmt.Sscan(job[3], &n)
		for range n {
			b, err := backend.Open(ctx, job[1])
			if err != nil {
				return err
			}
			if _, _, err := b.(backend.Watcher).Watch(ctx, key, claim(time.Minute)); err != nil {
				return err
			}
		}
		fmt.Println("waiting")
		<-ctx.Done()
	case "count":
		var rounds int
		fmt.Sscan(job[3], &rounds)
		return count(ctx, b, job[1], key, rounds)
	case "relay":
		fmt.Println("started")
		for {
			g, err := await(ctx, b, key, claim(time.Minute))
			if err != nil {
				return err
			}
			fmt.Println(g.Token, time.Now().UnixNano())
			if err := b.Release(ctx, g); err != nil {
				return err
			}
		}
	case "crowd":
		var n int
		fmt.Sscan(job[3], &n)
		hold, _ := time.ParseDuration(job[4])
		crowd(ctx, b.(*redislock.Backend), key, n, hold)
	}
	return nil
}

// setOnAndOn acquires key and sets one value after the other until that fails. It
// prints the token, and the error in the end.
func setOnAndOn(ctx context.Context, b *redislock.Backend, key string, ttl time.Duration) error {
	g, err := b.Acquire(ctx, key, claim(ttl))
	if err != nil {
		return err
	}
	fmt.Println(g.Token)
	for seq := uint64(1); ; seq++ {
		if g, err = b.SetValue(ctx, g, value(g.Token, seq, fmt.Sprint("late ", seq))); err != nil {
			fmt.Println(seq, err)
			return nil
		}
	}
}

// await acquires key as the engine does: it tries, watches, and tries again each
// time it is woken, the lock may be stale, or a retry is due.
func await(ctx context.Context, b backend.Backend, key string, c backend.Claim) (g backend.Grant, err error) {
	var wake <-chan struct{}
	stop := func(context.Context, bool) error { return nil }
	defer func() {
		serr := stop(context.WithoutCancel(ctx), err == nil)
		if err == nil {
			err = serr
		}
	}()
	for {
		g, err = b.Acquire(ctx, key, c)
		var held *backend.HeldError
		if !errors.As(err, &held) {
			return g, err
		}
		if wake == nil {
			wk, st, err := b.(backend.Watcher).Watch(ctx, key, c)
			if err != nil {
				return g, err
			}
			wake, stop = wk, st
		}
		retry := 5 * time.Second
		if held.RetryAfter > 0 {
			retry = min(retry, held.RetryAfter)
		}
		timer := time.NewTimer(retry)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return g, ctx.Err()
		}
		timer.Stop()
	}
}

// count adds one to a counter, under the lock, in two steps that lose updates if
// two do it at once.
func count(ctx context.Context, b backend.Backend, url, key string, rounds int) error {
	o, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	c := redis.NewClient(o)
	defer c.Close()
	for range rounds {
		g, err := await(ctx, b, key, claim(time.Minute))
		if err != nil {
			return err
		}
		n, err := c.Get(ctx, "counter").Int()
		if err != nil && err != redis.Nil {
			return err
		}
		if err := c.Set(ctx, "counter", n+1, 0).Err(); err != nil {
			return err
		}
		if err := b.Release(ctx, g); err != nil {
			return err
		}
	}
	fmt.Println("done")
	return nil
}

// crowd lets n goroutines, each a waiter of its own, take the lock again and
// again, and prints a line per grant: who, and how long it waited in us.
func crowd(ctx context.Context, b *redislock.Backend, key string, n int, hold time.Duration) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				g, err := await(ctx, b, key, claim(time.Minute))
				if err != nil {
					return
				}
				waited := time.Since(start)
				if hold > 0 {
					time.Sleep(hold)
				}
				if err := b.Release(context.WithoutCancel(ctx), g); err != nil {
					fmt.Println("error:", err)
					return
				}
				mu.Lock()
				fmt.Fprintln(out, i, waited.Microseconds(), g.Token)
				mu.Unlock()
			}
		})
	}
	fmt.Println("started")
	wg.Wait()
}
