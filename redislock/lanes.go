package redislock

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// lanes are the connections of a Backend that was opened from a URL, made when they
// are needed.
type lanes struct {
	options *redis.Options
	turns   chan struct{} // has an element for each call under way

	mu     sync.Mutex
	idle   []*lane // the one used last comes last
	closed bool
}

// newLanes makes lanes to the server of o, no more of them than the library would
// have connections.
func newLanes(o redis.Options) *lanes {
	size := o.PoolSize
	if size <= 0 {
		size = 10 * runtime.GOMAXPROCS(0)
	}
	if o.MaxActiveConns > 0 {
		size = min(size, o.MaxActiveConns)
	}
	return &lanes{options: &o, turns: make(chan struct{}, size)}
}

// do has f talk to the server. It returns soon after ctx has ended; f itself gets a
// context that has only the deadline, and need not look at it.
func (ls *lanes) do(ctx context.Context, f func(context.Context, redis.UniversalClient) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case ls.turns <- struct{}{}:
	default:
		select {
		case ls.turns <- struct{}{}:
		case <-ctx.Done():
			return backend.Unavailable(fmt.Errorf("redis: all %d connections are waiting for answers (pool_size): %w", cap(ls.turns), ctx.Err()))
		}
	}
	defer func() { <-ls.turns }()
	l := ls.take()
	if l == nil {
		return backend.ErrClosed
	}
	defer ls.put(l)
	call := l.begin()
	stop := afterFunc(ctx, func() { l.interrupt(call) })
	err := f(undisturbed{ctx}, l.client)
	stop()
	return ended(ctx, err)
}

// ended adds to the error of a call that its context has ended, if it has: all that
// the library knows of is a deadline. The cause is left out: it can be one of our own
// errors, and would be taken for what the store has said.
func ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", ctx.Err(), err)
}

// take returns a lane; nil if they are closed.
func (ls *lanes) take() *lane {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return nil
	}
	if n := len(ls.idle) - 1; n >= 0 {
		l := ls.idle[n]
		ls.idle[n], ls.idle = nil, ls.idle[:n]
		return l
	}
	return newLane(ls.options, ls.crowd)
}

func (ls *lanes) put(l *lane) {
	failed := l.finish()
	ls.mu.Lock()
	keep := !ls.closed && !failed
	if keep {
		ls.idle = append(ls.idle, l)
	}
	ls.mu.Unlock()
	if !keep {
		_ = l.client.Close() // nothing is under way on it
	}
}

// crowd tells whether more than one call is under way.
func (ls *lanes) crowd() bool { return len(ls.turns) > 1 }

// close closes the connections; one that is in use, when its call is over.
func (ls *lanes) close() {
	ls.mu.Lock()
	idle := ls.idle
	ls.idle, ls.closed = nil, true
	ls.mu.Unlock()
	for _, l := range idle {
		_ = l.client.Close() // nothing is under way on it
	}
}

// undisturbed is a context that has the deadline of another and does not end.
type undisturbed struct{ context.Context }

func (undisturbed) Done() <-chan struct{} { return nil }
func (undisturbed) Err() error            { return nil }

// afterFunc is context.AfterFunc without the context that it makes, where ctx can
// do it by itself, as the engine's can.
func afterFunc(ctx context.Context, f func()) (stop func() bool) {
	if c, ok := ctx.(interface{ AfterFunc(func()) func() bool }); ok {
		return c.AfterFunc(f)
	}
	return context.AfterFunc(ctx, f)
}
