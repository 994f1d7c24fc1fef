package etcdtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/redistest"
)

// A Release that comes when the lock has run out frees nothing, and is not taken for one
// that has, however often it is repeated and whatever was left to clean up.
func TestLateReleaseIsNoRelease(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	proxy := redistest.StartProxy(t, srv.Addr())
	open := func(addr string) backend.Backend {
		b, err := backend.Open(t.Context(), "etcd://"+addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		return b
	}
	a, b := open(proxy.Addr()), open(srv.Addr())
	g, err := a.Acquire(t.Context(), "k", claim(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	var taken backend.Grant
	for c := claim(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if taken, err = b.Acquire(t.Context(), "k", c); err == nil {
			break
		} else if !errors.Is(err, backend.ErrHeld) {
			t.Fatal(err)
		}
	}
	release := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return a.Release(ctx, g)
	}
	if err := release(); err == nil {
		t.Error("a Release that cannot reach etcd gave no error")
	}
	proxy.Heal()
	for err = release(); err != nil && !errors.Is(err, backend.ErrLost); err = release() {
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		t.Error("a late Release gave no error, and another holds the lock")
	}
	if err := b.Release(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	for err = release(); err != nil && !errors.Is(err, backend.ErrLost); err = release() {
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		t.Error("a late Release gave no error when the lock was free again")
	}
}
