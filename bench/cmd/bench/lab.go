//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// readyTimeout bounds how long a server may take to start.
const readyTimeout = 30 * time.Second

// lab has what is measured on: folders and servers.
type lab struct {
	config
	tmp   string
	redis string // address
	etcd  string // endpoint
	stops []func() error

	servers map[string]*os.Process // by address
}

// openLab starts the servers.
func openLab(ctx context.Context, c config) (_ *lab, err error) {
	l := &lab{config: c, servers: map[string]*os.Process{}}
	defer func() {
		if err != nil {
			_ = l.close() // err says more
		}
	}()
	if l.tmp, err = os.MkdirTemp(c.dir, "hasp-bench-"); err != nil {
		return nil, err
	}
	l.stops = append(l.stops, func() error { return os.RemoveAll(l.tmp) })
	if err := l.startRedis(ctx); err != nil {
		return nil, err
	}
	if err := l.startEtcd(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// close stops and removes all of it, in reverse.
func (l *lab) close() error {
	var first error
	for i := len(l.stops) - 1; i >= 0; i-- {
		if err := l.stops[i](); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// alone stops the servers that are not at addr until resume is called: an idle one
// works too, and with two processors it does so at the cost of who is measured.
func (l *lab) alone(addr string) (resume func() error, err error) {
	var stopped []*os.Process
	resume = func() error {
		var errs []error
		for _, p := range stopped {
			errs = append(errs, p.Signal(syscall.SIGCONT))
		}
		return errors.Join(errs...)
	}
	for at, p := range l.servers {
		if at == addr {
			continue
		}
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			return nil, errors.Join(err, resume())
		}
		stopped = append(stopped, p)
	}
	return resume, nil
}

// folder makes a folder below parent that is removed at the end.
func (l *lab) folder(parent, name string) (string, error) {
	dir, err := os.MkdirTemp(parent, "hasp-bench-"+name+"-")
	if err != nil {
		return "", err
	}
	l.stops = append(l.stops, func() error { return os.RemoveAll(dir) })
	return dir, nil
}

// freeAddr finds an address on which nobody listens now.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := ln.Addr().String()
	return addr, ln.Close()
}

func (l *lab) startRedis(ctx context.Context) error {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("%w: install it, for example with apt-get install redis-server", err)
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	log := filepath.Join(l.tmp, "redis.log")
	cmd := exec.Command(bin, "--bind", host, "--port", port, "--save", "", "--appendonly", "no",
		"--dir", l.tmp, "--logfile", log)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	l.stops = append(l.stops, func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
		return err
	})
	client := newRedis(addr)
	defer client.Close()
	for deadline := time.Now().Add(readyTimeout); ; time.Sleep(20 * time.Millisecond) {
		if err = client.Ping(ctx).Err(); err == nil {
			l.redis, l.servers[addr] = addr, cmd.Process
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			text, _ := os.ReadFile(log)
			return fmt.Errorf("redis-server on %s does not answer: %w: %s", addr, err, text)
		}
	}
}

// newRedis makes the client that every contestant uses, with the same options.
func newRedis(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
}
