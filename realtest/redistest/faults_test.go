package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
)

// insist repeats f while its outcome is unknown, as the engine does.
func insist[T any](tb testing.TB, what string, f func(context.Context) (T, error)) (T, error) {
	tb.Helper()
	for deadline := time.Now().Add(patient); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		v, err := f(ctx)
		cancel()
		if !errors.Is(err, backend.ErrUnavailable) {
			return v, err
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: still %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func mustAcquire(tb testing.TB, b backend.Backend, key string, c backend.Claim) backend.Grant {
	tb.Helper()
	g, err := insist(tb, "acquire", func(ctx context.Context) (backend.Grant, error) { return b.Acquire(ctx, key, c) })
	if err != nil {
		tb.Fatalf("acquire %q: %v", key, err)
	}
	return g
}

func renew(tb testing.TB, b backend.Backend, g backend.Grant) error {
	tb.Helper()
	_, err := insist(tb, "renew", func(ctx context.Context) (backend.Grant, error) { return b.Renew(ctx, g) })
	return err
}

func TestWipe(t *testing.T) {
	s := redistest.Start(t, nil)
	a, b := open(t, s.URL()), open(t, s.URL())
	g := acquire(t, a, "k", claim(time.Minute))
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	s.Wipe()
	// the queue is made anew, and the waiter served
	mustWake(t, "the waiter", wake)
	mustBeLost(t, "renew after FLUSHALL", renew(t, a, g))
	g2 := acquire(t, b, "k", c)
	stop(true)
	if g2.Token <= g.Token {
		t.Errorf("token %d after %d", g2.Token, g.Token)
	}
	mustBeLost(t, "release after FLUSHALL", a.Release(context.Background(), g))
	mustBeHeld(t, a, "k", g2)
	release(t, b, g2)
}

func TestScriptFlush(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	wb := open(t, s.URL("replicas=0"))
	ctx := context.Background()
	flush := func() { s.Do("script", "flush") }
	flush()
	g := acquire(t, b, "k", claim(time.Minute))
	flush()
	if _, err := b.Renew(ctx, g); err != nil {
		t.Error(err)
	}
	flush()
	for _, r := range b.RenewAll(ctx, []backend.Grant{g, g}) {
		if r.Err != nil {
			t.Error(r.Err)
		}
	}
	flush()
	if rs, err := b.List(ctx, ""); err != nil || len(rs) != 1 {
		t.Errorf("list: %v, %v", rs, err)
	}
	flush()
	c := claim(time.Minute)
	wake, stop := mustWatch(t, wb, "k", c)
	flush()
	release(t, b, g)
	mustWake(t, "the waiter", wake)
	flush()
	stop(false)
	g = acquire(t, b, "k", claim(time.Minute))
	flush()
	if err := b.Break(ctx, "k", g.Token); err != nil {
		t.Error(err)
	}
	flush()
	if err := b.RaiseToken(ctx, "k", 1<<60); err != nil {
		t.Error(err)
	}
}

func TestClientKill(t *testing.T) {
	s := redistest.Start(t, nil)
	a, b := open(t, s.URL()), open(t, s.URL())
	g := acquire(t, a, "k", claim(time.Minute))
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	for _, kind := range []string{"normal", "pubsub"} {
		s.Do("client", "kill", "type", kind, "skipme", "yes")
	}
	if err := renew(t, a, g); err != nil {
		t.Fatal(err)
	}
	if _, err := insist(t, "release", func(ctx context.Context) (int, error) { return 0, a.Release(ctx, g) }); err != nil {
		t.Fatal(err)
	}
	mustWake(t, "the waiter", wake)
	g2 := mustAcquire(t, b, "k", c)
	stop(true)
	release(t, b, g2)
}

func TestRestart(t *testing.T) {
	for _, persist := range []bool{false, true} {
		t.Run(fmt.Sprint("persist=", persist), func(t *testing.T) {
			s := redistest.Start(t, &redistest.Options{Binary: true, Persist: persist})
			a, b := open(t, s.URL()), open(t, s.URL())
			g := acquire(t, a, "k", claim(time.Minute))
			c := claim(time.Minute)
			wake, stop := mustWatch(t, b, "k", c)
			s.Kill()
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if _, err := a.Renew(ctx, g); !errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("renew while the server is down: %v", err)
			}
			s.Restart()
			err := renew(t, a, g)
			if persist {
				if err != nil {
					t.Fatalf("renew after a restart with its data: %v", err)
				}
				if _, err := b.Acquire(context.Background(), "k", claim(time.Minute)); !errors.Is(err, backend.ErrHeld) {
					t.Fatalf("acquire of the held lock: %v", err)
				}
				release(t, a, g)
			} else {
				mustBeLost(t, "renew after a restart without data", err)
			}
			mustWake(t, "the waiter", wake)
			g2 := mustAcquire(t, b, "k", c)
			stop(true)
			if g2.Token <= g.Token {
				t.Errorf("token %d after %d", g2.Token, g.Token)
			}
			release(t, b, g2)
		})
	}
}

func TestPausedServer(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Binary: true})
	b := open(t, s.URL())
	g := acquire(t, b, "held", claim(time.Minute))
	s.Pause()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	c := claim(time.Minute)
	if _, err := b.Acquire(ctx, "k", c); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("acquire: %v", err)
	}
	if err := b.Release(ctx, g); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("release: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v, the deadline was 300 ms", took)
	}
	s.Resume()
	// both may have been executed meanwhile; repeated, they come out the same
	release(t, b, g)
	g1 := mustAcquire(t, b, "k", c)
	if g2 := mustAcquire(t, b, "k", c); g2 != g1 {
		t.Errorf("a repeated acquire got %+v, then %+v", g1, g2)
	}
	release(t, b, backend.Grant{Key: "k", ID: c.ID})
}

func TestPartition(t *testing.T) {
	s := redistest.Start(t, nil)
	p := redistest.StartProxy(t, s.Addr())
	a, b := open(t, "redis://"+p.Addr()), open(t, s.URL())
	g := acquire(t, a, "k", claim(800*time.Millisecond))
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	p.Cut()
	mustWake(t, "the waiter on the other side", wake)
	g2 := acquire(t, b, "k", c)
	stop(true)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := a.Renew(ctx, g); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("renew across the partition: %v", err)
	}
	p.Heal()
	mustBeLost(t, "renew after it", renew(t, a, g))
	mustBeHeld(t, b, "k", g2)
	release(t, b, g2)
}

func TestFailover(t *testing.T) {
	t.Run("replicated", func(t *testing.T) {
		r := redistest.StartReplicated(t)
		a, b := open(t, r.URL()), open(t, r.URL())
		g := acquire(t, a, "k", claim(time.Minute))
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "k", c)
		r.Sync()
		r.Failover()
		if err := renew(t, a, g); err != nil {
			t.Fatalf("renew at the new primary: %v", err)
		}
		if _, err := insist(t, "release", func(ctx context.Context) (int, error) { return 0, a.Release(ctx, g) }); err != nil {
			t.Fatal(err)
		}
		mustWake(t, "the waiter", wake)
		g2 := mustAcquire(t, b, "k", c)
		stop(true)
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
	})
	t.Run("lost", func(t *testing.T) {
		r := redistest.StartReplicated(t)
		a, b := open(t, r.URL()), open(t, r.URL())
		r.Sync()
		r.Disconnect()
		g := acquire(t, a, "k", claim(time.Minute))
		r.Failover()
		// What the replica has not heard of is lost: the new primary grants the lock
		// again, but with a greater token, and the first holder is told.
		g2 := mustAcquire(t, b, "k", claim(time.Minute))
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		mustBeLost(t, "renew of what the failover lost", renew(t, a, g))
	})
	t.Run("wait", func(t *testing.T) {
		r := redistest.StartReplicated(t)
		b := open(t, r.URL("replicas=1", "replicas_timeout=2s"))
		g := acquire(t, b, "k", claim(time.Minute))
		r.Disconnect()
		quick := open(t, r.URL("replicas=1", "replicas_timeout=100ms"))
		c := claim(time.Minute)
		if _, err := quick.Acquire(context.Background(), "k2", c); err == nil || errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("acquire without a replica that acknowledges: %v", err)
		}
		if r, err := quick.Inspect(context.Background(), "k2"); err != nil || r.State != backend.Free {
			t.Errorf("it is left %s (%v)", r.State, err)
		}
		r.Failover()
		if err := renew(t, b, g); err != nil {
			t.Errorf("renew of an acknowledged lock at the new primary: %v", err)
		}
	})
}

func TestReplicaIsReadOnly(t *testing.T) {
	r := redistest.StartReplicated(t)
	mustNotOpen(t, r.Replica.URL(), "read-only replica")
}
