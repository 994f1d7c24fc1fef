package hasp

import (
	"context"
	"slices"
	"sync"
	"time"
)

// request is the context of one call to the backend: its caller's, with a
// deadline, and ended besides when the Locker is closed. What it takes to end by
// itself is made when somebody first waits for that: a call on a local disk never
// does, and package context's timers and trees cost as much as taking a lock there.
type request struct {
	context.Context // the caller's
	deadline        time.Time
	life            context.Context // the Locker's, or nil

	mu       sync.Mutex
	done     chan struct{} // nil until somebody waits
	err      error         // why done is closed, or would be
	stops    [3]func() bool
	children []*func()
}

// newRequest returns the context of a call that may take d. finish has to be called
// when the call is over.
func newRequest(ctx, life context.Context, d time.Duration) *request {
	r := &request{Context: ctx, deadline: time.Now().Add(d), life: life}
	if t, ok := ctx.Deadline(); ok && t.Before(r.deadline) {
		r.deadline = t
	}
	return r
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
		return r.done
	}
	if r.look() != nil {
		return r.done
	}
	r.stops[0] = time.AfterFunc(time.Until(r.deadline), r.end).Stop
	if r.life != nil {
		r.stops[1] = context.AfterFunc(r.life, r.end)
	}
	if r.Context.Done() != nil {
		r.stops[2] = context.AfterFunc(r.Context, r.end)
	}
	return r.done
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
	case r.life != nil && r.life.Err() != nil:
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
// and spares it a goroutine for each.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	r.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		go f()
		return func() bool { return false }
	}
	child := &f
	r.children = append(r.children, child)
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
	for _, stop := range r.stops {
		if stop != nil {
			stop()
		}
	}
}
