package redistest_test

import (
	"context"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// A stale lock's first waiter has its turn. That the former holder comes to and releases,
// or that an operator breaks the lock, does not take the turn away.
func TestTurnOutlastsALateRelease(t *testing.T) {
	s := redistest.Start(t, nil)
	for what, free := range map[string]func(b *redislock.Backend, g backend.Grant) error{
		"release": func(b *redislock.Backend, g backend.Grant) error { return b.Release(context.Background(), g) },
		"break": func(b *redislock.Backend, g backend.Grant) error {
			return b.Break(context.Background(), g.Key, g.Token)
		},
	} {
		holder, one, two := open(t, s.URL(unhurried)), open(t, s.URL(unhurried)), open(t, s.URL(unhurried))
		g := acquire(t, holder, what, claim(300*time.Millisecond))
		first, second := claim(time.Minute), claim(time.Minute)
		wake, stop := mustWatch(t, one, what, first)
		wake2, stop2 := mustWatch(t, two, what, second)
		mustWake(t, what, wake)
		if err := free(holder, g); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		next := acquire(t, one, what, first)
		stop(true)
		release(t, one, next)
		mustWake(t, what, wake2)
		next = acquire(t, two, what, second)
		stop2(true)
		release(t, two, next)
	}
}

// A waiter that was granted, released, and is given another turn before its watch is
// stopped gives that up.
func TestTurnAfterAReleaseIsGivenUp(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL(unhurried))
	g := acquire(t, b, "k", claim(time.Minute))
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	release(t, b, g)
	mustWake(t, "the waiter", wake)
	release(t, b, acquire(t, b, "k", c))
	for begun := time.Now(); len(wake) == 0; time.Sleep(time.Millisecond) { // it is tended
		if time.Since(begun) > patient {
			t.Fatal("the waiter was given no other turn")
		}
	}
	stop(true)
	release(t, b, acquire(t, b, "k", claim(time.Minute)))
}

// A lock whose expiry somebody removed is held, also when its token is raised.
func TestRaiseOfALockWithoutExpiry(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	g := acquire(t, b, "k", claim(time.Minute))
	s.Do("persist", "hasp:{k}")
	if err := b.RaiseToken(context.Background(), "k", g.Token+1000); err != nil {
		t.Fatal(err)
	}
	if ms := s.Do("pttl", "hasp:{k}"); ms != int64(-1) {
		t.Errorf("the record lives for %v ms more", ms)
	}
	mustBeHeld(t, b, "k", g)
	release(t, b, g)
	if next := acquire(t, b, "k", claim(time.Minute)); next.Token <= g.Token+1000 {
		t.Errorf("token %d after a raise to %d", next.Token, g.Token+1000)
	}
}

// A key that hasp did not write is one entry of a listing.
func TestListShowsWhatItCannotRead(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	acquire(t, b, "good", claim(time.Minute))
	s.Do("set", "hasp:{bad}", "hello")
	rs, err := b.List(context.Background(), "")
	if err != nil || len(rs) != 2 || rs[0].Key != "bad" || rs[0].State != backend.Unknown || rs[0].Note == "" || rs[1].Key != "good" || rs[1].State != backend.Held {
		t.Errorf("%v, %v", rs, err)
	}
}

// An attempt that is held back while a later one of its claim is granted and released
// takes nothing when it arrives.
func TestLateAttemptOfAReleasedLease(t *testing.T) {
	s := redistest.Start(t, nil)
	p := redistest.StartProxy(t, s.Addr())
	late, direct := open(t, "redis://"+p.Addr()), open(t, s.URL())
	release(t, late, acquire(t, late, "warm", claim(time.Minute)))
	first := true
	l := hasp.New(&twoWays{late, direct, &first, p}, &hasp.Options{TTL: time.Hour, RequestTimeout: 200 * time.Millisecond})
	le, err := l.Acquire(context.Background(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if err := le.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil { // and what goes on in the background
		t.Fatal(err)
	}
	before := s.Commands()["evalsha"]
	p.Heal()
	for begun := time.Now(); s.Commands()["evalsha"] == before; time.Sleep(time.Millisecond) {
		if time.Since(begun) > patient {
			t.Fatal("the attempt did not arrive")
		}
	}
	again := open(t, s.URL())
	release(t, again, acquire(t, again, "k", claim(time.Minute)))
}

// twoWays sends its first attempt on a way that is cut off, and all else on another.
type twoWays struct {
	late *redislock.Backend
	*redislock.Backend
	first *bool
	proxy *redistest.Proxy
}

func (w *twoWays) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if *w.first {
		*w.first = false
		w.proxy.Cut()
		return w.late.Acquire(ctx, key, c)
	}
	return w.Backend.Acquire(ctx, key, c)
}
