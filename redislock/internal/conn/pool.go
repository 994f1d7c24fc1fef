// Package conn keeps connections to one Redis server on which a call ends when its
// context does. The client library waits for an answer until its deadline, whatever
// becomes of the context, and does not tell which connection of its pool a command is
// on.
package conn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// Pool has connections that are made when they are needed.
type Pool struct {
	options *redis.Options
	dial    Dial
	turns   chan struct{} // has an element for each call under way

	mu     sync.Mutex
	idle   []*single // the one used last comes last
	closed bool
}

// NewPool returns a pool that makes connections by dial, no more of them than the
// library would have.
func NewPool(o redis.Options, dial Dial) *Pool {
	size := o.PoolSize
	if size <= 0 {
		size = 10 * runtime.GOMAXPROCS(0)
	}
	if o.MaxActiveConns > 0 {
		size = min(size, o.MaxActiveConns)
	}
	return &Pool{options: &o, dial: dial, turns: make(chan struct{}, size)}
}

// Do has f talk to the server. It returns soon after ctx has ended; f itself gets a
// context that has only the deadline, and need not look at it.
func (p *Pool) Do(ctx context.Context, f func(context.Context, redis.UniversalClient) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case p.turns <- struct{}{}:
	default:
		select {
		case p.turns <- struct{}{}:
		case <-ctx.Done():
			return backend.Unavailable(fmt.Errorf("redis: all %d connections are waiting for answers (pool_size): %w", cap(p.turns), ctx.Err()))
		}
	}
	defer func() { <-p.turns }()
	s := p.take()
	if s == nil {
		return backend.ErrClosed
	}
	stop := context.AfterFunc(ctx, s.interrupt)
	err := f(undisturbed{ctx}, s.client)
	p.put(s, stop())
	return Ended(ctx, err)
}

// Ended adds to the error of a call that its context has ended, if it has: all that
// the library knows of is a deadline. The cause is left out: it can be one of our own
// errors, and would be taken for what the store has said.
func Ended(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	cause := ctx.Err()
	// The connection's deadline is the context's, and its timer may be faster.
	if at, ok := ctx.Deadline(); ok && cause == nil && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(at) {
		cause = context.DeadlineExceeded
	}
	if cause == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", cause, err)
}

// take returns a connection; nil if the pool is closed.
func (p *Pool) take() *single {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	if n := len(p.idle) - 1; n >= 0 {
		s := p.idle[n]
		p.idle[n], p.idle = nil, p.idle[:n]
		return s
	}
	return newSingle(p.options, p.dial)
}

// put takes a connection back. One that was, or is being, interrupted, or could not be
// made, is of no more use.
func (p *Pool) put(s *single, whole bool) {
	p.mu.Lock()
	keep := whole && !p.closed && !s.hasFailed()
	if keep {
		p.idle = append(p.idle, s)
	}
	p.mu.Unlock()
	if !keep {
		_ = s.client.Close() // nothing is under way on it
	}
}

// Close closes the connections; one that is in use, when its call is over.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, s := range idle {
		_ = s.client.Close() // nothing is under way on it
	}
}

// undisturbed is a context that has the deadline of another and does not end.
type undisturbed struct{ context.Context }

func (undisturbed) Done() <-chan struct{} { return nil }
func (undisturbed) Err() error            { return nil }
