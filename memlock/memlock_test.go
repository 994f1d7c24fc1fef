package memlock_test

import (
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestGrantLivesItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		a, b := s.Client(), s.Client()
		g := mustTake(t, a, "k", "a")
		if g.Key != "k" || g.ID != "a" || g.Token == 0 || g.TTL != 10*time.Second || g.Holder.Owner != "a" {
			t.Errorf("grant %+v", g)
		}
		time.Sleep(4 * time.Second)
		_, err := b.Acquire(t.Context(), "k", claim("b"))
		var held *backend.HeldError
		if !errors.As(err, &held) || held.Record.Token != g.Token || held.Record.HeldFor != 4*time.Second || held.RetryAfter != 6*time.Second {
			t.Fatalf("got %+v", err)
		}
		if g, err = a.Renew(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Second - 1)
		if _, err := b.Acquire(t.Context(), "k", claim("b")); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("a moment before its TTL has run out: %v", err)
		}
		time.Sleep(time.Nanosecond)
		next := mustTake(t, b, "k", "b")
		if next.Token <= g.Token {
			t.Errorf("token %d after %d", next.Token, g.Token)
		}
		if _, err := a.Renew(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("renew after a takeover: %v", err)
		}
		if err := a.Release(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("release after a takeover: %v", err)
		}
		if rec := mustState(t, s, "k", backend.Held); rec.ID != "b" {
			t.Errorf("%+v", rec)
		}
	})
}

func TestStaleGrantThatNobodyTookIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memlock.New()
		c := s.Client()
		g := mustTake(t, c, "k", "a")
		time.Sleep(time.Hour)
		mustState(t, s, "k", backend.Stale)
		if _, err := c.Renew(t.Context(), g); err != nil {
			t.Error(err)
		}
		mustState(t, s, "k", backend.Held)
	})
}

func TestReleaseIsRepeatable(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	g := mustTake(t, c, "k", "a")
	for range 2 {
		if err := c.Release(t.Context(), g); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Renew(t.Context(), g); !errors.Is(err, backend.ErrLost) {
		t.Errorf("renewing what was released: %v", err)
	}
	// by key and claim alone, as after an acquire of unknown outcome
	bare := backend.Grant{Key: "k", ID: "b"}
	if err := c.Release(t.Context(), bare); !errors.Is(err, backend.ErrLost) {
		t.Errorf("there was nothing to release: %v", err)
	}
	mustTake(t, c, "k", "b")
	if err := c.Release(t.Context(), bare); err != nil {
		t.Error(err)
	}
	mustState(t, s, "k", backend.Free)
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := memlock.New().Client()
		cl := claim("a")
		cl.TokenFloor = 1 << 60
		g, err := c.Acquire(t.Context(), "k", cl)
		if err != nil || g.Token != 1<<60+1 {
			t.Fatalf("%+v, %v", g, err)
		}
		if err := c.Release(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if g := mustTake(t, c, "k", "b"); g.Token != 1<<60+2 {
			t.Errorf("token %d", g.Token)
		}
		for _, floor := range []uint64{500, 7} { // the lower one changes nothing
			if err := c.RaiseToken(t.Context(), "raised", 1<<61+floor); err != nil {
				t.Fatal(err)
			}
		}
		if g := mustTake(t, c, "raised", "a"); g.Token != 1<<61+501 {
			t.Errorf("token %d", g.Token)
		}
		cl.TokenFloor = math.MaxUint64
		if _, err := c.Acquire(t.Context(), "full", cl); err == nil || errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("a token above the greatest: %v", err)
		}
	})
}

func TestBreak(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	type loss struct{ key, id string }
	var told []loss
	cancel := c.OnLoss(func(key, id string) { told = append(told, loss{key, id}) })
	if err := c.Break(t.Context(), "k", 1); !errors.Is(err, backend.ErrNotHeld) {
		t.Errorf("a free key: %v", err)
	}
	g := mustTake(t, c, "k", "a")
	if err := c.Break(t.Context(), "k", g.Token-1); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("an old token: %v", err)
	}
	mustState(t, s, "k", backend.Held)
	if len(told) != 0 {
		t.Errorf("told of %v", told)
	}
	if err := s.Client().Break(t.Context(), "k", g.Token); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []loss{{"k", "a"}}) {
		t.Errorf("told of %v", told)
	}
	if err := c.Release(t.Context(), g); !errors.Is(err, backend.ErrLost) {
		t.Errorf("release of what was broken: %v", err)
	}
	next := mustTake(t, c, "k", "b")
	if next.Token <= g.Token {
		t.Errorf("token %d after %d", next.Token, g.Token)
	}
	cancel()
	if err := c.Break(t.Context(), "k", next.Token); err != nil || len(told) != 1 {
		t.Errorf("%v, told of %v", err, told)
	}
}

func TestList(t *testing.T) {
	c := memlock.New().Client()
	for _, key := range []string{"b/2", "a", "b/1", "B", "b"} {
		mustTake(t, c, key, "a")
	}
	g := mustTake(t, c, "b/0", "a")
	if err := c.Release(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string][]string{"": {"B", "a", "b", "b/1", "b/2"}, "b/": {"b/1", "b/2"}, "c": nil} {
		rs, err := c.List(t.Context(), prefix)
		var keys []string
		for _, r := range rs {
			keys = append(keys, r.Key)
		}
		if err != nil || !slices.Equal(keys, want) {
			t.Errorf("List(%q) = %q, %v; want %q", prefix, keys, err, want)
		}
	}
}

func TestRenewAllAnswersEach(t *testing.T) {
	c := memlock.New().Client()
	gs := []backend.Grant{mustTake(t, c, "a", "a"), {Key: "b", ID: "gone"}, mustTake(t, c, "c", "c")}
	rs := c.RenewAll(t.Context(), gs)
	if len(rs) != 3 || rs[0].Err != nil || !errors.Is(rs[1].Err, backend.ErrLost) || rs[2].Err != nil || rs[2].Grant.Token != gs[2].Token {
		t.Errorf("%+v", rs)
	}
}

// A key that is free or stale by the time that the watch begins wakes at once.
func TestWatchBeginsLate(t *testing.T) {
	for name, end := range map[string]func(*memlock.Store, *memlock.Client, backend.Grant) error{
		"free":  func(_ *memlock.Store, c *memlock.Client, g backend.Grant) error { return c.Release(t.Context(), g) },
		"stale": func(s *memlock.Store, _ *memlock.Client, g backend.Grant) error { s.Expire(g.Key); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := memlock.New()
			c := s.Client()
			if err := end(s, c, mustTake(t, c, "k", "a")); err != nil {
				t.Fatal(err)
			}
			wake, stop, err := c.Watch(t.Context(), "k", claim("b"))
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-wake:
			default:
				t.Error("not woken")
			}
			if err := stop(t.Context(), false); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWatch(t *testing.T) {
	s := memlock.New()
	c := s.Client()
	g := mustTake(t, c, "k", "a")
	other := mustTake(t, c, "other", "a")
	wake, stop, err := c.Watch(t.Context(), "k", claim("b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Release(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	select {
	case <-wake:
		t.Error("woken by another key")
	default:
	}
	if err := c.Release(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	<-wake
	if n := s.Waiters("k"); n != 1 {
		t.Errorf("%d watches", n)
	}
	if err := stop(t.Context(), false); err != nil {
		t.Error(err)
	}
	if n := s.Waiters("k"); n != 0 {
		t.Errorf("%d watches", n)
	}
}

func TestCapabilities(t *testing.T) {
	want := []backend.Capability{backend.CapWatch, backend.CapBreak, backend.CapList, backend.CapBatchRenew, backend.CapLossNotify, backend.CapRaiseToken, backend.CapValues}
	if got := backend.Capabilities(memlock.New().Client()); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
