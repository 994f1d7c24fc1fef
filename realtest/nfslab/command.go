//go:build linux

package nfslab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"syscall"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab/internal/agent"
)

// Command is what Start runs.
type Command struct {
	Argv           []string
	Env            []string  // added to the host's
	Dir            string    // the working directory
	Stdout, Stderr io.Writer // nil to discard; written to from another goroutine
}

// Process is a command that runs in a host. It ends with its host.
type Process struct {
	p *agent.Process
	h *Host
}

// Start starts a command.
func (h *Host) Start(c Command) (*Process, error) {
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return nil, fmt.Errorf("nfslab: %s is off", h.Name)
	}
	conn, err := h.lab.net.dial(h.addr(), agent.Port, dialLimit)
	if err != nil {
		return nil, fmt.Errorf("nfslab: %s: %w", h.Name, err)
	}
	p, err := agent.Start(conn, agent.Request{Argv: c.Argv, Env: c.Env, Dir: c.Dir}, c.Stdout, c.Stderr)
	if err != nil {
		return nil, fmt.Errorf("nfslab: %s: %w", h.Name, err)
	}
	h.processes[p] = true
	go func() {
		<-p.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.processes, p)
	}()
	return &Process{p, h}, nil
}

// Wait returns the exit status, 128 + n if signal n ended the command. An error says
// that there is none: it could not be run, or its host crashed.
func (p *Process) Wait() (int, error) {
	code, err := p.p.Wait()
	if err != nil {
		err = fmt.Errorf("nfslab: %s: %w", p.h.Name, err)
	}
	return code, err
}

// Done is closed when Wait would return.
func (p *Process) Done() <-chan struct{} { return p.p.Done() }

// Signal sends a signal to the command's process group.
func (p *Process) Signal(s syscall.Signal) error {
	if s <= 0 || s > math.MaxUint8 {
		return fmt.Errorf("nfslab: signal %d", s)
	}
	return p.p.Signal(byte(s))
}

// Kill kills the command's process group, with SIGKILL.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Run runs a command and returns what it wrote to standard output. The error has what
// it wrote to standard error, and says if its status was not 0, or ctx ended first.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	p, err := h.Start(Command{Argv: argv, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.p.Disconnect()
		return stdout.String(), fmt.Errorf("nfslab: %s: %s: %w", h.Name, strings.Join(argv, " "), ctx.Err())
	}
	code, err := p.Wait()
	if err == nil && code != 0 {
		err = fmt.Errorf("nfslab: %s: %s: status %d: %s", h.Name, strings.Join(argv, " "), code, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// Shell runs a line of shell as Run does.
func (h *Host) Shell(ctx context.Context, line string) (string, error) {
	return h.Run(ctx, "sh", "-c", line)
}

// SetClock sets the host's wall clock to this machine's plus offset.
func (h *Host) SetClock(ctx context.Context, offset time.Duration) error {
	t := time.Now().Add(offset)
	_, err := h.Run(ctx, "date", "-s", fmt.Sprintf("@%d.%09d", t.Unix(), t.Nanosecond()))
	return err
}

// MountAgain mounts the export in a client a second time, at path, with options
// added to MountOptions and a cache of its own.
func (h *Host) MountAgain(ctx context.Context, path, options string) error {
	o := h.lab.mountOptions("nosharecache")
	if options != "" {
		o += "," + options
	}
	_, err := h.Run(ctx, "mount", "-t", "nfs4", "-o", o, h.lab.Server.addr()+":/", path)
	return err
}

// OnCrash has f called after each crash of the host.
func (h *Host) OnCrash(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onCrash = append(h.onCrash, f)
}
