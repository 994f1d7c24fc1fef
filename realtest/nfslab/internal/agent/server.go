//go:build linux

package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Serve runs what its connections ask for. A command whose connection ends is
// killed, with its process group.
func Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

type sender struct {
	mu sync.Mutex
	c  net.Conn
}

func (s *sender) send(kind byte, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return writeFrame(s.c, kind, data)
}

// stream is one of a command's outputs.
type stream struct {
	s    *sender
	kind byte
}

func (w stream) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		end := min(len(p), n+maxFrame)
		if err := w.s.send(w.kind, p[n:end]); err != nil {
			return n, err
		}
		n = end
	}
	return len(p), nil
}

func serve(c net.Conn) {
	s := &sender{c: c}
	r := bufio.NewReader(c)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return
	}
	var req Request
	if err := json.Unmarshal(line, &req); err != nil || len(req.Argv) == 0 {
		_ = s.send(frameFailed, []byte("a request without a command"))
		return
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), req.Env...), req.Dir
	cmd.Stdout, cmd.Stderr = stream{s, frameStdout}, stream{s, frameStderr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // what outlives the command may keep its outputs open
	if err := cmd.Start(); err != nil {
		_ = s.send(frameFailed, []byte(err.Error()))
		return
	}
	var (
		mu    sync.Mutex
		ended bool // the group's number may be used again
	)
	signal := func(sig syscall.Signal) {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			_ = syscall.Kill(-cmd.Process.Pid, sig)
		}
	}
	go func() {
		for {
			kind, data, err := readFrame(r)
			if err != nil {
				signal(syscall.SIGKILL)
				return
			}
			if kind == frameSignal && len(data) == 1 {
				signal(syscall.Signal(data[0]))
			}
		}
	}()
	err = cmd.Wait()
	mu.Lock()
	ended = true
	mu.Unlock()
	if cmd.ProcessState == nil {
		_ = s.send(frameFailed, []byte(err.Error()))
		return
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		_ = s.send(frameFailed, []byte(err.Error()))
		return
	}
	code := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	_ = s.send(frameExit, binary.BigEndian.AppendUint32(nil, uint32(code)))
}
