package hasp

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A slot is the right of one goroutine of this process to contend for a key,
// or to hold it. The others wait here, in order, and cost the store nothing.
type slot struct {
	waiters []*slotWaiter
	lease   *Lease         // set while it is held
	blocker backend.Record // else: who the contending goroutine last saw in the way
}

type slotWaiter struct{ turn chan struct{} }

// tryEnter takes key's slot if nobody has it.
func (l *locker) tryEnter(key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if s := l.keys[key]; s != nil {
		return s.held(key, l.now())
	}
	l.keys[key] = &slot{}
	return nil
}

// enter takes key's slot, waiting for its turn by w's schedule.
func (l *locker) enter(ctx context.Context, key string, w *wait) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	s := l.keys[key]
	if s == nil {
		l.keys[key] = &slot{}
		l.mu.Unlock()
		return nil
	}
	me := &slotWaiter{turn: make(chan struct{})}
	s.waiters = append(s.waiters, me)
	w.last = s.held(key, l.now())
	l.mu.Unlock()

	for {
		l.emitAttempt(key, w)
		if w.sched.over {
			break
		}
		l.emitWaiting(key, w)
		stop, err := w.sleep(ctx, l, me.turn, 0)
		if stop == sleptEnd {
			if l.leave(s, me) {
				return err
			}
			l.exit(key) // the turn came at the same moment: pass it on
			return err
		}
		if stop == sleptClosed {
			return nil
		}
		l.mu.Lock()
		w.last = s.held(key, l.now())
		l.mu.Unlock()
	}
	if !l.leave(s, me) {
		return nil // its turn came just now
	}
	return w.timeout()
}

// leave takes me off s's queue; false if its turn had come.
func (l *locker) leave(s *slot, me *slotWaiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range s.waiters {
		if w == me {
			s.waiters = append(s.waiters[:i], s.waiters[i+1:]...)
			return true
		}
	}
	return false
}

// exit gives key's slot to the next goroutine.
func (l *locker) exit(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.keys[key]
	if s == nil {
		return
	}
	s.lease, s.blocker = nil, backend.Record{}
	if len(s.waiters) == 0 {
		delete(l.keys, key)
		return
	}
	next := s.waiters[0]
	s.waiters[0] = nil
	s.waiters = s.waiters[1:]
	close(next.turn)
}

// setBlocker records who is in the way of the goroutine that contends.
func (l *locker) setBlocker(key string, r backend.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.keys[key]; s != nil {
		s.blocker = r
	}
}

// held says who is in the way, for those who wait behind this process's own.
func (s *slot) held(key string, now reading) error {
	if s.lease != nil {
		return &HeldError{Record: s.lease.record(now)}
	}
	r := s.blocker
	if r.State == "" {
		r = backend.Record{Key: key, State: backend.Held, Note: "another goroutine of this process is about to take it"}
	}
	return &HeldError{Record: r}
}

// wait is the state of one Acquire.
type wait struct {
	id       uint64 // tells the Acquires of the Locker apart
	terms    *terms
	start    time.Time
	sched    *schedule
	attempts int
	last     error // what the last attempt found
}

type slept int

const (
	sleptRetry  slept = iota // a retry is due
	sleptWake                // woken early
	sleptClosed              // the same, and there will be no more wake-ups
	sleptEarly               // the early moment has come
	sleptEnd                 // the context or the Locker has ended; there is an error
)

// sleep waits for the next retry, a wake-up, or (if early > 0) that much time.
func (w *wait) sleep(ctx context.Context, l *locker, wake <-chan struct{}, early time.Duration) (slept, error) {
	d, _ := w.sched.until(time.Now())
	why := sleptRetry
	if early > 0 && early < d {
		d, why = early, sleptEarly
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case _, open := <-wake:
		if !open {
			return sleptClosed, nil
		}
		return sleptWake, nil
	case <-timer.C:
		if why == sleptRetry {
			w.sched.next()
		}
		return why, nil
	case <-ctx.Done():
		return sleptEnd, w.canceled(ctx)
	case <-l.life.Done():
		return sleptEnd, ErrClosed
	}
}

func (w *wait) canceled(ctx context.Context) error {
	return newCanceled(ctx, w.attempts, time.Since(w.start), w.last)
}

func (w *wait) timeout() error {
	return &TimeoutError{Attempts: w.attempts, Waited: time.Since(w.start), Last: w.last}
}
