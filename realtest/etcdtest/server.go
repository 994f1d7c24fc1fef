// Package etcdtest starts real etcd servers for tests: one node, or a cluster
// whose members can be killed, frozen, cut off and started again. The servers
// are those of go.etcd.io/etcd/server, in processes of their own: the test
// binary starts itself again.
package etcdtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hasplock/hasp/realtest/internal/child"
)

// startTimeout bounds how long a member may take to be ready.
const startTimeout = 60 * time.Second

// Options are what servers can be told. Nil is the default.
type Options struct {
	// Quota is --quota-backend-bytes; 0 is etcd's default.
	Quota int64
	// AuthTokenTTL is --auth-token-ttl, in whole seconds; 0 is etcd's default.
	AuthTokenTTL time.Duration
	// Fsync makes the servers wait for their disks, as they do outside tests.
	Fsync bool
	// CertFile and KeyFile, in PEM format, make them serve clients with TLS.
	CertFile, KeyFile string
}

// Server is one etcd member in a process of its own.
type Server struct {
	tb     testing.TB
	member member
	log    string

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin interface{ Write([]byte) (int, error) }
	lines chan string
}

// Start starts one node and stops it when the test ends.
func Start(tb testing.TB, opts *Options) *Server {
	tb.Helper()
	return StartCluster(tb, 1, opts).Members[0]
}

// start starts the process without waiting until it is ready.
func (s *Server) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(s.member)
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	cmd.Stderr = logFile
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan string, 16)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd, s.stdin, s.lines = cmd, stdin, lines
	return nil
}

// expect waits for a line from the process.
func (s *Server) expect(want string) error {
	timeout := time.After(startTimeout)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				data, _ := os.ReadFile(s.log)
				return fmt.Errorf("etcd member %s ended: %s", s.member.Name, data)
			}
			if line == want {
				return nil
			}
		case <-timeout:
			return fmt.Errorf("etcd member %s has not said %q within %v", s.member.Name, want, startTimeout)
		}
	}
}

// Endpoint is where clients reach the server.
func (s *Server) Endpoint() string {
	if s.member.CertFile != "" {
		return "https://" + s.member.Client
	}
	return "http://" + s.member.Client
}

// Addr is the host and port that clients reach the server at.
func (s *Server) Addr() string { return s.member.Client }

// URL names the server for backend.Open, with a prefix, which may be empty.
func (s *Server) URL(prefix string) string { return "etcd://" + s.Addr() + "/" + prefix }

// Client returns a client of the server, closed when the test ends.
func (s *Server) Client() *clientv3.Client { return dial(s.tb, s.Endpoint()) }

func dial(tb testing.TB, endpoints ...string) *clientv3.Client {
	tb.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		tb.Fatalf("etcdtest: %v", err)
	}
	tb.Cleanup(func() { _ = c.Close() }) // a test may have closed it
	return c
}

// Kill ends the process as kill -9 does.
func (s *Server) Kill() {
	s.mu.Lock()
	cmd := s.cmd
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Errorf("etcdtest: kill member %s: %v", s.member.Name, err)
	}
	_ = cmd.Wait() // it says that the process was killed
}

// Freeze stops the process without ending it, as SIGSTOP does.
func (s *Server) Freeze() { s.tell(child.Stop) }

// Thaw lets a frozen process go on.
func (s *Server) Thaw() {
	s.tell(func(p *os.Process) error { return p.Signal(syscall.SIGCONT) })
}

func (s *Server) tell(f func(*os.Process) error) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		s.tb.Fatalf("etcdtest: member %s does not run", s.member.Name)
	}
	if err := f(s.cmd.Process); err != nil {
		s.tb.Fatalf("etcdtest: signal member %s: %v", s.member.Name, err)
	}
}

// CutOff separates the member from the others; clients still reach it.
func (s *Server) CutOff() { s.command("cut", "cut") }

// Rejoin ends CutOff.
func (s *Server) Rejoin() { s.command("mend", "mended") }

func (s *Server) command(say, answer string) {
	s.tb.Helper()
	if _, err := s.stdin.Write([]byte(say + "\n")); err != nil {
		s.tb.Fatalf("etcdtest: member %s: %v", s.member.Name, err)
	}
	if err := s.expect(answer); err != nil {
		s.tb.Fatalf("etcdtest: %v", err)
	}
}

// Restart starts a killed member again with the data and address it had.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.tb.Fatalf("etcdtest: %v", err)
	}
	if err := s.expect("ready"); err != nil {
		s.tb.Fatalf("etcdtest: %v", err)
	}
}

// Wipe kills a single node and starts it again without its data.
func (s *Server) Wipe() {
	s.tb.Helper()
	if strings.Contains(s.member.Cluster, ",") {
		s.tb.Fatal("etcdtest: a member of a cluster cannot be wiped alone: use Cluster.Wipe")
	}
	s.Kill()
	if err := os.RemoveAll(s.member.Dir); err != nil {
		s.tb.Fatalf("etcdtest: %v", err)
	}
	s.Restart()
}

// Left returns the keys, and the leases without keys, that a server has: what a
// test that cleaned up leaves is the token base alone.
func Left(ctx context.Context, c *clientv3.Client) (keys []string, idle []clientv3.LeaseID, err error) {
	resp, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, nil, err
	}
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	leases, err := c.Leases(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range leases.Leases {
		ttl, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		if err != nil {
			return nil, nil, err
		}
		if ttl.TTL >= 0 && len(ttl.Keys) == 0 {
			idle = append(idle, l.ID)
		}
	}
	return keys, idle, nil
}

func dataDir(tb testing.TB, name string) (dir, log string) {
	tmp := tb.TempDir()
	return filepath.Join(tmp, name), filepath.Join(tmp, name+".log")
}
