package etcdtest_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
)

func TestTokenFloor(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	last := uint64(0)
	for _, floor := range []uint64{0, 7, uint64(time.Now().Add(24 * time.Hour).UnixMicro()), 1 << 62, 1<<63 - 1, 1 << 63, math.MaxUint64 - 1000} {
		other := mustAcquire(t, b, "other", claim(20*time.Second))
		c := claim(20 * time.Second)
		c.TokenFloor = floor
		g := mustAcquire(t, a, "k", c)
		if g.Token <= floor || g.Token <= last {
			t.Errorf("token %d, the floor is %d and the last one was %d", g.Token, floor, last)
		}
		last = g.Token
		if again := mustAcquire(t, a, "k", c); again.Token != g.Token {
			t.Errorf("acquire again: token %d, then %d", g.Token, again.Token)
		}
		if rec, err := b.Inspect(ctx, "k"); err != nil || rec.Token != g.Token {
			t.Errorf("inspect: %+v, %v; the token is %d", rec, err, g.Token)
		}
		// who held a lock before keeps its token
		if rec, err := a.Inspect(ctx, "other"); err != nil || rec.Token != other.Token {
			t.Errorf("inspect: %+v, %v; the token is %d", rec, err, other.Token)
		}
		mustRelease(t, a, g)
		mustRelease(t, b, other)
		g = mustAcquire(t, b, "k", claim(20*time.Second))
		if g.Token <= last {
			t.Errorf("token %d after %d", g.Token, last)
		}
		last = g.Token
		mustRelease(t, b, g)
	}

	c := claim(20 * time.Second)
	c.TokenFloor = math.MaxUint64 - 1
	g := mustAcquire(t, a, "k", c)
	if g.Token != math.MaxUint64 {
		t.Errorf("token %d, want the greatest", g.Token)
	}
	mustRelease(t, a, g)
	// and now there is none left
	for range 2 {
		if g, err := b.Acquire(ctx, "k", claim(20*time.Second)); err == nil {
			t.Errorf("token %d after the greatest", g.Token)
		}
	}
	mustHaveNoLocks(t, srv)
}

// Many keys are acquired at once, each with the clock as its floor, as in a migration from
// or to a store whose tokens are that. Not each of them writes the base anew: then all
// the others would have to begin again, some of them time after time.
func TestFloorsOfManyKeys(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	// that of a store which is so old that the clock has overtaken it
	if _, err := srv.Client().Put(testContext(t), etcdlock.DefaultPrefix+"token-base", "1000 0"); err != nil {
		t.Fatal(err)
	}
	bs := []*etcdlock.Backend{newBackend(t, srv.Client()), newBackend(t, srv.Client())}
	for round := range 3 {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				b, c := bs[i%len(bs)], claim(time.Minute)
				c.TokenFloor = uint64(time.Now().UnixMicro())
				g, err := b.Acquire(testContext(t), fmt.Sprint("k", i), c)
				if err != nil {
					t.Error(err)
					return
				}
				if g.Token <= c.TokenFloor || g.Token > uint64(time.Now().Add(2*time.Minute).UnixMicro()) {
					t.Errorf("round %d: token %d, the floor is %d", round, g.Token, c.TokenFloor)
				}
				if err := b.Release(testContext(t), g); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func TestRaiseToken(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(20*time.Second))
	cb := claim(20 * time.Second)
	wake, stop, err := b.Watch(ctx, "k", cb)
	if err != nil {
		t.Fatal(err)
	}
	floor := g.Token + 1_000_000_000
	for range 2 {
		if err := b.RaiseToken(ctx, "k", floor); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.RaiseToken(ctx, "k", 5); err != nil {
		t.Fatal(err)
	}
	if rec, err := b.Inspect(ctx, "k"); err != nil || rec.Token != g.Token || rec.ID != g.ID {
		t.Errorf("inspect: %+v, %v, want token %d", rec, err, g.Token)
	}
	if _, err := a.Renew(ctx, g); err != nil {
		t.Error(err)
	}
	mustRelease(t, a, g)
	<-wake
	// b queued before the floor was raised
	gb := mustAcquire(t, b, "k", cb)
	if gb.Token <= floor {
		t.Errorf("token %d, the floor is %d", gb.Token, floor)
	}
	if err := stop(ctx, true); err != nil {
		t.Error(err)
	}
	if err := a.Break(ctx, "k", gb.Token); err != nil {
		t.Errorf("break by the raised token: %v", err)
	}
	g2 := mustAcquire(t, a, "k", claim(20*time.Second))
	if g2.Token <= gb.Token {
		t.Errorf("token %d after %d", g2.Token, gb.Token)
	}
	mustRelease(t, a, g2)
	var _ backend.TokenRaiser = a
}
