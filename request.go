package hasp

import (
	"context"
	"slices"
	"sync"
	"time"
)

// request is the context of one call to the backend: its caller's, with a
// deadline, and, if it is one of those, ended when the Locker is closed. What it
// takes to end by itself is made when somebody first waits for that: a call on a
// local disk never does, and package context's timers and trees cost as much as
// taking a lock there.
type request struct {
	context.Context // the caller's
	deadline        time.Time
	all             *requests
	heedsClose      bool

	mu       sync.Mutex
	done     chan struct{} // nil until somebody waits for it
	err      error         // why done is closed, or would be
	armed    bool          // it ends by itself
	unhear   func() bool   // ends the wait for the caller's context
	children []*func()

	prev, next *request // in all's list; all.mu guards them
}

func (r *request) Deadline() (time.Time, bool) { return r.deadline, true }

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil {
		return r.done
	}
	r.done = make(chan struct{})
	if r.err != nil {
		close(r.done)
	} else if r.look() == nil {
		r.arm()
		r.look() // the Locker may have been closed in between
	}
	return r.done
}

// arm makes it end by itself. Called with mu held.
func (r *request) arm() {
	if r.armed {
		return
	}
	r.armed = true
	r.all.add(r)
	if r.Context.Done() != nil {
		r.unhear = context.AfterFunc(r.Context, r.end)
	}
}

// end is called by whatever ends it.
func (r *request) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
}

func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.look()
}

// look sets err if there is a reason to, tells of it, and returns it. Called with mu
// held.
func (r *request) look() error {
	if r.err != nil {
		return r.err
	}
	switch {
	case r.Context.Err() != nil:
		r.err = r.Context.Err()
	case r.heedsClose && r.all.closed.Load():
		r.err = context.Canceled
	case !time.Now().Before(r.deadline):
		r.err = context.DeadlineExceeded
	default:
		return nil
	}
	r.tell()
	return r.err
}

// tell tells those who wait that err is set. Called with mu held.
func (r *request) tell() {
	if r.done != nil {
		close(r.done)
	}
	for _, f := range r.children {
		go (*f)()
	}
	r.children = nil
}

// AfterFunc is called by package context for each context that is made of this one,
// and spares it a goroutine for each. Backends may call it too, which saves them
// the context that context.AfterFunc makes.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.look() != nil {
		go f()
		return func() bool { return false }
	}
	r.arm()
	child := &f
	r.children = append(r.children, child)
	r.look() // the Locker may have been closed in between
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.Index(r.children, child)
		if i >= 0 {
			r.children = slices.Delete(r.children, i, i+1)
		}
		return i >= 0
	}
}

// finish ends the context and lets go of what was made.
func (r *request) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = context.Canceled
		r.tell()
	}
	if r.armed {
		r.armed = false
		r.all.remove(r)
	}
	if r.unhear != nil {
		r.unhear()
	}
}
