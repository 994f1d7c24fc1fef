package hasp

import (
	"sync"
	"time"
)

// tasks counts what Close waits for: Acquires, and the goroutines that outlive
// their caller, which are calls and clean-ups.
// (A sync.WaitGroup may not be waited for while others still add to it.)
type tasks struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n falls to 0; made by who waits

	idle   []chan func() // goroutines that wait for more to do
	closed bool
}

// maxIdle is how many goroutines are kept for the next calls. A new one would
// have to grow its stack first, which costs as much as a rename.
const maxIdle = 2

func (t *tasks) add() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
}

// Go runs f in a goroutine that is counted.
func (t *tasks) Go(f func()) {
	t.add()
	go func() {
		defer t.done()
		f()
	}()
}

// Reuse is Go for what is soon done and done often: it keeps a few goroutines.
func (t *tasks) Reuse(f func()) {
	t.mu.Lock()
	t.n++
	var ch chan func()
	if k := len(t.idle) - 1; k >= 0 {
		ch, t.idle = t.idle[k], t.idle[:k]
	}
	t.mu.Unlock()
	if ch != nil {
		ch <- f
		return
	}
	go t.work(f)
}

func (t *tasks) work(f func()) {
	more := make(chan func(), 1)
	for f != nil {
		f()
		t.mu.Lock()
		t.finish()
		keep := !t.closed && len(t.idle) < maxIdle
		if keep {
			t.idle = append(t.idle, more)
		}
		t.mu.Unlock()
		if !keep {
			return
		}
		f = <-more
	}
}

// close ends the goroutines that are kept.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, ch := range t.idle {
		close(ch)
	}
	t.idle = nil
}

func (t *tasks) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finish()
}

// finish counts one less. Called with mu held.
func (t *tasks) finish() {
	t.n--
	if t.n == 0 && t.zero != nil {
		close(t.zero)
		t.zero = nil
	}
}

// wait returns true when there are none, and false if some still run after d: a
// call can hang for minutes on a dead mount.
func (t *tasks) wait(d time.Duration) bool {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return true
	}
	if t.zero == nil {
		t.zero = make(chan struct{})
	}
	zero := t.zero
	t.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-zero:
		return true
	case <-timer.C:
		return false
	}
}
