package etcdtest_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/internal/pause"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// longTTL is what locks have unless told otherwise.
	longTTL = 300 * time.Second
	// deadWaiter is what waiters that were killed may cost those behind them, all
	// together.
	deadWaiter = 12 * time.Second
)

// Waiters that are killed in front of others cost them seconds, whatever their TTL,
// and nobody is told that one of them holds the lock.
func TestKilledWaitersCostSeconds(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b, other := newBackend(t, srv.Client()), newBackend(t, srv.Client()), newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(longTTL))
	var workers []*worker
	for range 3 {
		w := startWorker(t, "wait", srv.Endpoint(), "k", longTTL)
		w.says("waiting")
		workers = append(workers, w)
	}
	c := claim(longTTL)
	type result struct {
		g   backend.Grant
		err error
	}
	got := make(chan result, 1)
	go func() {
		g, err := acquireWaiting(ctx, b, "k", c, never)
		got <- result{g, err}
	}()
	waitFor(t, srv, "k", 5)
	dead := map[int]bool{}
	killed, stood := time.Now(), pause.Watch()
	for _, w := range workers {
		w.kill()
		dead[w.cmd.Process.Pid] = true
	}
	mustRelease(t, a, g)
	var r result
	for waits := true; waits; {
		select {
		case r = <-got:
			waits = false
		case <-time.After(50 * time.Millisecond): // between looks
			rec, err := other.Inspect(ctx, "k")
			if err != nil {
				t.Fatal(err)
			}
			list, err := other.List(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			recs := append(list, rec)
			var he *backend.HeldError
			if _, err := other.Acquire(ctx, "k", claim(longTTL)); errors.As(err, &he) {
				recs = append(recs, he.Record)
			} else {
				t.Fatalf("an acquire past the queue: %v", err)
			}
			for _, rec := range recs {
				if dead[rec.Holder.PID] {
					t.Fatalf("%v after it was killed, and never got the lock, a waiter is shown as its holder: %s", time.Since(killed), rec)
				}
			}
		}
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	after := time.Since(killed) - stood()
	t.Logf("the queue went on %v after three waiters in front were killed", after)
	if after > deadWaiter {
		t.Errorf("the queue went on %v after three waiters in front were killed", after)
	}
	rg, err := b.Renew(ctx, r.g)
	if err != nil || rg.TTL < longTTL {
		t.Fatalf("renew: TTL %v, %v", rg.TTL, err)
	}
	rec, err := other.Inspect(ctx, "k")
	if err != nil || rec.Holder != c.Holder || rec.TTL < longTTL || rec.Remaining < longTTL-10*time.Second {
		t.Errorf("after the first renewal the holder is shown as %s, TTL %v, %v left (%v)", rec, rec.TTL, rec.Remaining, err)
	}
	mustRelease(t, b, rg)
	mustHaveNoLocks(t, srv)
}

// waitFor returns when n entries are in key's queue, the holder's included.
func waitFor(t *testing.T, srv *etcdtest.Server, key string, n int64) {
	t.Helper()
	ctx := testContext(t)
	c := srv.Client()
	for {
		resp, err := c.Get(ctx, etcdlock.DefaultPrefix+"lock/"+key+"\t", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		if resp.Count >= n {
			return
		}
	}
}

// leaseOf returns the etcd lease that key's oldest entry is on, and its TTL as
// granted.
func leaseOf(t *testing.T, srv *etcdtest.Server, key string) (id clientv3.LeaseID, ttl time.Duration) {
	t.Helper()
	ctx := testContext(t)
	c := srv.Client()
	resp, err := c.Get(ctx, etcdlock.DefaultPrefix+"lock/"+key+"\t", clientv3.WithFirstCreate()...)
	if err != nil || len(resp.Kvs) == 0 {
		t.Fatalf("%d entries, %v", len(resp.Kvs), err)
	}
	id = clientv3.LeaseID(resp.Kvs[0].Lease)
	l, err := c.TimeToLive(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return id, time.Duration(l.GrantedTTL) * time.Second
}

// inherit has b wait for a's lock, and get it.
func inherit(t *testing.T, a, b *etcdlock.Backend, key string, ttl time.Duration) backend.Grant {
	t.Helper()
	ctx := testContext(t)
	g := mustAcquire(t, a, key, claim(ttl))
	c := claim(ttl)
	wake, stop, err := b.Watch(ctx, key, c)
	if err != nil {
		t.Fatal(err)
	}
	mustRelease(t, a, g)
	select {
	case <-wake:
	case <-ctx.Done():
		t.Fatal("the waiter was not woken")
	}
	g = mustAcquire(t, b, key, c)
	if err := stop(ctx, true); err != nil {
		t.Fatal(err)
	}
	return g
}

// A lock that was waited for is on the lease of the waiters until its first renewal
// and then on its own, also if that is made by another backend, and Acquire that is
// repeated does the same.
func TestWaiterMovesToTheLocksLease(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b, c := newBackend(t, srv.Client()), newBackend(t, srv.Client()), newBackend(t, srv.Client())
	other := mustAcquire(t, b, "other", claim(longTTL)) // of the same TTL: it keeps that lease alive
	full, _ := leaseOf(t, srv, "other")
	for name, renew := range map[string]func(g backend.Grant) (backend.Grant, error){
		"renewed": func(g backend.Grant) (backend.Grant, error) { return b.Renew(ctx, g) },
		"in a batch": func(g backend.Grant) (backend.Grant, error) {
			rs := b.RenewAll(ctx, []backend.Grant{other, g})
			return rs[1].Grant, errors.Join(rs[0].Err, rs[1].Err)
		},
		"without state": func(g backend.Grant) (backend.Grant, error) {
			g.State = nil
			return b.Renew(ctx, g)
		},
		"by another backend": func(g backend.Grant) (backend.Grant, error) {
			g.State = nil
			return c.Renew(ctx, g)
		},
		"acquired again": func(g backend.Grant) (backend.Grant, error) {
			return b.Acquire(ctx, g.Key, backend.Claim{ID: g.ID, Holder: g.Holder, TTL: longTTL})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := inherit(t, a, b, "k", longTTL)
			if g.TTL > deadWaiter || g.TTL < time.Second {
				t.Errorf("a waiter was granted %v", g.TTL)
			}
			if _, ttl := leaseOf(t, srv, "k"); ttl > deadWaiter {
				t.Errorf("a waiter's lease lives %v", ttl)
			}
			token := g.Token
			g, err := renew(g)
			if err != nil || g.TTL < longTTL || g.Token != token {
				t.Fatalf("TTL %v, token %d, %v", g.TTL, g.Token, err)
			}
			id, ttl := leaseOf(t, srv, "k")
			if ttl < longTTL || name != "by another backend" && id != full {
				t.Errorf("after a renewal on lease %x with a TTL of %v, want lease %x", id, ttl, full)
			}
			if name == "by another backend" {
				mustRelease(t, c, g)
			} else {
				mustRelease(t, b, g)
			}
		})
	}
	mustRelease(t, b, other)
	mustHaveNoLocks(t, srv)
}

// What was granted is kept, to the second: neither longer nor shorter, although the
// lease of the waiters is kept alive by another who waits on it.
func TestUnrenewedWaiterRunsOut(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b, other := newBackend(t, srv.Client()), newBackend(t, srv.Client()), newBackend(t, srv.Client())
	held := mustAcquire(t, a, "held", claim(longTTL))
	_, stop, err := b.Watch(ctx, "held", claim(longTTL))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	g := inherit(t, a, b, "k", longTTL)
	next, after := freeAt(t, other, "k", start)
	if after < g.TTL || after > g.TTL+expirySlack {
		t.Errorf("stale after %v, %v was granted", after, g.TTL)
	}
	mustBe(t, "renew after the TTL", errOf(b.Renew(ctx, g)), backend.ErrLost)
	if err := stop(ctx, false); err != nil {
		t.Error(err)
	}
	mustRelease(t, other, next)
	mustRelease(t, a, held)
	mustHaveNoLocks(t, srv)
}

// The engine makes up for the short grant at once, with every option.
func TestEngineCompletesGrants(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	for name, opts := range map[string]hasp.Options{
		"defaults":     {},
		"no heartbeat": {NoHeartbeat: true},
		"wide margin":  {Margin: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			waits, renewed := make(chan struct{}, 64), make(chan struct{}, 64)
			opts.RetryInterval = never
			opts.Observer = func(e hasp.Event) {
				switch e.Kind {
				case hasp.EventWaiting:
					waits <- struct{}{}
				case hasp.EventRenewed:
					renewed <- struct{}{}
				}
			}
			first := hasp.New(newBackend(t, srv.Client()), nil)
			second := hasp.New(newBackend(t, srv.Client()), &opts)
			le, err := first.Acquire(ctx, "k")
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan *hasp.Lease, 1)
			go func() {
				le, err := second.Acquire(ctx, "k")
				if err != nil {
					t.Error(err)
				}
				got <- le
			}()
			<-waits
			if err := le.Release(ctx); err != nil {
				t.Fatal(err)
			}
			le = <-got
			if le == nil {
				return
			}
			<-renewed
			if left := time.Until(le.Deadline()); left < 200*time.Second {
				t.Errorf("%v are left after the first renewal", left)
			}
			if err := le.Verify(ctx); err != nil {
				t.Error(err)
			}
			if err := errors.Join(le.Release(ctx), first.Close(), second.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	mustHaveNoLocks(t, srv)
}

// A waiter whose turn has come, and who has not said so, is named as what it is.
func TestTurnIsShown(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b, other := newBackend(t, srv.Client()), newBackend(t, srv.Client()), newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(longTTL))
	c := claim(longTTL)
	_, stop, err := b.Watch(ctx, "k", c)
	if err != nil {
		t.Fatal(err)
	}
	mustRelease(t, a, g)
	rec, err := other.Inspect(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(rec)
	if rec.State != backend.Held || rec.Holder == c.Holder || !strings.Contains(rec.Note, c.Holder.String()) || rec.Token == 0 {
		t.Errorf("shown as %+v", rec)
	}
	he := mustBeHeld(t, other, "k", claim(longTTL))
	if he.RetryAfter > deadWaiter || he.RetryAfter <= 0 {
		t.Errorf("%v has to be waited for a waiter", he.RetryAfter)
	}
	// an operator can pass by the one in front
	if err := other.Break(ctx, "k", rec.Token); err != nil {
		t.Error(err)
	}
	if err := stop(ctx, false); err != nil {
		t.Error(err)
	}
	mustHaveNoLocks(t, srv)
}
