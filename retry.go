package hasp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how long to wait between attempts. It has no state: one
// policy serves any number of concurrent Acquires.
type RetryPolicy interface {
	// Wait returns how long to wait before retry n (1 is the first), and false
	// if there is no such retry. Being woken early, because the lock was released
	// or has become stale, uses up no retry, so the waits add up to the longest
	// time an Acquire can wait.
	Wait(n int) (time.Duration, bool)
}

// Unlimited, as a number of retries, means until the context ends.
const Unlimited = -1

// Constant waits interval before each of max retries (Unlimited for no end).
// The engine lets each attempt but the last come up to a tenth of the interval
// early, at random, so that processes started together do not stay in step.
func Constant(interval time.Duration, max int) RetryPolicy {
	return constant{interval, max}
}

type constant struct {
	interval time.Duration
	max      int
}

func (c constant) validate() error {
	if c.interval < 0 {
		return fmt.Errorf("the interval is %v: it must not be negative", c.interval)
	}
	return nil
}

func (c constant) Wait(n int) (time.Duration, bool) {
	return c.interval, c.max < 0 || n <= c.max
}

// Exponential doubles the wait from base up to cap and takes a random part of
// it each time (full jitter), for max retries (Unlimited for no end).
func Exponential(base, cap time.Duration, max int) RetryPolicy {
	return exponential{base, cap, max}
}

type exponential struct {
	base, cap time.Duration
	max       int
}

func (e exponential) validate() error {
	if e.base < 0 || e.cap < 0 {
		return fmt.Errorf("exponential from %v to %v: neither must be negative", e.base, e.cap)
	}
	return nil
}

func (e exponential) Wait(n int) (time.Duration, bool) {
	d := e.cap
	if n < 62 {
		if grown := e.base << (n - 1); grown > 0 && grown>>(n-1) == e.base {
			d = min(grown, e.cap)
		}
	}
	if d <= 0 {
		return 0, e.max < 0 || n <= e.max
	}
	return time.Duration(rand.Int64N(int64(d))) + 1, e.max < 0 || n <= e.max
}

// A schedule is one Acquire's walk through a policy. Its retries are due at
// fixed times after the start, however often the waiter was woken in between.
type schedule struct {
	policy  RetryPolicy
	maxWait time.Duration // 0: none
	n       int           // the retry that is due next
	start   time.Time
	end     time.Duration // after start: when retry n's wait ends
	due     time.Duration // after start: when retry n is made (early by the jitter)
	over    bool          // there is no retry n
}

func newSchedule(p RetryPolicy, maxWait time.Duration, start time.Time) *schedule {
	s := &schedule{policy: p, maxWait: maxWait, start: start}
	s.next()
	return s
}

// next moves on to the next retry.
func (s *schedule) next() {
	if s.maxWait > 0 && s.end >= s.maxWait && s.n > 0 {
		s.over = true
		return
	}
	s.n++
	w, ok := s.policy.Wait(s.n)
	if !ok {
		s.over = true
		return
	}
	_, more := s.policy.Wait(s.n + 1)
	s.end += max(w, minWait)
	s.due = s.end
	if s.maxWait > 0 && s.end >= s.maxWait {
		s.end, s.due = s.maxWait, s.maxWait
		return
	}
	if _, fixed := s.policy.(constant); fixed && more {
		s.due -= time.Duration(rand.Int64N(int64(w)/10 + 1))
	}
}

// minWait keeps a policy that returns nothing from becoming a busy loop.
const minWait = time.Millisecond

// until returns how long from now retry n is due; false if there is none.
func (s *schedule) until(now time.Time) (time.Duration, bool) {
	if s.over {
		return 0, false
	}
	return max(0, s.due-now.Sub(s.start)), true
}

// left returns the longest time that waiting can still take, or -1 if it has
// no bound. For policies with randomness it is an estimate.
func (s *schedule) left(now time.Time) time.Duration {
	if s.over {
		return 0
	}
	passed := now.Sub(s.start)
	end := time.Duration(-1)
	if c, ok := s.policy.(constant); ok && c.max >= 0 {
		n, each := time.Duration(c.max), max(c.interval, minWait)
		if n == 0 || each <= math.MaxInt64/n { // else it is more than there is
			end = n * each
		}
	}
	if s.maxWait > 0 && (end < 0 || s.maxWait < end) {
		end = s.maxWait
	}
	if end < 0 {
		return -1
	}
	return max(0, end-passed)
}
