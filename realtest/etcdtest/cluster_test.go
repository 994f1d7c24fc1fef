package etcdtest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
)

// contention is clients that take turns under a cluster that fails.
type contention struct {
	wg     sync.WaitGroup
	stop   chan struct{}
	rounds atomic.Int64

	mu     sync.Mutex
	last   uint64 // token
	until  time.Time
	holder string
	failed []string
	// robbed are claims that were certain of the lock when another got it.
	robbed []string
}

// certain is how long a client may act on a grant or a renewal: until then no
// other may hold the lock. It is the engine's deadline: the TTL from before the
// request, less a margin.
func certain(start time.Time, ttl time.Duration) time.Time { return start.Add(ttl * 9 / 10) }

func (c *contention) failf(s string) {
	c.failed = append(c.failed, s)
}

// run acquires, works, renews and releases until c.stop is closed.
func (c *contention) run(b *etcdlock.Backend, key string, ttl time.Duration) {
	defer b.OnLoss(func(_, id string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.holder == id {
			c.until = time.Time{} // the engine ends a lease then
		}
	})()
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		cl := claim(ttl)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		start := time.Now()
		g, err := acquireTimed(ctx, b, key, cl, &start)
		if err != nil {
			_ = b.Release(ctx, backend.Grant{Key: key, ID: cl.ID})
			cancel()
			continue
		}
		now := time.Now()
		c.mu.Lock()
		if g.Token <= c.last {
			c.failf("token fell")
		}
		c.last = g.Token
		if now.Before(c.until) && now.Before(certain(start, g.TTL)) {
			c.robbed = append(c.robbed, c.holder)
		}
		c.holder, c.until = cl.ID, certain(start, g.TTL)
		c.mu.Unlock()
		for range 2 {
			time.Sleep(time.Millisecond)
			start := time.Now()
			rctx, rcancel := context.WithTimeout(ctx, g.TTL/3)
			_, err := b.Renew(rctx, g)
			rcancel()
			c.mu.Lock()
			if c.holder == cl.ID && err == nil {
				c.until = certain(start, g.TTL)
			}
			c.mu.Unlock()
			if errors.Is(err, backend.ErrLost) {
				break
			}
		}
		c.mu.Lock()
		if c.holder == cl.ID {
			c.until = time.Time{} // gives it up before it says so
		}
		c.mu.Unlock()
		_ = b.Release(ctx, g) // what fails runs out
		cancel()
		c.rounds.Add(1)
	}
}

// acquireTimed notes when the attempt that succeeded was started.
func acquireTimed(ctx context.Context, b *etcdlock.Backend, key string, cl backend.Claim, start *time.Time) (backend.Grant, error) {
	attempt := func() (backend.Grant, error) {
		*start = time.Now()
		actx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return b.Acquire(actx, key, cl)
	}
	g, err := attempt()
	if err == nil || !errors.Is(err, backend.ErrHeld) {
		return g, err
	}
	wake, stop, err := b.Watch(ctx, key, cl)
	if err != nil {
		return g, err
	}
	granted := false
	defer func() { _ = stop(ctx, granted) }()
	for {
		select {
		case <-wake:
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
			return g, ctx.Err()
		}
		g, err := attempt()
		if err == nil {
			granted = true
			return g, nil
		}
	}
}

// progress waits until n more rounds are done.
func (c *contention) progress(t *testing.T, n int64) {
	t.Helper()
	ctx := testContext(t)
	for want := c.rounds.Load() + n; c.rounds.Load() < want; {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the clients do not get on: %d rounds, want %d", c.rounds.Load(), want)
		}
	}
}

func TestClusterFailures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, c *etcdtest.Cluster) (undo func())
	}{
		{"follower killed", func(t *testing.T, c *etcdtest.Cluster) func() {
			s := c.Follower()
			s.Kill()
			return s.Restart
		}},
		{"leader killed", func(t *testing.T, c *etcdtest.Cluster) func() {
			s := c.Leader()
			s.Kill()
			return s.Restart
		}},
		{"follower cut off", func(t *testing.T, c *etcdtest.Cluster) func() {
			s := c.Follower()
			s.CutOff()
			return s.Rejoin
		}},
		{"leader cut off", func(t *testing.T, c *etcdtest.Cluster) func() {
			s := c.Leader()
			s.CutOff()
			return s.Rejoin
		}},
		{"leader frozen", func(t *testing.T, c *etcdtest.Cluster) func() {
			s := c.Leader()
			s.Freeze()
			return s.Thaw
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cl := etcdtest.StartCluster(t, 3, nil)
			c := &contention{stop: make(chan struct{})}
			l := newLedger(t, cl)
			for range 4 {
				b := newBackend(t, l.client(t, cl))
				c.wg.Go(func() { c.run(b, "k", 3*time.Second) })
			}
			c.progress(t, 20)
			start := time.Now()
			undo := tc.do(t, cl)
			c.progress(t, 20)
			t.Logf("20 rounds after the failure: %v", time.Since(start))
			undo()
			c.progress(t, 20)
			close(c.stop)
			c.wg.Wait()
			for _, s := range c.failed {
				t.Error(s)
			}
			for _, claim := range c.robbed {
				how, err := l.broken(testContext(t), cl.Client(), claim)
				if err != nil {
					t.Error(err)
				}
				if how == "" {
					t.Errorf("claim %s was certain of the lock when another got it", claim)
				} else {
					t.Logf("claim %s was certain of the lock when another got it: %s", claim, how)
				}
			}
		})
	}
}

// A lock that is held outlives the death of the leader.
func TestHeldAcrossLeaderKill(t *testing.T) {
	t.Parallel()
	cl := etcdtest.StartCluster(t, 3, nil)
	ctx := testContext(t)
	a, b := newBackend(t, cl.Client()), newBackend(t, cl.Client())
	lost := make(chan string, 1)
	defer a.OnLoss(func(key, id string) { lost <- key })()
	g := mustAcquire(t, a, "k", claim(10*time.Second))
	time.Sleep(500 * time.Millisecond) // it is watched by now
	cl.Leader().Kill()
	for {
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := a.Renew(rctx, g)
		cancel()
		if err == nil {
			break
		}
		mustBe(t, "renew while there is no leader", err, backend.ErrUnavailable)
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	// b asks through whichever member, which may not know of the new leader yet
	insist := func(what string, want error, do func(ctx context.Context) error) {
		t.Helper()
		for {
			rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := do(rctx)
			cancel()
			if !errors.Is(err, backend.ErrUnavailable) || ctx.Err() != nil {
				if !errors.Is(err, want) {
					t.Fatalf("%s: %v", what, err)
				}
				return
			}
		}
	}
	c := claim(10 * time.Second)
	insist("acquire of a held lock", backend.ErrHeld, func(ctx context.Context) error { return errOf(b.Acquire(ctx, "k", c)) })
	// the watch has recovered too
	broken := false
	insist("break", nil, func(ctx context.Context) error {
		err := b.Break(ctx, "k", g.Token)
		if broken && errors.Is(err, backend.ErrNotHeld) {
			return nil // by an attempt whose answer was lost
		}
		broken = errors.Is(err, backend.ErrUnavailable)
		return err
	})
	select {
	case <-lost:
	case <-ctx.Done():
		t.Fatal("loss was not reported")
	}
}

func TestRestartAndWipe(t *testing.T) {
	t.Parallel()
	cl := etcdtest.StartCluster(t, 3, nil)
	srv := etcdtest.Start(t, nil)
	for _, tc := range []struct {
		name string
		b    *etcdlock.Backend
		do   func()
	}{
		{"one restarted", newBackend(t, srv.Client()), srv.Restart},
		{"one wiped", newBackend(t, srv.Client()), srv.Wipe},
		{"three restarted", newBackend(t, cl.Client()), cl.Restart},
		{"three wiped", newBackend(t, cl.Client()), cl.Wipe},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := testContext(t)
			acquire := func(b *etcdlock.Backend, c backend.Claim) backend.Grant {
				t.Helper()
				for {
					actx, cancel := context.WithTimeout(ctx, 2*time.Second)
					g, err := b.Acquire(actx, "k", c)
					cancel()
					if err == nil {
						return g
					}
					mustBe(t, "acquire", err, backend.ErrUnavailable)
				}
			}
			g := acquire(tc.b, claim(20*time.Second))
			last := g.Token
			for range 3 {
				mustRelease(t, tc.b, g)
				g = acquire(tc.b, claim(20*time.Second))
				if g.Token <= last {
					t.Fatalf("token %d after %d", g.Token, last)
				}
				last = g.Token
			}
			mustRelease(t, tc.b, g)
			tc.do()
			g = acquire(tc.b, claim(20*time.Second))
			if g.Token <= last {
				t.Errorf("token %d after %d", g.Token, last)
			}
			mustRelease(t, tc.b, g)
		})
	}
}

// A holder and a waiter of a store that is wiped: the holder learns of its loss,
// the waiter gets the lock.
func TestWipedWhileHeld(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	a, b := newBackend(t, srv.Client()), newBackend(t, srv.Client())
	g := mustAcquire(t, a, "k", claim(20*time.Second))
	type result struct {
		g   backend.Grant
		err error
	}
	got := make(chan result, 1)
	waits := make(chan struct{})
	go func() {
		close(waits)
		g, err := acquireWaiting(ctx, b, "k", claim(20*time.Second), 500*time.Millisecond)
		got <- result{g, err}
	}()
	<-waits
	srv.Wipe()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.g.Token <= g.Token {
		t.Errorf("token %d after %d", r.g.Token, g.Token)
	}
	for {
		// its client may not have noticed yet that the server is back
		_, err := a.Renew(ctx, g)
		if !errors.Is(err, backend.ErrUnavailable) || ctx.Err() != nil {
			mustBe(t, "renew", err, backend.ErrLost)
			break
		}
	}
	mustBe(t, "release", a.Release(ctx, g), backend.ErrLost)
	mustRelease(t, b, r.g)
}
