package hasp

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// requests are a Locker's, and those that end by themselves are in its list. One
// timer serves all their deadlines, and Close looks for them here: a timer and an
// entry in the Locker's own context for each would cost two thirds of what the
// engine adds to a request.
type requests struct {
	closed atomic.Bool

	mu    sync.Mutex
	first *request
	timer *time.Timer
	due   time.Time // when timer fires; zero if it is not set
}

// make returns the context of a call that has to end by deadline, and ends with close if it
// heeds that. finish has to be called when the call is over.
func (s *requests) make(ctx context.Context, heedsClose bool, deadline time.Time) *request {
	r := &request{Context: ctx, deadline: deadline, all: s, heedsClose: heedsClose}
	if t, ok := ctx.Deadline(); ok && t.Before(r.deadline) {
		r.deadline = t
	}
	return r
}

// close ends the requests that heed it, also those that come later.
func (s *requests) close() {
	s.closed.Store(true)
	s.mu.Lock()
	var all []*request
	for r := s.first; r != nil; r = r.next {
		if r.heedsClose {
			all = append(all, r)
		}
	}
	s.mu.Unlock()
	for _, r := range all {
		r.end()
	}
}

func (s *requests) add(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.next = s.first; r.next != nil {
		r.next.prev = r
	}
	s.first = r
	if s.due.IsZero() || r.deadline.Before(s.due) {
		s.set(r.deadline)
	}
}

func (s *requests) remove(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		s.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// set has expire called at t, which may be a request's deadline or earlier. Called
// with mu held.
func (s *requests) set(t time.Time) {
	s.due = t
	if d := time.Until(t); s.timer == nil {
		s.timer = time.AfterFunc(d, s.expire)
	} else {
		s.timer.Reset(d)
	}
}

// expirePace is how far apart the timer's firings are at least: it looks at every
// request each time.
const expirePace = time.Millisecond

// expire ends the requests whose deadline has come. The timer is left to fire when
// those for which it was set are over, and finds out then.
func (s *requests) expire() {
	s.mu.Lock()
	now := time.Now()
	var expired []*request
	var next time.Time
	for r := s.first; r != nil; r = r.next {
		switch {
		case !now.Before(r.deadline):
			expired = append(expired, r)
		case next.IsZero() || r.deadline.Before(next):
			next = r.deadline
		}
	}
	s.due = time.Time{}
	if !next.IsZero() {
		if soon := now.Add(expirePace); next.Before(soon) {
			next = soon
		}
		s.set(next)
	}
	s.mu.Unlock()
	for _, r := range expired {
		r.end()
	}
}
