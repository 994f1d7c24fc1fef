//go:build linux

package nfslab_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// A slot has a process on a host, and another when that has ended.
type slot struct {
	name     string
	c        *campaign
	h        *nfslab.Host
	command  bool
	argv     func(*rand.Rand) []string
	rng      *rand.Rand
	finished chan struct{}

	mu sync.Mutex
	p  *nfslab.Process
}

func (c *campaign) slot(h *nfslab.Host, command bool, argv func(*rand.Rand) []string) {
	s := &slot{name: fmt.Sprint("slot", len(c.slots)), c: c, h: h, command: command, argv: argv, rng: rand.New(rand.NewPCG(c.seed, uint64(len(c.slots)+1))), finished: make(chan struct{})}
	c.slots = append(c.slots, s)
	go s.run()
}

func (s *slot) run() {
	defer close(s.finished)
	for ; !s.c.isClosing(); time.Sleep(10 * time.Millisecond) {
		if s.c.isBusy(s.h.Name) || !s.h.Up() {
			continue
		}
		var said last
		p, err := s.h.Start(nfslab.Command{Argv: s.argv(s.rng), Stderr: &said})
		if err != nil { // it has crashed, or does not answer
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.p = p
		s.mu.Unlock()
		if s.c.isClosing() {
			_ = p.Kill()
		}
		<-p.Done()
		code, err := p.Wait()
		switch {
		case err != nil, code == 128+int(syscall.SIGKILL), code == 0:
			if s.command { // a process is dear there
				time.Sleep(10 * time.Second)
			}
		case s.command && (code == 73 && bytes.Contains(said.bytes(), []byte("no space left")) || code == 69 || code == 74 || code == 75 || code == 76): // no answer, no file system, held, lost
		default:
			// A worker ends with an error if it cannot open the store, which may be away.
			if !bytes.Contains(said.bytes(), []byte("unavailable")) && !s.c.isClosing() {
				s.c.odd("%s: status %d: %s", s.h.Name, code, said.bytes())
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// process is the one that runs now.
func (s *slot) process() *nfslab.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p
}

func (s *slot) kill() {
	if p := s.process(); p != nil && s.h.Up() {
		_ = p.Kill()
	}
}

// last keeps the end of what is written.
type last struct {
	mu sync.Mutex
	b  []byte
}

func (l *last) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	l.b = l.b[max(0, len(l.b)-2000):]
	return len(p), nil
}

func (l *last) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.TrimSpace(bytes.Clone(l.b))
}
