package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/internal/port"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Program is an etcd 3.4 that is installed on this machine, as Debian has it: the
// oldest version that is supported.
type Program struct {
	tb   testing.TB
	addr string
}

// FindProgram returns the path of the etcd 3.4 that is installed.
func FindProgram() (string, error) {
	path, err := exec.LookPath("etcd")
	if err != nil {
		return "", fmt.Errorf("no etcd is installed (apt-get install etcd-server): %w", err)
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("etcd Version: 3.4.")) {
		return "", fmt.Errorf("%s is not of version 3.4: %v, %.60q", path, err, out)
	}
	return path, nil
}

// StartProgram starts one node of the etcd at path, with these flags besides those
// that are needed, and kills it when the test ends.
func StartProgram(tb testing.TB, path string, flags ...string) *Program {
	tb.Helper()
	var err error
	// A port may be taken between being found and being used.
	for range 3 {
		p := &Program{tb: tb, addr: port.Free(tb)}
		if err = p.start(path, flags); err == nil {
			return p
		}
	}
	tb.Fatalf("etcdtest: %v", err)
	return nil
}

func (p *Program) start(path string, flags []string) error {
	dir, _ := dataDir(p.tb, "etcd")
	client, peer := "http://"+p.addr, "http://"+port.Free(p.tb)
	cmd := exec.Command(path, append([]string{
		"--name=etcdtest", "--data-dir=" + dir, "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=etcdtest=" + peer,
	}, flags...)...)
	var out bytes.Buffer // read after it has ended
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	kill := sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	c := p.dial("", "")
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		_, err := c.Get(sctx, "ready")
		cancel()
		if err == nil {
			p.tb.Cleanup(kill)
			return nil
		}
		select {
		case err := <-ended:
			ended <- nil // for kill
			return fmt.Errorf("%s has ended: %w: %.2000s", path, err, out.String())
		case <-ctx.Done():
			kill()
			return fmt.Errorf("%s has not become ready: %w: %.2000s", path, err, out.String())
		default:
		}
	}
}

func (p *Program) dial(user, password string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + p.addr}, Username: user, Password: password, Logger: zap.NewNop(),
		DialTimeout: startTimeout,
	})
	if err != nil {
		p.tb.Fatalf("etcdtest: %v", err)
	}
	return c
}

// Addr is the host and port that clients reach the server at.
func (p *Program) Addr() string { return p.addr }

// Client returns a client, closed when the test ends. user may be empty.
func (p *Program) Client(user, password string) *clientv3.Client {
	c := p.dial(user, password)
	p.tb.Cleanup(func() { _ = c.Close() })
	return c
}
