package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/internal/port"
)

// StartSentinel starts a sentinel that knows primary by name, and waits until it tells
// where it is. Its clients use URLs with master_name.
func StartSentinel(tb testing.TB, primary *Server, name string) *Server {
	tb.Helper()
	s := &Server{tb: tb, addr: port.Free(tb), dir: tb.TempDir()}
	config := filepath.Join(s.dir, "sentinel.conf") // it writes to it
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor %s 127.0.0.1 %s 1\n", s.port(), s.dir, name, primary.port())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	p := &process{cmd: exec.Command("redis-server", config, "--sentinel"), end: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.end)
		p.cmd.Wait()
	}()
	s.proc = p
	tb.Cleanup(s.Kill)
	c := s.Client()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := ping(c, s.addr)
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			tb.Fatalf("the sentinel does not answer: %v\n%s", err, p.out.String())
		}
	}
}
