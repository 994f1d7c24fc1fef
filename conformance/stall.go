package conformance

import (
	"sync"
	"time"
)

// stalls notices when the machine does not run this process for a while: what
// was not done in time then is not the backend's fault.
type stalls struct {
	mu   sync.Mutex
	seen []stall
	prev time.Time // when it was last seen running
	over bool
	quit chan struct{}
	done chan struct{}
}

type stall struct {
	at   time.Time // its end
	long time.Duration
}

const stallTick = 10 * time.Millisecond

func watchStalls() *stalls {
	s := &stalls{prev: time.Now(), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTimer(stallTick)
		defer tick.Stop()
		for {
			select {
			case <-s.quit:
				s.mu.Lock()
				s.over = true
				s.mu.Unlock()
				return
			case <-tick.C:
			}
			s.mu.Lock()
			now := time.Now()
			if late := s.late(now); late > 0 {
				s.seen = append(s.seen, stall{now, late})
			}
			s.prev = now
			s.mu.Unlock()
			tick.Reset(stallTick)
		}
	}()
	return s
}

func (s *stalls) stop() {
	close(s.quit)
	<-s.done
}

// late is for how long nothing has run that should have. Called with mu held.
func (s *stalls) late(now time.Time) time.Duration {
	if late := now.Sub(s.prev) - stallTick; late > stallTick && !s.over {
		return late
	}
	return 0
}

// since adds up the stalls that ended after t, and one that may be going on: who asks
// may be the first to run when it is over.
func (s *stalls) since(t time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum time.Duration
	if now := time.Now(); now.After(t) {
		sum = s.late(now)
	}
	for i := len(s.seen) - 1; i >= 0 && s.seen[i].at.After(t); i-- {
		sum += s.seen[i].long
	}
	return sum
}
