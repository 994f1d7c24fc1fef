package etcdtest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/internal/pause"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// expirySlack is how long after its TTL a lock may still stand: etcd's leases
// live a second longer (see etcdlock), are looked through twice a second, and
// this machine is slow.
const expirySlack = 5 * time.Second

// freeAt waits until b can take key and says how long after from that was.
func freeAt(t *testing.T, b backend.Backend, key string, from time.Time) (backend.Grant, time.Duration) {
	t.Helper()
	ctx := testContext(t)
	for {
		g, err := b.Acquire(ctx, key, claim(5*time.Second))
		if err == nil {
			return g, time.Since(from)
		}
		if !errors.Is(err, backend.ErrHeld) {
			t.Fatalf("acquire %q: %v", key, err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%q is still held after %v", key, time.Since(from))
		}
	}
}

// A client lives on, and renews one lock, while another of the same TTL, on the
// same etcd lease, is not renewed.
func TestUnrenewedExpiresAmongRenewed(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	lost := make(chan string, 10)
	cancel := a.OnLoss(func(key, id string) { lost <- key })
	defer cancel()
	const ttl = 3 * time.Second
	kept := mustAcquire(t, a, "kept", claim(ttl))
	start := time.Now()
	stale := mustAcquire(t, a, "stale", claim(ttl))
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(ttl / 6):
				if _, err := a.Renew(ctx, kept); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	g, after := freeAt(t, b, "stale", start)
	if after < ttl || after > ttl+expirySlack {
		t.Errorf("stale after %v, the TTL is %v", after, ttl)
	}
	if g.Token <= stale.Token {
		t.Errorf("token %d after %d", g.Token, stale.Token)
	}
	if key := <-lost; key != "stale" {
		t.Errorf("loss of %q was reported", key)
	}
	mustBe(t, "renew after the TTL", errOf(a.Renew(ctx, stale)), backend.ErrLost)
	mustBe(t, "release after the TTL", a.Release(ctx, stale), backend.ErrLost)
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("the renewed lock: %v", err)
	}
	mustBeHeld(t, b, "kept", claim(ttl))
	mustRelease(t, a, kept)
	mustRelease(t, b, g)
}

// The lock is taken on a lease that has seen its last keepalive some time ago,
// and its backend is closed, as good as dead, right after.
func TestNotStaleBeforeTTL(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	const ttl = 3 * time.Second
	for _, age := range []time.Duration{0, 900 * time.Millisecond, 2500 * time.Millisecond} {
		t.Run("lease of age "+age.String(), func(t *testing.T) {
			a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
			first := mustAcquire(t, a, "first", claim(ttl))
			time.Sleep(age)
			start := time.Now()
			mustAcquire(t, a, "k", claim(ttl))
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			g, after := freeAt(t, b, "k", start)
			if after < ttl || after > ttl+expirySlack {
				t.Errorf("stale after %v, the TTL is %v", after, ttl)
			}
			mustRelease(t, b, g)
			g, _ = freeAt(t, b, first.Key, start)
			mustRelease(t, b, g)
		})
	}
}

func TestRenewKeeps(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	kept := func() bool {
		alive := time.Now()
		g := mustAcquire(t, a, "k", claim(time.Second))
		if g.TTL < time.Second {
			t.Errorf("TTL in force: %v", g.TTL)
		}
		for start := time.Now(); time.Since(start) < 6*time.Second; {
			next, err := b.Acquire(ctx, "k", claim(time.Second))
			if err == nil && time.Since(alive) > g.TTL {
				mustRelease(t, b, next)
				return false // the machine stood still, and no renewal was sent in time
			}
			mustBe(t, "acquire of a lock that is renewed", err, backend.ErrHeld)
			time.Sleep(100 * time.Millisecond)
			begun, token := time.Now(), g.Token
			if g, err = a.Renew(ctx, g); errors.Is(err, backend.ErrLost) && time.Since(alive) > time.Second {
				return false
			}
			if err != nil || g.Token != token {
				t.Fatalf("renew: %+v, %v", g, err)
			}
			alive = begun
		}
		mustRelease(t, a, g)
		return true
	}
	for !kept() {
		t.Log("the machine stood still for longer than the TTL: that says nothing")
	}
}

// lossWithin is the promise for what an operator does to a key or a lease.
const lossWithin = time.Second

func TestLoss(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	op := srv.Client()
	type loss struct{ key, id string }
	for _, tc := range []struct {
		name string
		do   func(g backend.Grant) error
		all  bool
	}{
		{"key deleted", func(g backend.Grant) error {
			_, err := op.Delete(ctx, "hasp/lock/"+g.Key+"\t", clientv3.WithPrefix())
			return err
		}, false},
		{"lease revoked", func(g backend.Grant) error {
			resp, err := op.Get(ctx, "hasp/lock/"+g.Key+"\t", clientv3.WithPrefix())
			if err != nil {
				return err
			}
			_, err = op.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
			return err
		}, true},
		{"broken", func(g backend.Grant) error {
			b := newBackend(t, srv.Client())
			return b.Break(ctx, g.Key, g.Token)
		}, false},
	} {
		for _, wait := range []time.Duration{0, 500 * time.Millisecond} {
			t.Run(tc.name+" after "+wait.String(), func(t *testing.T) {
				a := newBackend(t, srv.Client())
				losses := make(chan loss, 10)
				cancel := a.OnLoss(func(key, id string) { losses <- loss{key, id} })
				defer cancel()
				other := mustAcquire(t, a, "other", claim(20*time.Second))
				g := mustAcquire(t, a, "k", claim(20*time.Second))
				time.Sleep(wait) // the watch is not there at once
				if err := tc.do(g); err != nil {
					t.Fatal(err)
				}
				start, stood := time.Now(), pause.Watch()
				want := map[loss]bool{{"k", g.ID}: true}
				if tc.all {
					want[loss{"other", other.ID}] = true
				}
				for len(want) > 0 {
					select {
					case l := <-losses:
						if !want[l] {
							t.Errorf("loss of %v was reported", l)
						}
						delete(want, l)
					case <-ctx.Done():
						t.Fatalf("no loss was reported of %v", want)
					}
				}
				if took := time.Since(start) - stood(); took > lossWithin {
					t.Errorf("loss was reported after %v", took)
				}
				mustBe(t, "renew", errOf(a.Renew(ctx, g)), backend.ErrLost)
				mustBe(t, "release", a.Release(ctx, g), backend.ErrLost)
				if !tc.all {
					if _, err := a.Renew(ctx, other); err != nil {
						t.Errorf("renew of the lock that nobody touched: %v", err)
					}
					mustRelease(t, a, other)
				}
			})
		}
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	var gs []backend.Grant
	for i := range 300 {
		gs = append(gs, mustAcquire(t, a, "k"+string(rune('a'+i%26))+string(rune('0'+i/26)), claim(time.Duration(60+i%2)*time.Second)))
	}
	if err := b.Break(ctx, gs[7].Key, gs[7].Token); err != nil {
		t.Fatal(err)
	}
	mustRelease(t, a, gs[200])
	rs := a.RenewAll(ctx, gs)
	if len(rs) != len(gs) {
		t.Fatalf("%d answers for %d grants", len(rs), len(gs))
	}
	for i, r := range rs {
		switch {
		case i == 7 || i == 200:
			mustBe(t, "renew of a lock that is gone", r.Err, backend.ErrLost)
		case r.Err != nil || r.Grant.ID != gs[i].ID || r.Grant.Token != gs[i].Token:
			t.Errorf("grant %d: %+v, %v", i, r.Grant, r.Err)
		default:
			mustRelease(t, a, r.Grant)
		}
	}
}
