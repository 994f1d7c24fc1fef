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

// A store that takes a second for each batch keeps them all.
func TestASlowStoreKeepsLongLeasesBesideShortOnes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := memlock.New()
		l := locker(t, s.Client(), nil)
		long := acquire(t, l, "long")
		var short []*hasp.Lease
		for i := range 40 {
			le, err := l.Acquire(t.Context(), string(rune('A'+i)), hasp.WithTTL(3*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			short = append(short, le)
		}
		s.Inject(memlock.OpRenew, "", memlock.Fault{Delay: 2 * time.Second, Times: -1})
		time.Sleep(20 * time.Minute)
		if err := long.Err(); err != nil {
			t.Errorf("the long one: %v", err)
		}
		if short[0].Err() == nil {
			t.Error("the short ones were kept by a store that is too slow for them: nothing was tested")
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
