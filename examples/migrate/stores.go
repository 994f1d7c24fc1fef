//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hasplock/hasp/backend"

	_ "github.com/hasplock/hasp/efs"
	_ "github.com/hasplock/hasp/etcdlock"
	_ "github.com/hasplock/hasp/redislock"
)

// store is one of the two, and if this program has started it, how it goes away.
type store struct {
	url  string
	dir  string // of files
	what string
	// away and back take it away and bring it back; nil if it is not this program's.
	away, back func() error
	stop       func()
}

// openStore returns the store that s names, and starts a server if s is only its
// kind: efs, redis or etcd.
func openStore(ctx context.Context, s, home string, skew time.Duration, freeze bool) (*store, error) {
	switch s {
	case "efs":
		return directory(home, freeze)
	case "redis":
		return redisServer(ctx, home, skew)
	case "etcd":
		return etcdServer(ctx, home)
	}
	if !strings.Contains(s, ":") {
		return nil, fmt.Errorf("%q is neither efs, redis, etcd nor a URL", s)
	}
	st := &store{url: s, what: backend.RedactURL(s), stop: func() {}}
	if dir, ok := strings.CutPrefix(s, "efs://"); ok {
		st.dir, _, _ = strings.Cut(dir, "?")
	}
	return st, nil
}

// directory is a folder; with freeze one on a file system of its own, so that it can go
// away: while that is frozen every change hangs, as on a file server that is gone.
func directory(home string, freeze bool) (*store, error) {
	dir := filepath.Join(home, "locks")
	if err := os.Mkdir(dir, 0o777); err != nil {
		return nil, err
	}
	st := &store{url: "efs://" + dir, dir: dir, what: "the directory", stop: func() {}}
	if !freeze {
		return st, nil
	}
	disk := filepath.Join(home, "disk")
	for _, argv := range [][]string{
		{"truncate", "-s", "256M", disk}, {"mkfs.ext4", "-q", disk}, {"mount", "-o", "loop", disk, dir},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("-away needs a file system that can be frozen, and so root: %s: %v: %s", argv[0], err, out)
		}
	}
	freezer := func(flag string) func() error {
		return func() error {
			if out, err := exec.Command("fsfreeze", flag, dir).CombinedOutput(); err != nil {
				return fmt.Errorf("fsfreeze %s: %v: %s", flag, err, out)
			}
			return nil
		}
	}
	st.away, st.back = freezer("--freeze"), freezer("--unfreeze")
	st.stop = func() { _ = exec.Command("umount", dir).Run() }
	return st, nil
}

func redisServer(ctx context.Context, home string, skew time.Duration) (*store, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	c := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", home, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	if skew != 0 {
		if err := skewed(c, home, skew); err != nil {
			return nil, err
		}
	}
	return server(ctx, c, "redis://127.0.0.1:"+port, "redis-server")
}

func etcdServer(ctx context.Context, home string) (*store, error) {
	client, err := freePort()
	if err != nil {
		return nil, err
	}
	peer, err := freePort()
	if err != nil {
		return nil, err
	}
	at := "http://127.0.0.1:" + client
	c := exec.Command("etcd", "--data-dir", filepath.Join(home, "etcd"), "--listen-client-urls", at, "--advertise-client-urls", at,
		"--listen-peer-urls", "http://127.0.0.1:"+peer, "--initial-advertise-peer-urls", "http://127.0.0.1:"+peer, "--initial-cluster", "default=http://127.0.0.1:"+peer)
	return server(ctx, c, "etcd://127.0.0.1:"+client+"/example", "etcd")
}

// server starts a server and waits until it answers.
func server(ctx context.Context, c *exec.Cmd, at, what string) (*store, error) {
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("%w: install it, or give the URL of a server", err)
	}
	st := &store{url: at, what: what}
	st.stop = func() {
		_ = c.Process.Signal(syscall.SIGCONT)
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	st.away = func() error { return c.Process.Signal(syscall.SIGSTOP) }
	st.back = func() error { return c.Process.Signal(syscall.SIGCONT) }
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := listens(ctx, at)
		if err == nil {
			err = answers(ctx, at)
		}
		if err == nil {
			return st, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			st.stop()
			return nil, fmt.Errorf("%s does not answer: %w", what, err)
		}
	}
}

// listens tells whether anybody does: clients of stores that are not up yet write
// to the log.
func listens(ctx context.Context, raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func answers(ctx context.Context, url string) error {
	b, err := backend.Open(ctx, url)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.Inspect(ctx, "is anybody there")
	return err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}
