package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
)

func TestVerbs(t *testing.T) {
	s := redistest.Start(t, nil)
	ctx := context.Background()
	a, b := open(t, s.URL()), open(t, s.URL())

	t.Run("exclusion", func(t *testing.T) {
		c := claim(time.Minute)
		g := acquire(t, a, "k", c)
		if g.TTL != time.Minute || g.Key != "k" || g.ID != c.ID || g.Token == 0 {
			t.Errorf("grant %+v", g)
		}
		held := mustBeHeld(t, b, "k", g)
		if held.Record.Holder != c.Holder || held.Record.TTL != time.Minute || held.RetryAfter <= 0 || held.RetryAfter > time.Minute+time.Second {
			t.Errorf("held: %+v", held)
		}
		release(t, a, g)
		g2 := acquire(t, b, "k", claim(time.Minute))
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		mustBeLost(t, "release after another took it", a.Release(ctx, g))
		release(t, b, g2)
	})

	t.Run("repeated verbs", func(t *testing.T) {
		c := claim(time.Minute)
		g := acquire(t, a, "r", c)
		mustRestart := func(what string, f func()) {
			t.Helper()
			memory := s.Do("pttl", "hasp:{r}").(int64) - time.Minute.Milliseconds()
			s.Do("pexpire", "hasp:{r}", memory+10_000)
			f()
			if r, err := a.Inspect(ctx, "r"); err != nil || r.Remaining < 50*time.Second || r.Remaining > time.Minute {
				t.Errorf("%s leaves %v, want the TTL to restart (%v)", what, r.Remaining, err)
			}
		}
		mustRestart("a repeated acquire", func() {
			if again := acquire(t, a, "r", c); again != g {
				t.Errorf("repeated acquire: %+v, want %+v", again, g)
			}
		})
		for range 2 {
			mustRestart("renew", func() {
				if _, err := a.Renew(ctx, g); err != nil {
					t.Fatal(err)
				}
			})
		}
		for range 3 {
			release(t, a, g)
		}
		_, err := a.Renew(ctx, g)
		mustBeLost(t, "renew after release", err)
		release(t, a, backend.Grant{Key: g.Key, ID: g.ID})
	})

	t.Run("release of an unknown claim", func(t *testing.T) {
		c := claim(time.Minute)
		mustBeLost(t, "release of nothing", a.Release(ctx, backend.Grant{Key: "u", ID: c.ID}))
		if _, err := a.Acquire(ctx, "u", c); !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("acquire by a claim that was withdrawn: %v", err)
		}
		g := acquire(t, a, "u", claim(time.Minute))
		release(t, a, backend.Grant{Key: "u", ID: g.ID})
		g2 := acquire(t, b, "u", claim(time.Minute))
		mustBeLost(t, "release of a taken lock", a.Release(ctx, g))
		release(t, b, g2)
	})

	t.Run("stranger", func(t *testing.T) {
		g := acquire(t, a, "s", claim(time.Minute))
		stranger := g
		stranger.ID = claim(0).ID
		_, err := b.Renew(ctx, stranger)
		mustBeLost(t, "a stranger's renew", err)
		mustBeLost(t, "a stranger's release", b.Release(ctx, stranger))
		var held *backend.HeldError
		if err := b.Break(ctx, "s", g.Token-1); !errors.As(err, &held) || held.Record.Token != g.Token {
			t.Errorf("break with an old token: %v", err)
		}
		mustBeHeld(t, b, "s", g)
		release(t, a, g)
	})

	t.Run("expiry", func(t *testing.T) {
		g := acquire(t, a, "e", claim(30*time.Millisecond))
		eventually(t, "expiry", func() bool {
			r, err := b.Inspect(ctx, "e")
			if err != nil {
				t.Fatal(err)
			}
			return r.State == backend.Stale && r.ID == g.ID
		})
		_, err := a.Renew(ctx, g)
		mustBeLost(t, "renew after expiry", err)
		g2 := acquire(t, b, "e", claim(time.Minute))
		mustBeLost(t, "release after takeover", a.Release(ctx, g))
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		release(t, b, g2)
	})

	t.Run("break", func(t *testing.T) {
		if err := b.Break(ctx, "b", 1); !errors.Is(err, backend.ErrNotHeld) {
			t.Errorf("break of a free lock: %v", err)
		}
		lost := make(chan string, 10)
		cancel := a.OnLoss(func(key, id string) { lost <- key + " " + id })
		defer cancel()
		eventually(t, "subscription", func() bool { return len(s.Channels()) > 0 })
		g := acquire(t, a, "b", claim(time.Minute))
		if err := b.Break(ctx, "b", g.Token); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-lost:
			if got != "b "+g.ID {
				t.Errorf("loss of %q", got)
			}
		case <-time.After(patient):
			t.Error("the holder was not told")
		}
		_, err := a.Renew(ctx, g)
		mustBeLost(t, "renew after break", err)
		mustBeLost(t, "release after break", a.Release(ctx, g))
		g2 := acquire(t, b, "b", claim(time.Minute))
		if g2.Token <= g.Token {
			t.Errorf("token %d after %d", g2.Token, g.Token)
		}
		release(t, b, g2)
	})

	t.Run("batch", func(t *testing.T) {
		var gs []backend.Grant
		for i := range 300 {
			gs = append(gs, acquire(t, a, fmt.Sprint("batch/", i), claim(time.Duration(1+i%2)*time.Minute)))
		}
		release(t, a, gs[5])
		if err := b.Break(ctx, gs[7].Key, gs[7].Token); err != nil {
			t.Fatal(err)
		}
		gs = append(gs, backend.Grant{Key: ""})
		rs := a.RenewAll(ctx, gs)
		if len(rs) != len(gs) {
			t.Fatalf("%d renewals of %d", len(rs), len(gs))
		}
		for i, r := range rs {
			switch {
			case i == 5 || i == 7:
				mustBeLost(t, gs[i].Key, r.Err)
			case i == 300:
				if !errors.Is(r.Err, backend.ErrInvalidKey) {
					t.Errorf("invalid key: %v", r.Err)
				}
			case r.Err != nil || r.Grant != gs[i]:
				t.Errorf("%d: %+v", i, r)
			default:
				release(t, a, gs[i])
			}
		}
	})
}

func TestKeysAreExact(t *testing.T) {
	s := redistest.Start(t, nil)
	c := redistest.StartCluster(t)
	for name, b := range map[string]backend.Backend{"single": open(t, s.URL()), "cluster": open(t, c.URL())} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			keys := []string{
				"a", "A", " a", "a ", "a b", ".a", "a/", "/a", "a//b", "a%7D", "a}", "a{", "{a}", "{", "}", "{}", "}{", "%", "%25", "*", "?", "[a]", `a\b`,
				"é", "e\u0301", "日本/鍵 🔑", "a:token", "a}:token", strings.Repeat("x", 1024), strings.Repeat("}", 1024), strings.Repeat("é", 512),
			}
			grants := map[string]backend.Grant{}
			for _, k := range keys {
				grants[k] = acquire(t, b, k, claim(time.Minute))
			}
			recs, err := b.(backend.Lister).List(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			if len(recs) != len(keys) {
				t.Errorf("%d keys are listed, %d are held", len(recs), len(keys))
			}
			for i, r := range recs {
				if i > 0 && recs[i-1].Key >= r.Key {
					t.Errorf("%q is listed before %q", recs[i-1].Key, r.Key)
				}
				if r.Token != grants[r.Key].Token || r.Token == 0 {
					t.Errorf("%q is listed with token %d, not %d", r.Key, r.Token, grants[r.Key].Token)
				}
			}
			for _, prefix := range []string{"a", "{", "*", "[", `a\`, "日", "none", "}", "%2"} {
				recs, err := b.(backend.Lister).List(ctx, prefix)
				n := 0
				for _, k := range keys {
					if strings.HasPrefix(k, prefix) {
						n++
					}
				}
				if err != nil || len(recs) != n {
					t.Errorf("list %q: %d records, want %d (%v)", prefix, len(recs), n, err)
				}
			}
			for _, r := range b.(backend.BatchRenewer).RenewAll(ctx, values(grants)) {
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
			for _, k := range keys {
				mustBeHeld(t, b, k, grants[k])
				r, err := b.Inspect(ctx, k)
				if err != nil || r.Key != k || r.Token != grants[k].Token || r.HeldFor <= 0 || r.State != backend.Held {
					t.Errorf("inspect %q: %+v, %v", k, r, err)
				}
				release(t, b, grants[k])
				if r, err := b.Inspect(ctx, k); err != nil || r.State != backend.Free || r.Token != grants[k].Token {
					t.Errorf("inspect %q after release: %+v, %v", k, r, err)
				}
			}
			for _, k := range []string{"", "a\x00", "a\nb", "\xff", strings.Repeat("x", 1025)} {
				if _, err := b.Acquire(ctx, k, claim(time.Minute)); !errors.Is(err, backend.ErrInvalidKey) {
					t.Errorf("key %.20q: %v", k, err)
				}
			}
		})
	}
}

func values(m map[string]backend.Grant) (gs []backend.Grant) {
	for _, g := range m {
		gs = append(gs, g)
	}
	return gs
}

func TestTokens(t *testing.T) {
	s := redistest.Start(t, nil)
	ctx := context.Background()
	b := open(t, s.URL())
	next := func(key string, floor uint64) uint64 {
		t.Helper()
		c := claim(time.Minute)
		c.TokenFloor = floor
		g := acquire(t, b, key, c)
		if g.Token <= floor {
			t.Fatalf("token %d is not above the floor %d", g.Token, floor)
		}
		release(t, b, g)
		return g.Token
	}
	for _, floor := range []uint64{
		1<<53 - 3, 1<<53 - 2, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<53 + 2, 9999999999999999, 99999999999999999,
		999999999, 1999999999999999999, 1<<63 - 1, 1 << 63, 1<<63 + 1, math.MaxUint64 - 2,
	} {
		key := fmt.Sprint("floor ", floor)
		got := next(key, floor)
		if floor >= 1<<53-3 && got != floor+1 {
			t.Errorf("floor %d: token %d", floor, got)
		}
		if again := next(key, 0); floor >= 1<<53-3 && again != floor+2 {
			t.Errorf("floor %d, then none: token %d", floor, again)
		} else if again <= got {
			t.Errorf("token %d after %d", again, got)
		}
	}
	c := claim(time.Minute)
	if _, err := b.Acquire(ctx, "floor 18446744073709551613", c); err == nil || errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("acquire when tokens are used up: %v", err)
	}
	c.TokenFloor = math.MaxUint64
	if _, err := b.Acquire(ctx, "max", c); err == nil || errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("acquire above the greatest token: %v", err)
	}

	before := next("clock", 0)
	if now := uint64(time.Now().UnixMicro()); before > now+uint64(time.Minute.Microseconds()) || before < now-uint64(time.Minute.Microseconds()) {
		t.Errorf("token %d is not the clock's %d", before, now)
	}
	s.Wipe()
	if after := next("clock", 0); after <= before {
		t.Errorf("token %d after %d and FLUSHALL", after, before)
	}

	t.Run("raise", func(t *testing.T) {
		raise := func(floor uint64) {
			t.Helper()
			for range 2 {
				if err := b.RaiseToken(ctx, "raise", floor); err != nil {
					t.Fatal(err)
				}
			}
		}
		raise(1 << 60)
		if got := next("raise", 0); got != 1<<60+1 {
			t.Errorf("token %d", got)
		}
		raise(5)
		g := acquire(t, b, "raise", claim(time.Minute))
		if g.Token != 1<<60+2 {
			t.Errorf("token %d", g.Token)
		}
		raise(1 << 61) // while it is held
		mustBeHeld(t, b, "raise", g)
		if _, err := b.Renew(ctx, g); err != nil {
			t.Error(err)
		}
		release(t, b, g)
		release(t, b, g)
		raise(1<<61 + 5)
		release(t, b, g)
		if got := next("raise", 0); got != 1<<61+6 {
			t.Errorf("token %d", got)
		}
	})

	t.Run("lifetime", func(t *testing.T) {
		next("short", 0)
		if ttl := s.Do("pttl", "hasp:{short}").(int64); ttl <= 0 || ttl > time.Hour.Milliseconds() {
			t.Errorf("an ordinary token is remembered for %d ms", ttl)
		}
		next("ahead", uint64(time.Now().Add(24*time.Hour).UnixMicro()))
		if ttl := s.Do("pttl", "hasp:{ahead}").(int64); ttl <= 24*time.Hour.Milliseconds() || ttl > 26*time.Hour.Milliseconds() {
			t.Errorf("a token a day ahead of the clock is remembered for %d ms", ttl)
		}
		next("far", 1<<63)
		if ttl := s.Do("pttl", "hasp:{far}").(int64); ttl < 200_000*365*24*time.Hour.Milliseconds() {
			t.Errorf("a token that the clock never reaches is remembered for %d ms", ttl)
		}
	})
}
