package hasp_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// One Locker serves jobs of seconds and of an hour: each lease has its own TTL at
// the store, its own heartbeats and its own deadline.
func TestLeasesWithTheirOwnTTL(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: time.Minute})
		for key, ttl := range map[string]time.Duration{"seconds": 9 * time.Second, "hour": time.Hour, "usual": 0} {
			var opts []hasp.AcquireOption
			if ttl > 0 {
				opts = append(opts, hasp.WithTTL(ttl))
			} else {
				ttl = time.Minute
			}
			le, err := l.Acquire(t.Context(), key, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if rec := mustState(t, store, key, backend.Held); rec.TTL != ttl || le.Grant().TTL != ttl {
				t.Errorf("%s: TTL %v in the store, %v here, want %v", key, rec.TTL, le.Grant().TTL, ttl)
			}
			want := ttl - min(ttl/10, 5*time.Second)
			within(t, key+" is valid for", time.Until(le.Deadline()), want, want)
		}
		time.Sleep(3 * time.Hour) // the shortest lives by its own heartbeats
		synctest.Wait()
		for _, key := range []string{"seconds", "hour", "usual"} {
			mustState(t, store, key, backend.Held)
		}
		cut := store.Inject(memlock.OpRenew, "", memlock.Fault{Err: backend.Unavailable(errWork), Times: -1})
		defer cut()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		mustState(t, store, "seconds", backend.Stale)
		mustState(t, store, "hour", backend.Held)
	})
}

// Who waits with a longer TTL waits for longer by default, as with Options.TTL.
func TestWaitingFollowsTheTTLOfTheAcquire(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		acquire(t, locker(t, store.Client(), nil), "k")
		l := locker(t, store.Client(), &hasp.Options{TTL: time.Minute})
		start := time.Now()
		_, err := l.Acquire(t.Context(), "k", hasp.WithTTL(time.Hour))
		mustMatch(t, err, hasp.ErrTimeout)
		within(t, "waited", time.Since(start), time.Hour+10*time.Second, time.Hour+20*time.Second)

		start = time.Now()
		_, err = l.Acquire(t.Context(), "k", hasp.WithMaxWait(17*time.Second))
		mustMatch(t, err, hasp.ErrTimeout)
		within(t, "waited", time.Since(start), 17*time.Second, 17*time.Second)

		start = time.Now()
		err = hasp.Do(t.Context(), l, "k", func(context.Context, *hasp.Lease) error { return nil }, hasp.NoWait())
		mustMatch(t, err, hasp.ErrHeld)
		within(t, "waited", time.Since(start), 0, 0)
	})
}

func TestOwnerAndTokenFloorOfAnAcquire(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{Owner: "fleet"})
		const floor = 1 << 62
		le, err := l.TryAcquire(t.Context(), "k", hasp.WithOwner("job 7"), hasp.WithTokenFloor(floor))
		if err != nil {
			t.Fatal(err)
		}
		rec := mustState(t, store, "k", backend.Held)
		if rec.Holder.Owner != "job 7" || le.Holder() != rec.Holder || le.Token() <= floor {
			t.Errorf("holder %v here, %v in the store; token %d, floor %d", le.Holder(), rec.Holder, le.Token(), uint64(floor))
		}
		if rec := mustState(t, store, acquire(t, l, "other").Key(), backend.Held); rec.Holder.Owner != "fleet" {
			t.Errorf("an option of one Acquire reached another: %v", rec.Holder)
		}
	})
}

func TestAcquireOptionsThatMakeNoSense(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: time.Minute, Heartbeat: 20 * time.Second})
		for want, opt := range map[string]hasp.AcquireOption{
			"WithTTL(0)":            hasp.WithTTL(0),
			"must not be negative":  hasp.WithTTL(-time.Second),
			"the least is 1 ms":     hasp.WithTTL(time.Microsecond),
			"the Heartbeat, 20s":    hasp.WithTTL(10 * time.Second),
			"NoWait makes one":      hasp.WithMaxWait(0),
			"it has to be positive": hasp.WithMaxWait(-time.Second),
		} {
			_, err := l.Acquire(t.Context(), "k", opt)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `hasp: acquire "k": options: `) {
				t.Errorf("want %q in: %v", want, err)
			}
		}
		if n := store.Count(memlock.OpAcquire); n != 0 {
			t.Errorf("the store was asked %d times", n)
		}
	})
}
