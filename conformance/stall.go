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
	quit chan struct{}
	done chan struct{}
}

type stall struct {
	at   time.Time // its end
	long time.Duration
}

const stallTick = 10 * time.Millisecond

func watchStalls() *stalls {
	s := &stalls{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTimer(stallTick)
		defer tick.Stop()
		prev := time.Now()
		for {
			select {
			case <-s.quit:
				return
			case <-tick.C:
			}
			now := time.Now()
			if late := now.Sub(prev) - stallTick; late > stallTick {
				s.mu.Lock()
				s.seen = append(s.seen, stall{now, late})
				s.mu.Unlock()
			}
			prev = now
			tick.Reset(stallTick)
		}
	}()
	return s
}

func (s *stalls) stop() {
	close(s.quit)
	<-s.done
}

// since adds up the stalls that ended after t, and one that may be going on.
func (s *stalls) since(t time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum time.Duration
	for i := len(s.seen) - 1; i >= 0 && s.seen[i].at.After(t); i-- {
		sum += s.seen[i].long
	}
	return sum
}
