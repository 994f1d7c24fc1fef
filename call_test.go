package hasp_test

import (
	"context"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// punctual is a client whose calls end with their deadline, and not before.
type punctual struct{ *memlock.Client }

func (punctual) Punctual() bool { return true }

func (p punctual) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	d, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), d)
	defer cancel()
	return p.Client.Acquire(ctx, key, c)
}

// A call that heeds only its deadline is left behind if its caller can be
// cancelled. If nothing but Close can end it, it is not, and Close waits for it.
func TestPunctualBackend(t *testing.T) {
	setup := func(t *testing.T) (*memlock.Store, hasp.Locker) {
		store := memlock.New()
		l := locker(t, punctual{store.Client()}, &hasp.Options{RequestTimeout: 3 * time.Second})
		release(t, acquire(t, l, "k"))
		store.Inject(memlock.OpAcquire, "", memlock.Fault{Delay: time.Minute})
		return store, l
	}
	t.Run("cancelled", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store, l := setup(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			got := acquiring(ctx, l, "k")
			time.Sleep(time.Second)
			start := time.Now()
			cancel(errShutdown)
			o := <-got
			mustMatch(t, o.err, errShutdown, context.Canceled)
			within(t, "returned", o.at.Sub(start), 0, 100*time.Millisecond)
			time.Sleep(time.Minute)
			mustState(t, store, "k", backend.Free)
		})
	})
	t.Run("closed", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store, l := setup(t)
			got := acquiring(context.Background(), l, "k")
			time.Sleep(time.Second)
			start := time.Now()
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			o := <-got
			mustMatch(t, o.err, hasp.ErrClosed)
			within(t, "returned", o.at.Sub(start), 0, 2*time.Second)
			within(t, "Close took", time.Since(start), 0, 3*time.Second)
			mustState(t, store, "k", backend.Free)
		})
	})
}
