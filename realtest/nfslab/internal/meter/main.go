// Command meter times and counts, in one of the lab's clients, what a lock costs. It
// uses nothing but hasp's public interface, so that it can be built with other
// versions of it too. It prints a Result as JSON.
//
//	meter cycle  -url U -key K -n N     acquire and release
//	meter renew  -url U -key K -n N     heartbeats
//	meter hold   -url U -key K          holds until it is killed
//	meter look   -url U -key K -n N     the looks of a waiter, while another holds
//	meter legacy -mount DIR -key K -n N the lock-file protocol, without its sleep
//	meter exec   -n N COMMAND…          runs a program
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	_ "github.com/hasplock/hasp/efs"
	"github.com/hasplock/hasp/realtest/nfslab/internal/mountstats"
)

// Result is what was measured.
type Result struct {
	Times    []time.Duration
	N        int // how often it was done while requests were counted
	Requests mountstats.Counts
}

var (
	flags = flag.NewFlagSet("meter", flag.ExitOnError)
	url   = flags.String("url", "", "the store")
	key   = flags.String("key", "", "the lock")
	mount = flags.String("mount", "", "the mount whose requests are counted")
	n     = flags.Int("n", 50, "how often")
	warm  = flags.Int("warm", 5, "how often before that")
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "meter: what?")
		os.Exit(64)
	}
	_ = flags.Parse(os.Args[2:])
	do, ok := map[string]func(context.Context) (Result, error){
		"cycle": cycle, "renew": renew, "hold": hold, "look": look, "legacy": legacy, "exec": execute,
	}[os.Args[1]]
	err := errors.New("unknown")
	var r Result
	if ok {
		r, err = do(context.Background())
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "meter: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// repeat measures f.
func repeat(f func() error) (r Result, err error) {
	for range *warm {
		if err := f(); err != nil {
			return r, err
		}
	}
	before, err := mountstats.Read(*mount)
	if err != nil {
		return r, err
	}
	for range *n {
		begin := time.Now()
		if err := f(); err != nil {
			return r, err
		}
		r.Times = append(r.Times, time.Since(begin))
	}
	after, err := mountstats.Read(*mount)
	if err != nil {
		return r, err
	}
	r.N, r.Requests = *n, after.Sub(before)
	return r, nil
}

func cycle(ctx context.Context) (Result, error) {
	l, err := hasp.Open(ctx, *url, nil)
	if err != nil {
		return Result{}, err
	}
	defer l.Close()
	return repeat(func() error {
		le, err := l.Acquire(ctx, *key)
		if err != nil {
			return err
		}
		return le.Release(ctx)
	})
}

func renew(ctx context.Context) (Result, error) {
	b, err := backend.Open(ctx, *url)
	if err != nil {
		return Result{}, err
	}
	defer b.Close()
	host, _ := os.Hostname()
	g, err := b.Acquire(ctx, *key, backend.Claim{ID: fmt.Sprint("meter", os.Getpid()), Holder: backend.Holder{Owner: "meter", Host: host, PID: os.Getpid()}, TTL: 5 * time.Minute})
	if err != nil {
		return Result{}, err
	}
	r, err := repeat(func() (err error) {
		g, err = b.Renew(ctx, g)
		return err
	})
	return r, errors.Join(err, b.Release(ctx, g))
}

func hold(ctx context.Context) (Result, error) {
	l, err := hasp.Open(ctx, *url, &hasp.Options{TTL: time.Hour})
	if err != nil {
		return Result{}, err
	}
	if _, err := l.Acquire(ctx, *key); err != nil {
		return Result{}, err
	}
	fmt.Println("held")
	select {}
}

// look counts bursts of requests: in the end a waiter looks twice a second, and what
// belongs to one look comes within some milliseconds.
func look(ctx context.Context) (r Result, err error) {
	l, err := hasp.Open(ctx, *url, &hasp.Options{RetryInterval: time.Hour})
	if err != nil {
		return r, err
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waiting := make(chan error, 1)
	go func() {
		_, err := l.Acquire(ctx, *key)
		waiting <- err
	}()
	time.Sleep(5 * time.Second) // its pauses have their full length then
	const apart = 200 * time.Millisecond
	first, err := mountstats.Read(*mount)
	if err != nil {
		return r, err
	}
	last, lastAt, begin := first, time.Time{}, time.Now()
	for r.N < *n {
		select {
		case err := <-waiting:
			return r, fmt.Errorf("it waits no longer: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		now, err := mountstats.Read(*mount)
		if err != nil {
			return r, err
		}
		if now.Sub(last).Sum() != 0 {
			if time.Since(lastAt) > apart {
				r.N++
			}
			lastAt = time.Now()
		}
		last = now
		if time.Since(begin) > time.Duration(*n)*5*time.Second {
			return r, fmt.Errorf("%d looks in %v", r.N, time.Since(begin))
		}
	}
	time.Sleep(apart) // for the rest of the last look
	now, err := mountstats.Read(*mount)
	r.Requests = now.Sub(first)
	cancel()
	<-waiting
	return r, err
}

func legacy(context.Context) (Result, error) {
	path := filepath.Join(*mount, *key)
	host, _ := os.Hostname()
	return repeat(func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(f, "%f\n%d\n%s\nLinux\n", float64(time.Now().UnixMicro())/1e6, os.Getpid(), host); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return os.Remove(path)
	})
}

func execute(context.Context) (Result, error) {
	return repeat(func() error {
		out, err := exec.Command(flags.Arg(0), flags.Args()[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
