package memlock_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

var errFault = errors.New("injected")

func claim(id string) backend.Claim {
	return backend.Claim{ID: id, Holder: backend.Holder{Owner: id}, TTL: 10 * time.Second}
}

func mustTake(t *testing.T, c *memlock.Client, key, id string) backend.Grant {
	t.Helper()
	g, err := c.Acquire(context.Background(), key, claim(id))
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return g
}

func mustState(t *testing.T, s *memlock.Store, key string, want backend.State) backend.Record {
	t.Helper()
	rec, err := s.Client().Inspect(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if rec.State != want {
		t.Errorf("%q is %s, want %s", key, rec, want)
	}
	return rec
}

func TestInjectedError(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	s.Inject(memlock.OpAcquire, "k", memlock.Fault{Err: errFault})
	if _, err := c.Acquire(t.Context(), "other", claim("a")); err != nil {
		t.Errorf("another key: %v", err)
	}
	if _, err := c.Inspect(t.Context(), "k"); err != nil {
		t.Errorf("another verb: %v", err)
	}
	if _, err := c.Acquire(t.Context(), "k", claim("a")); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	mustState(t, s, "k", backend.Free) // the store did not see it
	mustTake(t, c, "k", "a")           // once
}

func TestFaultsByNumberAndOrder(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	second := errors.New("second")
	s.Inject(memlock.OpAny, "", memlock.Fault{Err: errFault, Times: 2})
	remove := s.Inject(memlock.OpInspect, "", memlock.Fault{Err: second, Times: -1})
	for i, want := range []error{errFault, errFault, second, second, second} {
		if _, err := c.Inspect(t.Context(), "k"); !errors.Is(err, want) {
			t.Errorf("request %d: %v, want %v", i, err, want)
		}
	}
	remove()
	remove() // harmless
	if _, err := c.Inspect(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	if n := s.Count(memlock.OpInspect); n != 6 {
		t.Errorf("%d inspections counted", n)
	}
	mustTake(t, c, "k", "a")
	if n := s.Count(memlock.OpAny); n != 7 {
		t.Errorf("%d requests counted", n)
	}
}

func TestLostReply(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	s.Inject(memlock.OpAcquire, "k", memlock.Fault{LoseReply: errFault})
	if _, err := c.Acquire(t.Context(), "k", claim("a")); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	rec := mustState(t, s, "k", backend.Held) // the store acted
	g := mustTake(t, c, "k", "a")             // the same claim again
	if g.Token != rec.Token {
		t.Errorf("token %d, then %d", rec.Token, g.Token)
	}
	// a watch whose reply is lost is not left behind, for nobody could stop it
	s.Inject(memlock.OpWatch, "k", memlock.Fault{LoseReply: errFault})
	if _, _, err := c.Watch(t.Context(), "k", claim("b")); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	if n := s.Waiters("k"); n != 0 {
		t.Errorf("%d watches", n)
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		c := s.Client()
		s.Inject(memlock.OpAcquire, "k", memlock.Fault{Delay: 3 * time.Second, Times: 2})
		start := time.Now()
		mustTake(t, c, "k", "a")
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Acquire(ctx, "k", claim("b"))
		if d := time.Since(start); d != 4*time.Second || !errors.Is(err, backend.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, d)
		}
	})
}

func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		c := s.Client()
		unhang := make(chan struct{})
		s.Inject(memlock.OpAcquire, "k", memlock.Fault{Hang: unhang})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		returned := false
		wg.Go(func() {
			if _, err := c.Acquire(ctx, "k", claim("a")); err != nil {
				t.Error(err)
			}
			returned = true
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		if returned {
			t.Error("it heeds its context")
		}
		mustState(t, s, "k", backend.Free)
		close(unhang)
		wg.Wait()
		mustState(t, s, "k", backend.Held) // the store acts late
	})
}

func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		c, other := s.Client(), s.Client()
		g := mustTake(t, c, "k", "a")
		told := 0
		defer c.OnLoss(func(string, string) { told++ })()
		c.Partition(true)
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Renew(ctx, g)
		if d := time.Since(start); d != 7*time.Second || !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("%v after %v", err, d)
		}
		if _, err := other.Inspect(t.Context(), "k"); err != nil {
			t.Errorf("another client: %v", err)
		}
		if err := other.Break(t.Context(), "k", g.Token); err != nil {
			t.Error(err)
		}
		if told != 0 {
			t.Error("word of the loss came through")
		}
		c.Partition(false)
		if _, err := c.Renew(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("got %v", err)
		}
	})
}

func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		c := s.Client()
		g := mustTake(t, c, "k", "a")
		wake, stop, err := c.Watch(t.Context(), "k", claim("b"))
		if err != nil {
			t.Fatal(err)
		}
		s.Expire("k")
		s.Expire("never heard of")
		<-wake
		mustState(t, s, "k", backend.Stale)
		if rs, _ := c.List(t.Context(), ""); len(rs) != 1 || rs[0].State != backend.Stale {
			t.Errorf("list %v", rs)
		}
		next := mustTake(t, s.Client(), "k", "b")
		if next.Token <= g.Token {
			t.Errorf("token %d after %d", next.Token, g.Token)
		}
		if err := stop(t.Context(), true); err != nil || s.Waiters("k") != 0 {
			t.Errorf("%v, %d watches", err, s.Waiters("k"))
		}
	})
}

func TestForgetAndWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		c := s.Client()
		for name, forget := range map[string]func(){"forget": func() { s.Forget("k") }, "wipe": s.Wipe} {
			g := mustTake(t, c, "k", "a")
			if _, err := c.SetValue(t.Context(), g, backend.Value{Token: g.Token, Seq: 1}); err != nil {
				t.Error(err)
			}
			wake, stop, err := c.Watch(t.Context(), "k", claim("b"))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			forget()
			<-wake
			if rec := mustState(t, s, "k", backend.Free); rec.Token != 0 {
				t.Errorf("%s: it remembers token %d", name, rec.Token)
			}
			if v, err := c.Value(t.Context(), "k"); err != nil || v.Token != 0 {
				t.Errorf("%s: it remembers the value %+v, error %v", name, v, err)
			}
			if _, err := c.Renew(t.Context(), g); !errors.Is(err, backend.ErrLost) {
				t.Errorf("%s: renew: %v", name, err)
			}
			if err := c.Release(t.Context(), g); !errors.Is(err, backend.ErrLost) {
				t.Errorf("%s: release: %v", name, err)
			}
			next := mustTake(t, c, "k", "b")
			if next.Token <= g.Token {
				t.Errorf("%s: token %d after %d", name, next.Token, g.Token)
			}
			if err := c.Release(t.Context(), next); err != nil {
				t.Error(err)
			}
			_ = stop(t.Context(), false)
		}
	})
}

func TestClosedClient(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	g := mustTake(t, c, "k", "a")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, errA := c.Acquire(t.Context(), "k", claim("b"))
	_, errR := c.Renew(t.Context(), g)
	_, errI := c.Inspect(t.Context(), "k")
	_, errL := c.List(t.Context(), "")
	_, _, errW := c.Watch(t.Context(), "k", claim("b"))
	for verb, err := range map[string]error{
		"acquire": errA, "renew": errR, "inspect": errI, "list": errL, "watch": errW, "release": c.Release(t.Context(), g),
		"break": c.Break(t.Context(), "k", g.Token), "raise": c.RaiseToken(t.Context(), "k", 1), "renew all": c.RenewAll(t.Context(), []backend.Grant{g})[0].Err,
	} {
		if !errors.Is(err, backend.ErrClosed) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	mustState(t, s, "k", backend.Held) // closing releases nothing
}

func TestBadArguments(t *testing.T) {
	c := memlock.New().Client()
	if _, err := c.Acquire(t.Context(), "k", backend.Claim{ID: "a b", TTL: time.Second}); err == nil || !strings.Contains(err.Error(), "claim ID") {
		t.Errorf("claim: %v", err)
	}
	if _, err := c.Acquire(t.Context(), "", claim("a")); !errors.Is(err, backend.ErrInvalidKey) {
		t.Errorf("key: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Acquire(ctx, "k", claim("a")); !errors.Is(err, backend.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
