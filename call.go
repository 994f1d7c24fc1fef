package hasp

import (
	"context"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// abandonAfter is how long a call may take to return once its context has
// ended. A client that heeds its context needs a fraction; a system call on a
// network file system that does not answer needs minutes.
const abandonAfter = 100 * time.Millisecond

// abandoned is the outcome of a call that did not return in time.
type abandoned struct{ cause error }

func (e *abandoned) Error() string {
	return fmt.Sprintf("%v: the call did not return: %s", backend.ErrUnavailable, backend.Text(e.cause))
}
func (e *abandoned) Unwrap() []error { return []error{backend.ErrUnavailable, e.cause} }

// call runs f with the request timeout, which counts from now on, and returns its result, or an
// *abandoned soon after the context has ended, or the Locker if it heedsClose, even
// if f hangs. In that case late, if not nil, gets the result whenever it comes.
func call[T any](parent context.Context, l *locker, now time.Time, heedsClose bool, f func(context.Context) (T, error), late func(T, error)) (T, error) {
	unheard := l.punctual && !l.prompt && parent.Done() == nil
	ctx := l.requests.make(parent, heedsClose && !unheard, now.Add(l.opts.RequestTimeout))
	defer ctx.finish()
	if l.prompt || unheard {
		// The switch to another goroutine and back would cost as much as a rename.
		return f(ctx)
	}
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	l.background.Reuse(func() {
		v, err := f(ctx)
		ch <- result{v, err}
	})
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(abandonAfter)
	defer grace.Stop()
	select {
	case r := <-ch:
		return r.v, r.err
	case <-grace.C:
	}
	if late != nil {
		l.background.Go(func() {
			r := <-ch
			late(r.v, r.err)
		})
	}
	var zero T
	return zero, &abandoned{context.Cause(ctx)}
}
