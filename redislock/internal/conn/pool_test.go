package conn

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

func TestPoolIsLimited(t *testing.T) {
	p := NewPool(redis.Options{Addr: "127.0.0.1:1", PoolSize: 1}, nil)
	defer p.Close()
	busy, over := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- p.Do(context.Background(), func(context.Context, redis.UniversalClient) error {
			close(busy)
			<-over
			return nil
		})
	}()
	<-busy
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := p.Do(ctx, func(context.Context, redis.UniversalClient) error {
		t.Error("it was let through")
		return nil
	})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "pool_size") {
		t.Errorf("no connection is free: %v", err)
	}
	close(over)
	if err := <-done; err != nil {
		t.Error(err)
	}
	var first, second redis.UniversalClient
	for _, c := range []*redis.UniversalClient{&first, &second} {
		if err := p.Do(context.Background(), func(_ context.Context, client redis.UniversalClient) error { *c = client; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if first != second {
		t.Error("the second call does not use the connection of the first")
	}
	p.Close()
	err = p.Do(context.Background(), func(context.Context, redis.UniversalClient) error {
		t.Error("it was let through after the end")
		return nil
	})
	if !errors.Is(err, backend.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestPoolHasALimitOfItsOwn(t *testing.T) {
	for _, c := range []struct{ pool, active, want int }{{3, 0, 3}, {3, 2, 2}, {3, 7, 3}} {
		if n := cap(NewPool(redis.Options{PoolSize: c.pool, MaxActiveConns: c.active}, nil).turns); n != c.want {
			t.Errorf("pool_size %d, max_active_conns %d: %d connections, want %d", c.pool, c.active, n, c.want)
		}
	}
}

// A context's cause is its caller's affair: it can be one of our own errors, which
// would be taken for what the store has said.
func TestCauseIsNotTheStores(t *testing.T) {
	p := NewPool(redis.Options{Addr: "127.0.0.1:1", PoolSize: 1}, nil)
	defer p.Close()
	for name, early := range map[string]bool{"before the call": true, "during the call": false} {
		ctx, cancel := context.WithCancelCause(context.Background())
		if early {
			cancel(backend.ErrClosed)
		}
		err := p.Do(ctx, func(context.Context, redis.UniversalClient) error {
			cancel(backend.ErrClosed)
			return errors.New("no answer")
		})
		cancel(nil)
		if !errors.Is(err, context.Canceled) || errors.Is(err, backend.ErrClosed) {
			t.Errorf("%s: %v, want context.Canceled and not ErrClosed", name, err)
		}
	}
}
