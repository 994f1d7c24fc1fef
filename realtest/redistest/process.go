package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/realtest/internal/child"
	"github.com/hasplock/hasp/realtest/internal/port"
)

// process is a redis-server of ours.
type process struct {
	cmd *exec.Cmd
	out bytes.Buffer
	end chan struct{} // closed when it has ended
}

func startProcess(tb testing.TB, o Options) *Server {
	tb.Helper()
	if _, err := exec.LookPath(o.program()); err != nil {
		tb.Fatalf("%s is missing: scripts/test-needs installs it, or a Docker engine and scripts/test-images do for Redis", o.program())
	}
	// Not tb.TempDir: the name of a socket must be short.
	dir, err := os.MkdirTemp("", "hasp-redis-")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, opts: o, dir: dir}
	tb.Cleanup(func() {
		s.Kill()
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove the server's files: %v", err)
		}
	})
	if o.TLS {
		s.tls = newCertificate(tb, dir)
	}
	// Another process may take a port between our look and the server's start.
	for attempt := 1; ; attempt++ {
		s.addr = port.Free(tb)
		if o.Cluster {
			s.bus = portOf(port.Free(tb))
		}
		err := s.launch()
		if err == nil {
			return s
		}
		if attempt == 5 {
			tb.Fatal(err)
		}
	}
}

func (s *Server) port() string { return portOf(s.addr) }

func (s *Server) socket() string { return filepath.Join(s.dir, "redis.sock") }

// launch starts the process and waits until it answers.
func (s *Server) launch() error {
	args := []string{"--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--daemonize", "no", "--loglevel", "warning"}
	if s.opts.TLS {
		args = append(args, "--port", "0", "--tls-port", s.port(), "--tls-auth-clients", "no",
			"--tls-cert-file", s.tls.certFile, "--tls-key-file", s.tls.keyFile, "--tls-ca-cert-file", s.tls.certFile)
	} else {
		args = append(args, "--port", s.port())
	}
	if s.opts.Password != "" {
		args = append(args, "--requirepass", s.opts.Password)
	}
	if s.opts.Unix {
		args = append(args, "--unixsocket", s.socket())
	}
	if s.opts.Cluster {
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", s.bus)
	}
	if s.opts.Persist {
		args = append(args, "--appendonly", "yes", "--appendfsync", "always")
	}
	if s.opts.Rewritable {
		file := filepath.Join(s.dir, "redis.conf")
		if f, err := os.OpenFile(file, os.O_CREATE, 0o600); err != nil { // what it has from before stays
			return err
		} else if err := f.Close(); err != nil {
			return err
		}
		args = append([]string{file}, args...)
	}
	if s.file != "" {
		args = []string{s.file, "--sentinel"}
	}
	p := &process{cmd: exec.Command(s.opts.program(), append(args, s.opts.Config...)...), end: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(p.end)
		p.cmd.Wait()
	}()
	s.proc = p

	c := s.Client()
	defer c.Close()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ping(c, s.addr)
		if err == nil || s.opts.Loading && redis.IsLoadingError(err) {
			return nil
		}
		select {
		case <-p.end:
			return fmt.Errorf("%s ended: %s", s.opts.program(), strings.TrimSpace(p.out.String()))
		case <-time.After(10 * time.Millisecond): // it says nowhere that it is ready
		}
		if time.Now().After(deadline) {
			s.Kill()
			return fmt.Errorf("%s does not answer on %s: %w", s.opts.program(), s.addr, err)
		}
	}
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() {
	s.tb.Helper()
	if p := s.child(); p != nil {
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.cmd.Process.Kill()
		<-p.end
		s.proc = nil
	}
}

// Restart starts a killed server again, on the same port, or kills it first.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	var err error
	for range 5 { // the port may be in use for a moment
		if err = s.launch(); err == nil {
			return
		}
	}
	s.tb.Fatal(err)
}

// Pause stops the server's process: it does not answer, and connections to it
// stay open. Resume ends that.
func (s *Server) Pause() { s.tell(child.Stop) }

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.tell(func(p *os.Process) error { return p.Signal(syscall.SIGCONT) })
}

func (s *Server) tell(f func(*os.Process) error) {
	s.tb.Helper()
	if p := s.child(); p != nil {
		if err := f(p.cmd.Process); err != nil {
			s.tb.Fatal(err)
		}
	}
}

func (s *Server) child() *process {
	s.tb.Helper()
	if s.dir == "" {
		s.tb.Fatal("this server is a container: start it with Options.Binary to kill, restart or pause it")
	}
	return s.proc
}

// ping dials first by itself: the client logs each dial that fails.
func ping(c *redis.Client, addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.Ping(ctx).Err()
}
