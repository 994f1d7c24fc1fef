package hasp_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// vanishing is a store that does not answer one batch of renewals, the first after arm.
type vanishing struct {
	*memlock.Client

	mu      sync.Mutex
	armed   bool
	least   int // a batch of fewer is answered
	batches []int
}

func (v *vanishing) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	v.mu.Lock()
	v.batches = append(v.batches, len(gs))
	vanish := v.armed && len(gs) >= v.least
	if vanish {
		v.armed = false
	}
	v.mu.Unlock()
	if !vanish {
		return v.Client.RenewAll(ctx, gs)
	}
	<-ctx.Done()
	rs := make([]backend.Renewal, len(gs))
	for i := range rs {
		rs[i].Err = backend.Unavailable(ctx.Err())
	}
	return rs
}

// A renewal that vanished costs no lease, whatever the TTLs of those that are due with it.
func TestOneBatchThatVanishesCostsNoLease(t *testing.T) {
	for _, ttls := range [][]time.Duration{
		{3 * time.Second}, {300 * time.Second, 3 * time.Second}, {3 * time.Second, 300 * time.Second, 20 * time.Second, 4 * time.Second},
	} {
		inBubble(t, func(t *testing.T) {
			v := &vanishing{Client: memlock.New().Client()}
			l := locker(t, v, nil) // those that are due within 2 s go together
			var leases []*hasp.Lease
			for i, ttl := range ttls {
				le, err := l.Acquire(t.Context(), string(rune('a'+i)), hasp.WithTTL(ttl))
				if err != nil {
					t.Fatal(err)
				}
				leases = append(leases, le)
			}
			for least := len(ttls); least > 0; least-- {
				for range 20 { // at all times of the long one's
					v.mu.Lock()
					v.armed, v.least = true, least
					v.mu.Unlock()
					time.Sleep(13 * time.Second)
				}
			}
			for i, le := range leases {
				if err := le.Err(); err != nil {
					t.Errorf("of %v the one of %v: %v", ttls, ttls[i], err)
				}
			}
		})
	}
}

// waits notes for how long a request that renews the key long is waited for at least.
type waits struct {
	*memlock.Client

	mu    sync.Mutex
	least time.Duration
	n     int
}

func (w *waits) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range gs {
		if d, ok := ctx.Deadline(); ok && g.Key == "long" {
			if left := time.Until(d); w.n == 0 || left < w.least {
				w.least = left
			}
			w.n++
		}
	}
	return w.Client.RenewAll(ctx, gs)
}

// A long lease is not waited for as briefly as the short ones that are due beside it: a
// store that takes a second would lose it.
func TestLongLeasesAreWaitedForBesideShortOnes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &waits{Client: memlock.New().Client()}
		l := locker(t, w, nil)
		acquire(t, l, "long")
		for i := range 10 {
			if _, err := l.Acquire(t.Context(), string(rune('A'+i)), hasp.WithTTL(3*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.n < 10 || w.least < 10*time.Second {
			t.Errorf("of %d renewals one is waited for for %v; the request's time is 10 s", w.n, w.least)
		}
	})
}

// values is a store in which setting a value waits until it is told to go on, or is answered as err says.
type values struct {
	*memlock.Client
	entered, goOn chan struct{}
	err           error
	mu            sync.Mutex
	calls         int
}

func (v *values) SetValue(ctx context.Context, g backend.Grant, val backend.Value) (backend.Grant, error) {
	v.mu.Lock()
	v.calls++
	v.mu.Unlock()
	if v.err != nil {
		return backend.Grant{}, v.err
	}
	close(v.entered)
	<-v.goOn
	return v.Client.SetValue(ctx, g, val)
}

// Release comes while a value is being set: that is no loss.
func TestSetValueWhileReleasing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &values{Client: memlock.New().Client(), entered: make(chan struct{}), goOn: make(chan struct{})}
		le := acquire(t, locker(t, v, nil), "k")
		set := make(chan error)
		go func() { set <- le.SetValue(context.Background(), []byte("x")) }()
		<-v.entered
		if err := le.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(v.goOn)
		if err := <-set; !errors.Is(err, hasp.ErrReleased) || errors.Is(err, hasp.ErrLost) {
			t.Errorf("SetValue gave %v", err)
		}
	})
}

// A lease that is lost is not asked about again, also where it is not known whether the
// value is set.
func TestSetValueOfALostLeaseEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := &values{Client: memlock.New().Client(), err: errors.Join(backend.ErrLost, backend.Unavailable(errors.New("the other half did not answer")))}
		le := acquire(t, locker(t, v, nil), "k")
		begun := time.Now()
		err := le.SetValue(t.Context(), []byte("x"))
		if !errors.Is(err, hasp.ErrLost) || !errors.Is(err, hasp.ErrUnavailable) {
			t.Errorf("SetValue gave %v", err)
		}
		if err := le.SetValue(t.Context(), []byte("y")); !errors.Is(err, hasp.ErrLost) {
			t.Errorf("the next one gave %v", err)
		}
		if took := time.Since(begun); took > time.Second || v.calls != 1 {
			t.Errorf("%d calls in %v", v.calls, took)
		}
	})
}
