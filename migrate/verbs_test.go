package migrate_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// Loss of either is loss, and the error says where.
func TestLossOfEither(t *testing.T) {
	for _, side := range []string{"old", "new"} {
		l := begun(t, migrate.StageBoth)
		b := l.client(migrate.PhaseBoth)
		g := mustTake(t, b, "k", "holder")
		store := l.old
		if side == "new" {
			store = l.new
		}
		told := make(chan string, 4)
		defer b.OnLoss(func(_, id string) { told <- id })()
		r := mustState(t, store, "k", backend.Held)
		if err := store.Client().Break(t.Context(), "k", r.Token); err != nil {
			t.Fatal(err)
		}
		if id := <-told; id != g.ID {
			t.Errorf("told of %q", id)
		}
		if _, err := b.Renew(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("lost in the %s store, and Renew gave %v", side, err)
		}
		if rs := b.RenewAll(t.Context(), []backend.Grant{g}); !errors.Is(rs[0].Err, backend.ErrLost) {
			t.Errorf("RenewAll gave %v", rs[0].Err)
		}
		if rec, err := b.Inspect(t.Context(), "k"); err != nil || rec.ID == g.ID {
			t.Errorf("shown as held: %v, %v", rec, err)
		}
		if err := b.Release(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("Release gave %v", err)
		}
		mustState(t, l.old, "k", backend.Free)
		mustState(t, l.new, "k", backend.Free)
	}
}

// The first one is given back if the second refuses.
func TestFirstIsGivenBack(t *testing.T) {
	l := begun(t, migrate.StageBothNew)
	g := mustTake(t, l.client(migrate.PhaseNew), "k", "new")
	both := l.client(migrate.PhaseBoth)
	c := claim("both")
	for range 3 { // the claim may come again
		_, err := both.Acquire(t.Context(), "k", c)
		var held *backend.HeldError
		if !errors.As(err, &held) || held.Record.Token != g.Token || held.Record.Holder.Host != "host-new" {
			t.Fatalf("got %v", err)
		}
		mustState(t, l.old, "k", backend.Free)
	}
	mustRelease(t, l.client(migrate.PhaseNew), g)
	bg, err := both.Acquire(t.Context(), "k", c)
	if err != nil || bg.ID != c.ID {
		t.Fatal(err)
	}
	// a Release of a former attempt that is executed late frees nobody
	_ = l.old.Client().Release(t.Context(), backend.Grant{Key: "k", ID: c.ID})
	mustState(t, l.old, "k", backend.Held)
	if rec, err := both.Inspect(t.Context(), "k"); err != nil || rec.ID != c.ID {
		t.Errorf("shown as %+v, %v", rec, err)
	}
	mustRelease(t, both, bg)
	mustState(t, l.old, "k", backend.Free)
	mustState(t, l.new, "k", backend.Free)
}

// Each request of an Acquire fails in turn, executed or not: an error that is not known to
// be definite is undone by a Release with only Key and ID, and after a definite one nothing
// is held.
func TestAcquireThatFailsHalfway(t *testing.T) {
	for i, p := range phases {
		for _, lose := range []bool{false, true} {
			for _, op := range []memlock.Op{memlock.OpAcquire, memlock.OpValue, memlock.OpRaiseToken, memlock.OpRenew, memlock.OpRelease} {
				for _, side := range []string{"old", "new"} {
					l := begun(t, stages[2*i])
					b := l.client(p)
					mustRelease(t, b, mustTake(t, b, "warm", "up"))
					if p == migrate.PhaseBoth { // so that there is something to raise
						if err := l.new.Client().RaiseToken(t.Context(), "k", uint64(time.Now().Add(time.Hour).UnixMicro())); err != nil {
							t.Fatal(err)
						}
					}
					store := l.old
					if side == "new" {
						store = l.new
					}
					f := memlock.Fault{Err: errFault}
					if lose {
						f = memlock.Fault{LoseReply: errFault}
					}
					remove := store.Inject(op, "", f)
					c := claim("halfway")
					g, err := b.Acquire(t.Context(), "k", c)
					remove()
					if err == nil {
						mustRelease(t, b, g)
					} else {
						if !isUnknown(err) {
							t.Errorf("%s, %s store, %s: %v", p, side, op, err)
						}
						if err := b.Release(t.Context(), backend.Grant{Key: "k", ID: c.ID}); err != nil && !errors.Is(err, backend.ErrLost) {
							t.Errorf("withdrawn: %v", err)
						}
					}
					mustState(t, l.old, "k", backend.Free)
					mustState(t, l.new, "k", backend.Free)
					// and the same claim again
					if g, err = b.Acquire(t.Context(), "k", c); err != nil {
						t.Errorf("%s, %s store, %s: again: %v", p, side, op, err)
						continue
					}
					mustRelease(t, b, g)
				}
			}
		}
	}
}

// A Release that one store did not answer is repeated, and the other store's next holder
// is not taken for a thief.
func TestReleaseThatFailsHalfway(t *testing.T) {
	for _, side := range []string{"old", "new"} {
		l := begun(t, migrate.StageOldBoth)
		b := l.client(migrate.PhaseBoth)
		g := mustTake(t, b, "k", "holder")
		store := l.old
		if side == "new" {
			store = l.new
		}
		store.Inject(memlock.OpRelease, "k", memlock.Fault{Err: errFault})
		err := b.Release(t.Context(), g)
		if !isUnknown(err) || errors.Is(err, backend.ErrLost) {
			t.Errorf("got %v", err)
		}
		if side == "new" {
			mustTake(t, l.client(migrate.PhaseOld), "k", "next")
		}
		mustRelease(t, b, g)
		mustState(t, l.new, "k", backend.Free)
	}
}

func TestReleaseFreesNewFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageBoth)
		b := l.client(migrate.PhaseBoth)
		g := mustTake(t, b, "k", "holder")
		l.old.Inject(memlock.OpRelease, "k", memlock.Fault{Delay: time.Second})
		done := make(chan error)
		go func() { done <- b.Release(context.Background(), g) }()
		synctest.Wait()
		mustState(t, l.new, "k", backend.Free)
		mustState(t, l.old, "k", backend.Held)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Both are renewed at once, and the one that fails is named.
func TestRenewBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageBoth)
		b := l.client(migrate.PhaseBoth)
		g := mustTake(t, b, "k", "holder")
		for _, s := range []*memlock.Store{l.old, l.new} {
			s.Inject(memlock.OpRenew, "k", memlock.Fault{Delay: time.Second})
		}
		start := time.Now()
		g, err := b.Renew(t.Context(), g)
		if d := time.Since(start); err != nil || d != time.Second {
			t.Errorf("%v after %v", err, d)
		}
		l.new.Inject(memlock.OpRenew, "k", memlock.Fault{Err: errFault})
		if _, err = b.Renew(t.Context(), g); !isUnknown(err) || errors.Is(err, backend.ErrLost) {
			t.Errorf("got %v", err)
		}
		if _, err = b.Renew(t.Context(), g); err != nil {
			t.Error(err)
		}
		g.State = nil // as if it had been kept elsewhere
		if _, err = b.Renew(t.Context(), g); err != nil {
			t.Error(err)
		}
		mustRelease(t, b, g)
		mustState(t, l.old, "k", backend.Free)
	})
}

// A waiter of phase both is woken by whoever was in its way, in whichever store.
func TestWaitersAreWoken(t *testing.T) {
	for _, c := range []struct {
		stage  migrate.Stage
		holder migrate.Phase
	}{{migrate.StageOldBoth, migrate.PhaseOld}, {migrate.StageBoth, migrate.PhaseBoth}, {migrate.StageBothNew, migrate.PhaseNew}} {
		synctest.Test(t, func(t *testing.T) {
			l := begun(t, c.stage)
			holder := hasp.New(l.client(c.holder), &hasp.Options{TTL: 50 * time.Second, RetryInterval: 40 * time.Second})
			defer holder.Close()
			waiter := hasp.New(l.client(migrate.PhaseBoth), &hasp.Options{TTL: 50 * time.Second, RetryInterval: 40 * time.Second})
			defer waiter.Close()
			lease, err := holder.Acquire(t.Context(), "k")
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(10*time.Second, func() { _ = lease.Release(context.Background()) })
			start := time.Now()
			got, err := waiter.Acquire(t.Context(), "k")
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 11*time.Second {
				t.Errorf("behind phase %s: woken after %v", c.holder, d)
			}
			if err := got.Verify(t.Context()); err != nil {
				t.Error(err)
			}
			if err := got.Release(t.Context()); err != nil {
				t.Error(err)
			}
			synctest.Wait() // the watch is ended beside
			if n := l.old.Waiters("k") + l.new.Waiters("k"); n != 0 {
				t.Errorf("%d watches are left", n)
			}
		})
	}
}

// A claim that waits in the new store's queue, and is then refused by the old one, waits
// there: a turn that it keeps in the new one would be in the way of whoever holds the old.
func TestWaiterFollowsWhereItIsRefused(t *testing.T) {
	l := begun(t, migrate.StageBothNew)
	fresh, both, other := l.client(migrate.PhaseNew), l.client(migrate.PhaseBoth), l.client(migrate.PhaseBoth)
	g := mustTake(t, fresh, "k", "new")
	c := claim("waiter")
	if _, err := both.Acquire(t.Context(), "k", c); !errors.Is(err, backend.ErrHeld) {
		t.Fatal(err)
	}
	wake, stop, err := both.Watch(t.Context(), "k", c)
	if err != nil {
		t.Fatal(err)
	}
	if n := l.new.Waiters("k"); n != 1 {
		t.Fatalf("%d wait in the new store", n)
	}
	mustRelease(t, fresh, g)
	mustTake(t, other, "k", "other")
	if _, err := both.Acquire(t.Context(), "k", c); !errors.Is(err, backend.ErrHeld) {
		t.Fatal(err)
	}
	for open := true; open; {
		select {
		case _, open = <-wake:
		case <-time.After(10 * time.Second):
			t.Fatal("the watch at the new store goes on")
		}
	}
	if err := stop(t.Context(), false); err != nil {
		t.Error(err)
	}
	_, stop, err = both.Watch(t.Context(), "k", c)
	if err != nil {
		t.Fatal(err)
	}
	if o, n := l.old.Waiters("k"), l.new.Waiters("k"); o != 1 || n != 0 {
		t.Errorf("%d wait in the old store, %d in the new one", o, n)
	}
	if err := stop(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// oneEntry is a store that knows a waiter and a holder by one entry, as etcd does: who ends
// a watch as one that was not granted takes away what the claim has got.
type oneEntry struct{ *memlock.Client }

func (s oneEntry) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	wake, stop, err := s.Client.Watch(ctx, key, c)
	return wake, func(ctx context.Context, granted bool) error {
		if !granted {
			_ = s.Client.Release(ctx, backend.Grant{Key: key, ID: c.ID})
		}
		return stop(ctx, granted)
	}, err
}

// A claim that waits in the new store, is refused in the old one, and then gets both: the
// end of its watch does not free the new store's lock.
func TestWatchThatWasEndedKeepsTheGrant(t *testing.T) {
	l := begun(t, migrate.StageBoth)
	both, err := migrate.New(l.old.Client(), oneEntry{l.new.Client()}, &migrate.Options{Name: "sweeps", Phase: migrate.PhaseBoth})
	if err != nil {
		t.Fatal(err)
	}
	defer both.Close()
	old, fresh := l.old.Client(), l.new.Client()
	c := claim("waiter")
	refused := func() {
		t.Helper()
		if g, err := both.Acquire(t.Context(), "k", c); !errors.Is(err, backend.ErrHeld) {
			t.Fatalf("got %v, %v and not ErrHeld", g, err)
		}
	}
	g := mustTake(t, fresh, "k", "one in the new store")
	refused()
	wake, stop, err := both.Watch(t.Context(), "k", c)
	if err != nil {
		t.Fatal(err)
	}
	mustRelease(t, fresh, g)
	g = mustTake(t, old, "k", "one in the old store")
	refused()
	for range wake { // until it is closed
	}
	mustRelease(t, old, g)
	g, err = both.Acquire(t.Context(), "k", c)
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	mustState(t, l.old, "k", backend.Held)
	mustState(t, l.new, "k", backend.Held)
	mustRelease(t, both, g)
}
