package torture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// slot is a place for one process that contends: when it has ended there is another,
// until the slot is closed.
type slot struct {
	job      job
	hasp     string // the command; empty for a process that uses the API
	rng      *rand.Rand
	report   func(kind, strange string)
	finished chan struct{}

	mu     sync.Mutex
	cmd    *exec.Cmd // nil when none runs
	stdin  io.Closer // ends one that uses the API
	killed bool      // cmd was, by us
	pause  time.Duration
	closed chan struct{}
}

func (s *slot) start() {
	s.finished, s.closed = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(s.finished)
		for !s.isClosed() {
			s.one()
			s.mu.Lock()
			pause := s.pause
			s.pause = 0
			s.mu.Unlock()
			select {
			case <-time.After(pause):
			case <-s.closed:
			}
		}
	}()
}

func (s *slot) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// one runs one process to its end.
func (s *slot) one() {
	j := s.job
	j.Seed = s.rng.Uint64()
	cmd := exec.Command(os.Args[0])
	if s.hasp != "" {
		var key string
		key, j.Hold = j.choose(s.rng, j.Long)
		j.URL = ""
		cmd = exec.Command(s.hasp, "run", "--on", s.job.URL, "--timeout", j.TTL.String(), "--grace", "300ms",
			"--retry-interval", retryEvery.String(), "--max-wait", maxWait.String(), "--owner", j.Who, key, "--", os.Args[0])
	}
	env, err := j.env()
	if err != nil {
		s.report("", err.Error())
		return
	}
	cmd.Env = env
	// Not a pipe of ours: what a killed hasp has left behind may have it for a moment.
	out, err := os.CreateTemp("", "hasp-torture-")
	if err != nil {
		s.report("", err.Error())
		return
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.report("", err.Error())
		return
	}
	s.mu.Lock()
	if err := cmd.Start(); err != nil {
		s.mu.Unlock()
		s.report("", err.Error())
		return
	}
	s.cmd, s.stdin, s.killed = cmd, stdin, false
	if s.isClosed() { // in the meantime
		s.endLocked()
	}
	s.mu.Unlock()
	err = cmd.Wait()
	s.mu.Lock()
	s.cmd = nil
	killed := s.killed
	s.mu.Unlock()
	if err != nil && !killed {
		text, _ := os.ReadFile(out.Name())
		s.judge(err, bytes.TrimSpace(text))
	}
}

// judge reports how a process has ended that was not killed.
func (s *slot) judge(err error, said []byte) {
	code := -1
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if s.hasp != "" {
		switch code {
		case 75:
			s.report("timed out", "")
			return
		case 76:
			s.report("lost", "")
			return
		case 69:
			s.report("unavailable", "")
			return
		}
	}
	if tooFewReplicas(string(said)) {
		s.report("too few replicas", "")
		return
	}
	s.report("", fmt.Sprintf("%s has ended: %v: %.2000s", s.job.Who, err, said))
}

// signal sends a signal to the present process, and returns it; nil if there is none.
func (s *slot) signal(sig syscall.Signal) *os.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil || s.cmd.Process.Signal(sig) != nil {
		return nil
	}
	return s.cmd.Process
}

// kill is kill -9; the next process is started after pause.
func (s *slot) kill(pause time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil || s.cmd.Process.Kill() != nil {
		return false
	}
	s.killed, s.pause = true, pause
	return true
}

// close asks the process to end and starts no other. hasp run ends by itself, soon.
func (s *slot) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isClosed() {
		close(s.closed)
		s.endLocked()
	}
}

func (s *slot) endLocked() {
	if s.cmd != nil && s.hasp == "" {
		_ = s.stdin.Close() // it may have ended
	}
}
