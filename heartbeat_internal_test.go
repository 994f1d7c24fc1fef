package hasp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/memlock"
)

// The scheduler stays awake for a moment after the last lease, so that the next one
// need not wake it, and then sleeps for good.
func TestSchedulerRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := newLocker(memlock.New().Client(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		until := func() time.Time {
			synctest.Wait()
			l.heart.mu.Lock()
			defer l.heart.mu.Unlock()
			return l.heart.until
		}
		le, err := l.Acquire(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		until() // it has seen the lease
		if err := le.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(maxNap + maxNap/2)
		if until().IsZero() {
			t.Error("it sleeps for good at once")
		}
		time.Sleep(maxNap)
		if u := until(); !u.IsZero() {
			t.Errorf("without leases it is still to look at %v", u)
		}
		// A lease that wakes it and is gone when it looks keeps it awake too: else each
		// of many short ones would have to wake it.
		if le, err = l.Acquire(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if err := le.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if until().IsZero() {
			t.Error("after a short lease it sleeps for good at once")
		}
	})
}
