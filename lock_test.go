package hasp_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/memlock"
)

// The spec's patience is 60 waits of 5 s; by default there are four more, to outlast
// a dead holder. Then comes an error that names the holder.
func TestAcquireTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memlock.New()
		a := hasp.New(store.Client(), &hasp.Options{Owner: "trainer-7"})
		defer a.Close()
		b := hasp.New(store.Client(), nil)
		defer b.Close()
		lease, err := a.Acquire(t.Context(), "sweeps/foo")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = b.Acquire(t.Context(), "sweeps/foo")
		if got := time.Since(start); got != 320*time.Second {
			t.Errorf("waited %v, want 5m20s", got)
		}
		var te *hasp.TimeoutError
		if !errors.As(err, &te) || !errors.Is(err, hasp.ErrHeld) || !errors.Is(err, hasp.ErrTimeout) {
			t.Fatalf("got %v, want a *TimeoutError that matches ErrHeld", err)
		}
		if !strings.Contains(err.Error(), "trainer-7") {
			t.Errorf("error does not name the holder: %v", err)
		}
		t.Log(err)
		if err := lease.Err(); err != nil {
			t.Errorf("the holder lost it: %v", err)
		}
		if err := lease.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestReleaseWakesAWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memlock.New()
		a, b := hasp.New(store.Client(), nil), hasp.New(store.Client(), nil)
		defer a.Close()
		defer b.Close()
		la, err := a.Acquire(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan *hasp.Lease)
		go func() {
			lb, err := b.Acquire(t.Context(), "k")
			if err != nil {
				t.Error(err)
			}
			got <- lb
		}()
		synctest.Wait()
		before := time.Now()
		if err := la.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		lb := <-got
		if d := time.Since(before); d > 10*time.Millisecond {
			t.Errorf("hand-off took %v", d)
		}
		if lb.Token() <= la.Token() {
			t.Errorf("token %d after %d", lb.Token(), la.Token())
		}
		if err := lb.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPartitionLosesTheLeaseByItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memlock.New()
		c := store.Client()
		a := hasp.New(c, &hasp.Options{TTL: 30 * time.Second})
		defer a.Close()
		lease, err := a.Acquire(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		c.Partition(true)
		<-lease.Done()
		if d := time.Since(start); d != 27*time.Second {
			t.Errorf("lost after %v, want TTL less margin, 27s", d)
		}
		if err := lease.Err(); !errors.Is(err, hasp.ErrLost) {
			t.Errorf("Err is %v", err)
		}
		if err := context.Cause(lease.Context()); !errors.Is(err, hasp.ErrLost) {
			t.Errorf("cause is %v", err)
		}
		c.Partition(false)
	})
}
