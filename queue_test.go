package hasp_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// order collects who came when.
type order struct {
	mu  sync.Mutex
	ids []int
}

func (o *order) add(id int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids = append(o.ids, id)
}

func (o *order) list() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.ids)
}

// queue starts n goroutines, one after the other, that take k, hold it for a
// second and note their number.
func queue(t *testing.T, l hasp.Locker, n int) (o *order, wait func()) {
	o = &order{}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			le, err := l.Acquire(context.Background(), "k")
			if err != nil {
				t.Error(err)
				return
			}
			o.add(i)
			time.Sleep(time.Second)
			_ = le.Release(context.Background())
		})
		synctest.Wait() // i waits in its place before the next one comes
	}
	return o, wg.Wait
}

func TestLocalWaitersAreServedInOrderAndCostTheStoreNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const n = 100
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		first := acquire(t, l, "k")
		o, wait := queue(t, l, n)
		before := store.Count(memlock.OpAny)
		time.Sleep(30 * time.Second)
		if got := store.Count(memlock.OpAny) - before; got != 0 {
			t.Errorf("%d requests by %d goroutines that wait behind their own process", got, n)
		}
		release(t, first)
		wait()
		if got := o.list(); !slices.IsSorted(got) || len(got) != n {
			t.Errorf("served in the order %v", got)
		}
		if got := store.Count(memlock.OpAcquire); got != n+1 {
			t.Errorf("%d acquires for %d leases", got, n+1)
		}
		if got := store.Count(memlock.OpWatch); got != 0 {
			t.Errorf("%d watches", got)
		}
	})
}

func TestOnlyTheFirstContendsWithOtherProcesses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		other := acquire(t, locker(t, store.Client(), nil), "k")
		l := locker(t, store.Client(), nil)
		o, wait := queue(t, l, 100)
		before := store.Count(memlock.OpAcquire)
		time.Sleep(100 * time.Second)
		// 20 retries of the one that contends, whom nothing wakes
		if got := store.Count(memlock.OpAcquire) - before; got < 15 || got > 25 {
			t.Errorf("%d attempts in 100 s, want those of one waiter", got)
		}
		if n := store.Waiters("k"); n != 1 {
			t.Errorf("%d watches, want 1", n)
		}
		release(t, other)
		wait()
		if got := o.list(); !slices.IsSorted(got) || len(got) != 100 {
			t.Errorf("served in the order %v", got)
		}
		if n := store.Waiters("k"); n != 0 {
			t.Errorf("%d watches are left", n)
		}
	})
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := locker(t, memlock.New().Client(), nil)
		start := time.Now()
		for i := range 100 {
			acquire(t, l, fmt.Sprintf("key %d", i))
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v", d)
		}
	})
}

func TestTimeoutsInTheLocalQueue(t *testing.T) {
	for name, tc := range map[string]struct {
		opts hasp.Options
		want time.Duration
	}{
		"defaults": {hasp.Options{}, 320 * time.Second},
		"max wait": {hasp.Options{MaxWait: 3 * time.Second}, 3 * time.Second},
		"retries":  {hasp.Options{RetryInterval: time.Second, MaxRetries: 4}, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tc.opts.Owner = "trainer-7"
				l := locker(t, memlock.New().Client(), &tc.opts)
				le := acquire(t, l, "k")
				start := time.Now()
				_, err := l.Acquire(t.Context(), "k")
				if d := time.Since(start); d != tc.want {
					t.Errorf("waited %v, want %v", d, tc.want)
				}
				mustMatch(t, err, hasp.ErrTimeout, hasp.ErrHeld)
				var held *hasp.HeldError
				if !errors.As(err, &held) || held.Record.Token != le.Token() || held.Record.Holder.Owner != "trainer-7" || held.Record.State != backend.Held {
					t.Errorf("%v does not name this process's own lease", err)
				}
			})
		})
	}
}

// Behind a goroutine that contends with another process the time of waiting is one.
func TestWaitingInTheQueueCounts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		acquire(t, locker(t, store.Client(), &hasp.Options{Owner: "trainer-7"}), "k")
		l := locker(t, store.Client(), &hasp.Options{RetryInterval: time.Second, MaxRetries: 10})
		ctx, cancel := context.WithCancel(t.Context())
		first := acquiring(ctx, l, "k")
		synctest.Wait()
		start := time.Now()
		second := acquiring(t.Context(), l, "k")
		time.Sleep(4 * time.Second)
		cancel()
		mustMatch(t, (<-first).err, context.Canceled)
		o := <-second
		mustMatch(t, o.err, hasp.ErrTimeout)
		if d := o.at.Sub(start); d != 10*time.Second {
			t.Errorf("waited %v, 4 s of it in the queue; want 10 s", d)
		}
		var held *hasp.HeldError
		if !errors.As(o.err, &held) || held.Record.Holder.Owner != "trainer-7" {
			t.Errorf("%v does not name the holder", o.err)
		}
	})
}

func TestCancelledWaitersLeaveTheQueue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		first := acquire(t, l, "k")
		var cancels []context.CancelFunc
		var results []<-chan outcome
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cancels, results = append(cancels, cancel), append(results, acquiring(ctx, l, "k"))
			synctest.Wait()
		}
		for _, i := range []int{0, 3, 4, 9} {
			cancels[i]()
			mustMatch(t, (<-results[i]).err, context.Canceled, hasp.ErrHeld)
		}
		release(t, first)
		for _, i := range []int{1, 2, 5, 6, 7, 8} {
			o := <-results[i]
			if o.err != nil {
				t.Fatal(o.err)
			}
			release(t, o.lease)
		}
		release(t, acquire(t, l, "k"))
	})
}

// A waiter whose turn comes in the moment in which it is cancelled passes it on.
func TestTurnIsNotLostWithACancelledWaiter(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := locker(t, memlock.New().Client(), nil)
		for range 500 {
			first := acquire(t, l, "k")
			ctx, cancel := context.WithCancel(t.Context())
			second := acquiring(ctx, l, "k")
			synctest.Wait()
			third := acquiring(t.Context(), l, "k")
			synctest.Wait()
			start := time.Now()
			go cancel()
			release(t, first)
			if o := <-second; o.err == nil {
				release(t, o.lease)
			} else {
				mustMatch(t, o.err, context.Canceled)
			}
			o := <-third
			if o.err != nil {
				t.Fatal(o.err)
			}
			within(t, "hand-off", o.at.Sub(start), 0, time.Second)
			release(t, o.lease)
		}
	})
}

// The same with the end of its patience.
func TestTurnIsNotLostWithAWaiterThatTimesOut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := locker(t, memlock.New().Client(), &hasp.Options{MaxWait: time.Second})
		for range 200 {
			first := acquire(t, l, "k")
			second := acquiring(t.Context(), l, "k")
			time.Sleep(time.Second) // its end and the release come together
			_ = first.Release(t.Context())
			if o := <-second; o.err == nil {
				release(t, o.lease)
			} else {
				mustMatch(t, o.err, hasp.ErrTimeout)
			}
			if le, err := l.TryAcquire(t.Context(), "k"); err != nil {
				t.Fatal(err)
			} else {
				release(t, le)
			}
		}
	})
}

func TestLossPassesTheKeyOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second})
		lost := acquire(t, l, "k")
		got := acquiring(t.Context(), l, "k")
		synctest.Wait()
		if err := store.Client().Break(t.Context(), "k", lost.Token()); err != nil {
			t.Fatal(err)
		}
		o := <-got
		if o.err != nil {
			t.Fatal(o.err)
		}
		// the late release neither frees the successor's key nor its turn
		third := acquiring(t.Context(), l, "k")
		synctest.Wait()
		mustMatch(t, lost.Release(t.Context()), hasp.ErrLost)
		synctest.Wait()
		if err := o.lease.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		select {
		case o := <-third:
			t.Errorf("the third was served: %+v", o)
		default:
		}
		release(t, o.lease)
		release(t, (<-third).lease)
	})
}

func TestTryAcquireBehindItsOwnProcess(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		le := acquire(t, l, "k")
		before := store.Count(memlock.OpAny)
		_, err := l.TryAcquire(t.Context(), "k")
		var held *hasp.HeldError
		if !errors.As(err, &held) || held.Record.Token != le.Token() {
			t.Errorf("got %v, want the holder", err)
		}
		if store.Count(memlock.OpAny) != before {
			t.Error("the store was asked for what this process knows")
		}
		release(t, le)
		// while another goroutine is in its attempt
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{Delay: time.Second})
		got := acquiring(t.Context(), l, "k")
		synctest.Wait()
		_, err = l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrHeld)
		release(t, (<-got).lease)
	})
}

// Goroutines of several Lockers add one to a number that only the lock protects:
// the race detector and the sum both tell if two hold it at once.
func TestNoUpdateIsLost(t *testing.T) {
	const goroutines, rounds = 100, 5
	for _, lockers := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d lockers", lockers), func(t *testing.T) {
			store := memlock.New()
			ls := make([]hasp.Locker, lockers)
			for i := range ls {
				ls[i] = locker(t, store.Client(), &hasp.Options{RetryInterval: 5 * time.Millisecond, MaxRetries: hasp.Unlimited})
			}
			var n int
			var last uint64
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					for range rounds {
						err := hasp.Do(context.Background(), ls[g%lockers], "k", func(_ context.Context, le *hasp.Lease) error {
							n++
							if le.Token() <= last {
								t.Errorf("token %d after %d", le.Token(), last)
							}
							last = le.Token()
							return nil
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if n != goroutines*rounds {
				t.Errorf("the sum is %d, want %d", n, goroutines*rounds)
			}
		})
	}
}
