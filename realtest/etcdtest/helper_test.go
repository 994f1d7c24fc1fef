package etcdtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// bound is more than anything here takes on a slow machine.
const bound = 60 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	return ctx
}

// newBackend returns a backend with a client of its own, as another process has.
func newBackend(t testing.TB, client *clientv3.Client) *etcdlock.Backend {
	b := etcdlock.New(client, nil)
	t.Cleanup(func() {
		if err := b.Close(); err != nil && !errors.Is(err, backend.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

var claims atomic.Int64

func claim(ttl time.Duration) backend.Claim {
	n := claims.Add(1)
	return backend.Claim{
		ID:     fmt.Sprintf("c%d-%d", os.Getpid(), n),
		Holder: backend.Holder{Owner: fmt.Sprintf("owner-%d", n), Host: "test-host", PID: os.Getpid()},
		TTL:    ttl,
	}
}

func mustAcquire(t testing.TB, b backend.Backend, key string, c backend.Claim) backend.Grant {
	t.Helper()
	g, err := b.Acquire(testContext(t), key, c)
	if err != nil {
		t.Fatalf("acquire %q: %v", key, err)
	}
	return g
}

func mustRelease(t testing.TB, b backend.Backend, g backend.Grant) {
	t.Helper()
	if err := b.Release(testContext(t), g); err != nil {
		t.Fatalf("release %q: %v", g.Key, err)
	}
}

func mustBeHeld(t testing.TB, b backend.Backend, key string, c backend.Claim) *backend.HeldError {
	t.Helper()
	g, err := b.Acquire(testContext(t), key, c)
	var he *backend.HeldError
	if !errors.As(err, &he) {
		t.Fatalf("acquire %q: got %+v, %v, want a HeldError", key, g, err)
	}
	return he
}

func mustBe(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

// acquireWaiting is what the engine does: register, then an attempt at every
// wake-up, and one from time to time without.
func acquireWaiting(ctx context.Context, b *etcdlock.Backend, key string, c backend.Claim, every time.Duration) (backend.Grant, error) {
	g, err := b.Acquire(ctx, key, c)
	if !errors.Is(err, backend.ErrHeld) {
		return g, err
	}
	wake, stop, err := b.Watch(ctx, key, c)
	if err != nil {
		return backend.Grant{}, err
	}
	granted := false
	defer func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
		defer cancel()
		_ = stop(sctx, granted)
	}()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-wake:
		case <-tick.C:
		case <-ctx.Done():
			return backend.Grant{}, context.Cause(ctx)
		}
		g, err := b.Acquire(ctx, key, c)
		if err == nil {
			granted = true
			return g, nil
		}
		if !errors.Is(err, backend.ErrHeld) && !errors.Is(err, backend.ErrUnavailable) {
			return g, err
		}
	}
}

// never is for waiters that are to be woken and not to poll.
const never = time.Hour
