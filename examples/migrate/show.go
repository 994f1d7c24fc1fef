//go:build unix

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// screen draws the fleet on a terminal, over and over; elsewhere it writes a line
// for each step.
type screen struct {
	out   io.Writer
	live  bool
	mu    sync.Mutex
	drawn int // lines
}

func newScreen(out *os.File, quiet bool) *screen {
	if quiet {
		return &screen{out: io.Discard}
	}
	fi, err := out.Stat()
	return &screen{out: out, live: err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"}
}

// line says that something has happened.
func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintln(s.out, text)
}

func (s *screen) clear() {
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

// draw shows what each worker is at.
func (s *screen) draw(f *fleet) {
	if !s.live {
		return
	}
	f.mu.Lock()
	var b strings.Builder
	n := 0
	for _, p := range f.workers {
		if p == nil {
			continue
		}
		n++
		what := string(p.kind)
		if p.frozen {
			what = "stopped"
		}
		fmt.Fprintf(&b, "%3d  %-4s  %-8s  %-6s  %d\n", p.number, p.phase, what, p.key, p.token)
	}
	f.mu.Unlock()
	fmt.Fprintf(&b, "%d acquired\n", f.witness.total())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprint(s.out, b.String())
	s.drawn = n + 1
}

// run draws until done is closed.
func (s *screen) run(f *fleet, done <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.draw(f)
		case <-done:
			s.mu.Lock()
			s.clear()
			s.mu.Unlock()
			return
		}
	}
}
