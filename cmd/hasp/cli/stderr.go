package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// errorWriter writes to standard error so that nobody here ever waits for its
// reader: a pipe that is full, or a terminal that was stopped by Ctrl-S, must not
// keep hasp from a heartbeat or a signal. What does not fit into its queue is left
// out. That the reader has gone is no error. Nothing secret of a URL gets through.
type errorWriter struct {
	w io.Writer

	mu      sync.Mutex
	queue   [][]byte
	size    int           // bytes in the queue
	dropped int           // messages that were left out since the last that was not
	idle    chan struct{} // closed when all has been written; nil if it has been
}

// errorBacklog is how much is kept for a reader that is slow: as much as a pipe holds.
const errorBacklog = 64 << 10

// Write takes p as one message. It never fails.
func (e *errorWriter) Write(p []byte) (int, error) {
	text := []byte(backend.Redact(string(p)))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.size+len(text) > errorBacklog {
		e.dropped++
		return len(p), nil
	}
	if e.dropped > 0 {
		e.add(fmt.Appendf(nil, "\nhasp: warning: %d messages were left out, because nobody has read them\n", e.dropped))
		e.dropped = 0
	}
	e.add(text)
	if e.idle == nil {
		e.idle = make(chan struct{})
		go e.drain()
	}
	return len(p), nil
}

// add appends to the queue. Called with mu held.
func (e *errorWriter) add(p []byte) {
	e.queue = append(e.queue, p)
	e.size += len(p)
}

func (e *errorWriter) drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.queue) > 0 {
		p := e.queue[0]
		e.mu.Unlock()
		_, _ = e.w.Write(p)
		e.mu.Lock()
		e.queue = e.queue[1:]
		e.size -= len(p)
	}
	close(e.idle)
	e.idle = nil
}

// busy tells whether something has not been written yet.
func (e *errorWriter) busy() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.idle != nil
}

// flush waits until all has been written, but not longer than d.
func (e *errorWriter) flush(d time.Duration) {
	e.mu.Lock()
	idle := e.idle
	e.mu.Unlock()
	if idle == nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
}
