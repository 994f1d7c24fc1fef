package redistest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// Users' unit tests run on miniredis, a server inside the test's own process. Its
// clock does not move by itself: what the package documentation says of that holds.
func TestMiniredis(t *testing.T) {
	m := miniredis.RunT(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, b := open(t, "redis://"+m.Addr()), open(t, "redis://"+m.Addr())

	t.Run("verbs", func(t *testing.T) {
		g := acquire(t, a, "k", claim(time.Minute))
		mustBeHeld(t, b, "k", g)
		if _, err := a.Renew(ctx, g); err != nil {
			t.Error(err)
		}
		if rs, err := b.List(ctx, ""); err != nil || len(rs) != 1 {
			t.Errorf("list: %v, %v", rs, err)
		}
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "k", c)
		release(t, a, g)
		mustWake(t, "the waiter", wake)
		g2 := acquire(t, b, "k", c)
		stop(true)
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		if err := a.Break(ctx, "k", g2.Token); err != nil {
			t.Error(err)
		}
		mustBeLost(t, "release after a break", b.Release(ctx, g2))
	})

	t.Run("expiry", func(t *testing.T) {
		g := acquire(t, a, "expiry", claim(time.Second))
		c := claim(time.Minute)
		wake, stop := mustWatch(t, b, "expiry", c)
		m.FastForward(2 * time.Second)
		mustWake(t, "the waiter", wake)
		g2 := acquire(t, b, "expiry", c)
		stop(true)
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		_, err := a.Renew(ctx, g)
		mustBeLost(t, "renew after a takeover", err)
		release(t, b, g2)
	})

	t.Run("a turn that is let pass", func(t *testing.T) {
		// turns go by TIME, which is the real one unless SetTime sets it
		now := time.Now()
		m.SetTime(now)
		defer m.SetTime(time.Time{})
		g := acquire(t, a, "turn", claim(time.Minute))
		_, stop := mustWatch(t, a, "turn", claim(time.Minute))
		c := claim(time.Minute)
		wake, stop2 := mustWatch(t, b, "turn", c)
		release(t, a, g)
		select {
		case <-wake:
			t.Error("a turn passes, and the clock stands still")
		case <-time.After(1500 * time.Millisecond): // longer than the patience
		}
		eventually(t, "the waiter is woken", func() bool {
			now = now.Add(time.Second)
			m.SetTime(now)
			return len(wake) > 0
		})
		var err error
		eventually(t, "it has the lock in its turn", func() bool { // which passes, too, before a busy machine asks
			if g, err = b.Acquire(ctx, "turn", c); err != nil {
				now = now.Add(time.Second)
				m.SetTime(now)
			}
			return err == nil
		})
		stop2(true)
		stop(false)
		release(t, b, g)
	})

	t.Run("the engine", func(t *testing.T) {
		open := func() hasp.Locker {
			l, err := hasp.Open(ctx, "redis://"+m.Addr(), &hasp.Options{TTL: 30 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			return l
		}
		l1, l2 := open(), open()
		lease, err := l1.Acquire(ctx, "engine")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l2.TryAcquire(ctx, "engine"); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("it is held: %v", err)
		}
		got := make(chan error, 1)
		go func() {
			lease, err := l2.Acquire(ctx, "engine")
			if err == nil {
				err = lease.Release(ctx)
			}
			got <- err
		}()
		if err := lease.Release(ctx); err != nil {
			t.Error(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}
