package hasp_test

import (
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// How long until the lock is stale at the latest is counted from the answer that
// said so, however long it takes to register.
func TestStaleWhileItBeginsToWatch(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		claim := backend.Claim{ID: "silent", TTL: 5 * time.Second}
		if _, err := store.Client().Acquire(t.Context(), "k", claim); err != nil {
			t.Fatal(err)
		}
		store.Inject(memlock.OpWatch, "", memlock.Fault{Delay: 3 * time.Second})
		l := locker(t, store.Client(), &hasp.Options{RetryInterval: time.Hour})
		start := time.Now()
		release(t, acquire(t, l, "k"))
		within(t, "taken over", time.Since(start), 5*time.Second, 5100*time.Millisecond)
	})
}

// The holder changes between the attempt and the watch, and the new one falls silent.
func TestHolderChangesBeforeTheWatch(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		first := acquire(t, locker(t, store.Client(), nil), "k")
		store.Inject(memlock.OpWatch, "", memlock.Fault{Delay: 300 * time.Millisecond})
		l := locker(t, store.Client(), &hasp.Options{RetryInterval: time.Hour})
		start := time.Now()
		got := acquiring(t.Context(), l, "k")
		time.Sleep(100 * time.Millisecond)
		release(t, first)
		if _, err := store.Client().Acquire(t.Context(), "k", backend.Claim{ID: "silent", TTL: 500 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		o := <-got
		if o.err != nil {
			t.Fatal(o.err)
		}
		within(t, "taken over", o.at.Sub(start), 600*time.Millisecond, 1400*time.Millisecond)
		release(t, o.lease)
	})
}
