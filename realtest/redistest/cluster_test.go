package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	ctx := context.Background()
	a, b := open(t, c.URL()), open(t, c.URL())

	t.Run("many keys", func(t *testing.T) {
		var gs []backend.Grant
		for i := range 50 {
			gs = append(gs, acquire(t, a, fmt.Sprint("many/", i), claim(time.Minute)))
		}
		for _, s := range c.Nodes {
			if len(s.Keys()) == 0 {
				t.Error("a node has no key: the locks are not spread")
			}
		}
		for _, r := range a.RenewAll(ctx, gs) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		if rs, err := b.List(ctx, "many/"); err != nil || len(rs) != len(gs) {
			t.Errorf("%d are listed, %d are held (%v)", len(rs), len(gs), err)
		}
		for _, g := range gs {
			mustBeHeld(t, b, g.Key, g)
			release(t, a, g)
		}
	})

	t.Run("queue", func(t *testing.T) {
		a, b := open(t, c.URL(unhurried)), open(t, c.URL(unhurried))
		for i := range 10 { // on each of the nodes
			key := fmt.Sprint("queue/", i)
			g := acquire(t, a, key, claim(time.Minute))
			c1, c2 := claim(time.Minute), claim(time.Minute)
			wake1, stop1 := mustWatch(t, b, key, c1)
			wake2, stop2 := mustWatch(t, a, key, c2)
			release(t, a, g)
			mustWake(t, "the first", wake1)
			g = acquire(t, b, key, c1)
			stop1(true)
			if err := a.Break(ctx, key, g.Token); err != nil {
				t.Fatal(err)
			}
			mustWake(t, "the second", wake2)
			g = acquire(t, a, key, c2)
			stop2(true)
			release(t, a, g)
		}
	})

	t.Run("dead waiters", func(t *testing.T) {
		// A cluster does not know whose connection is gone: the first lets its turn
		// pass, and then all are called.
		testDeadWaiters(t, c.URL("prefix=dead:"), 100, syscall.SIGKILL, 3*time.Second, nil)
		testDeadWaiters(t, c.URL("prefix=stopped:"), 100, syscall.SIGSTOP, 3*time.Second, nil)
	})

	t.Run("lost updates", func(t *testing.T) {
		n := 0 // guarded by the lock alone: the race detector and the sum tell
		done := make(chan error)
		for range 4 {
			b := open(t, c.URL())
			go func() {
				for range 50 {
					g, err := await(ctx, b, "count", claim(time.Minute))
					if err == nil {
						n++
						err = b.Release(ctx, g)
					}
					if err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if n != 200 {
			t.Errorf("counted %d, want 200", n)
		}
	})

	t.Run("ACL user", func(t *testing.T) {
		for _, s := range c.Nodes {
			s.Do(append(append([]any{"acl", "setuser", "app", "reset", "on", ">tresor"}, documented...), "+cluster", "+command")...)
		}
		b := open(t, strings.Replace(c.URL(), "://", "://app:tresor@", 1))
		g := acquire(t, b, "acl", claim(time.Minute))
		wake, stop := mustWatch(t, b, "acl", claim(time.Minute))
		if rs, err := b.List(ctx, "acl"); err != nil || len(rs) != 1 {
			t.Errorf("list: %v, %v", rs, err)
		}
		release(t, b, g)
		mustWake(t, "the waiter", wake)
		stop(false)

		for right, as := range map[string]string{"+cluster": "+cluster|", "+zadd": "+zadd", "+subscribe": "+subscribe", "&hasp:*": "&hasp:*"} {
			for _, s := range c.Nodes {
				s.Do(append(append([]any{"acl", "setuser", "app", "reset", "on", ">tresor"}, documented...), "+cluster", "+command")...)
				if right == "&hasp:*" {
					s.Do("acl", "setuser", "app", "resetchannels")
				} else {
					s.Do("acl", "setuser", "app", "-"+right[1:])
				}
				s.Do("script", "flush")
			}
			err := mustNotOpen(t, strings.Replace(c.URL(), "://", "://app:tresor@", 1), as)
			if !errors.Is(err, fs.ErrPermission) || errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("without %s: %v", right, err)
			}
		}
	})

	t.Run("one node", func(t *testing.T) {
		mustNotOpen(t, c.Nodes[0].URL(), "cluster=true")
	})

	t.Run("a node is killed", func(t *testing.T) {
		s := c.Nodes[0]
		key := ""
		for i := 0; key == ""; i++ { // a key of that node
			k := fmt.Sprint("node/", i)
			g := acquire(t, a, k, claim(time.Minute))
			for _, name := range s.Keys() {
				if name == "hasp:{"+k+"}" {
					key = k
				}
			}
			if key == "" {
				release(t, a, g)
			}
		}
		before, err := a.Inspect(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		s.Restart()
		g := mustAcquire(t, b, key, claim(time.Minute))
		if g.Token <= before.Token {
			t.Errorf("token %d after %d", g.Token, before.Token)
		}
		release(t, b, g)
	})
}
