package hasp

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxEvents is how many events wait for a sink that is slower than what
	// happens. A Locker with 100,000 leases renews some ten thousand of them within
	// moments; an event takes a quarter of a KiB, and only while it waits.
	maxEvents = 1 << 16
	// sinkGrace is how long Close waits for events to be told.
	sinkGrace = time.Second
)

// A sink tells one party, the Observer or the Logger, what happens: one event at a
// time, in the order in which they were added, and from a goroutine of its own that
// runs while there is something to tell. So a party that blocks (a log that goes
// into a full pipe) holds up neither heartbeats nor Acquires nor the other party.
// Events for which there is no room are dropped, the newest, and their number is
// told in their place: without a bound a party that blocks for good would take all
// memory, and a bound at which emit waits would be what is to be avoided.
type sink struct {
	tell func(Event)

	mu      sync.Mutex
	queue   []Event
	dropped int
	running bool          // deliver is
	closed  bool          // nothing is added any more
	idle    chan struct{} // closed when deliver ends; made by close

	abandoned atomic.Bool // nothing is told any more
}

func (s *sink) add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return
	case len(s.queue) >= maxEvents:
		s.dropped++
		return
	}
	s.queue = append(s.queue, e)
	if !s.running {
		s.running = true
		go s.deliver()
	}
}

// deliver tells what there is to tell.
func (s *sink) deliver() {
	for {
		batch := s.take()
		if batch == nil {
			return
		}
		for _, e := range batch {
			if s.abandoned.Load() {
				break
			}
			s.tell(e)
		}
	}
}

// take empties the queue; nil if there is nothing more, and deliver is to end.
func (s *sink) take() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queue
	s.queue = nil
	if s.dropped > 0 {
		// they were newer than the whole batch
		batch = append(batch, Event{Kind: EventWarning, Time: time.Now(),
			Err: fmt.Errorf("%d events were dropped: what they are told to is too slow", s.dropped)})
		s.dropped = 0
	}
	if batch == nil {
		s.running = false
		if s.idle != nil {
			close(s.idle)
		}
	}
	return batch
}

// close waits for what has been added to be told, and not for ever: a call that does
// not return is left behind, with what comes after it.
func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	if !s.running {
		s.mu.Unlock()
		return
	}
	s.idle = make(chan struct{})
	s.mu.Unlock()
	grace := time.NewTimer(sinkGrace)
	defer grace.Stop()
	select {
	case <-s.idle:
	case <-grace.C:
		s.abandoned.Store(true)
	}
}
