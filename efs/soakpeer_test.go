//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp"
)

// soakBreath is between two rounds of a hasp process: the lock-file protocol has no
// queue, and who comes back at once always wins.
func soakBreath() { time.Sleep(rand.N(4 * time.Millisecond)) }

const (
	soakEnv = "HASP_EFS_SOAK_PEER"
	soakKey = "sweep/lock"
)

func soakURL(root, query string) string {
	if query != "" {
		query = "?" + query
	}
	return "efs://" + root + query
}

func soakPeerCmd(ctx context.Context, spec ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), soakEnv+"="+strings.Join(spec, "|"))
	return cmd
}

// soakPeer is what a child process of a soak does.
func soakPeer(spec string) int {
	if err := runSoakPeer(strings.Split(spec, "|")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runSoakPeer(f []string) error {
	kind, root, query, log, counter := f[0], f[2], f[3], f[4], f[5]
	if kind == "section" { // the command holds the lock
		return soakSection(log, counter)
	}
	d, err := time.ParseDuration(f[1])
	if err != nil {
		return err
	}
	opts := &hasp.Options{TTL: 300 * time.Second, RetryInterval: 20 * time.Millisecond, MaxRetries: hasp.Unlimited}
	under := func(context.Context, *hasp.Lease) error { return soakSection(log, counter) }
	round := func() error {
		if query == "" {
			return Do(ctxBG, filepath.Join(root, soakKey), opts, under)
		}
		l, err := hasp.Open(ctxBG, soakURL(root, query), opts)
		if err != nil {
			return err
		}
		return errors.Join(hasp.Do(ctxBG, l, soakKey, under), l.Close())
	}
	goroutines := 1
	if kind == "Locker" {
		l, err := hasp.Open(ctxBG, soakURL(root, query), opts)
		if err != nil {
			return err
		}
		defer l.Close()
		round = func() error { return hasp.Do(ctxBG, l, soakKey, under) }
		goroutines = 4
	}
	errs := make(chan error, goroutines)
	for range goroutines {
		go func() {
			var err error
			for end := time.Now().Add(d); err == nil && time.Now().Before(end); soakBreath() {
				if err = round(); errors.Is(err, hasp.ErrLost) {
					err = appendLine(log, "lost %d", monotonic())
				}
			}
			errs <- err
		}()
	}
	for range goroutines {
		err = errors.Join(err, <-errs)
	}
	return err
}

// soakSection is one critical section of a hasp process.
func soakSection(log, counter string) error {
	entered := monotonic()
	n, torn := 0, false
	if c, err := os.ReadFile(counter); err == nil {
		n, err = strconv.Atoi(string(c))
		torn = err != nil
	}
	if torn {
		if err := appendLine(log, "torn %d", entered); err != nil {
			return err
		}
	} else if err := os.WriteFile(counter, []byte(strconv.Itoa(n+1)), 0o644); err != nil {
		return err
	}
	return appendLine(log, "section %d %d", entered, monotonic())
}

func appendLine(file, format string, args ...any) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, format+"\n", args...)
	return errors.Join(err, f.Close())
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}
