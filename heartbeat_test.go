package hasp_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestHeartbeatsAreDueAtAThirdOfTheTTL(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var rec recorder
		start := time.Now()
		le := acquire(t, locker(t, memlock.New().Client(), &hasp.Options{TTL: 90 * time.Second, Observer: rec.observe}), "k")
		time.Sleep(time.Hour)
		es, ts := rec.of(hasp.EventRenewed)
		if n := len(es); n < 120 || n > 134 {
			t.Errorf("%d heartbeats in an hour, want one in 27 to 30 s", n)
		}
		early := 0
		last := start
		for i, at := range ts {
			gap := at.Sub(last)
			within(t, "gap", gap, 27*time.Second, 30*time.Second)
			if gap < 29*time.Second {
				early++
			}
			if want := 85*time.Second - gap; es[i].Margin != want {
				t.Errorf("margin %v, want the %v that were left", es[i].Margin, want)
			}
			last = at
		}
		if early < 20 {
			t.Errorf("%d of %d gaps are below 29 s: there is no jitter", early, len(ts))
		}
		if d := le.Deadline().Sub(last); d != 85*time.Second {
			t.Errorf("deadline %v after the last heartbeat", d)
		}
	})
}

func TestHeartbeatOption(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		le := acquire(t, locker(t, store.Client(), &hasp.Options{TTL: time.Minute, Heartbeat: 2 * time.Second}), "k")
		time.Sleep(100 * time.Second)
		if n := store.Count(memlock.OpRenew); n < 50 || n > 56 {
			t.Errorf("%d heartbeats in 100 s, want one in 1.8 to 2 s", n)
		}
		release(t, le)
		n := store.Count(memlock.OpRenew)
		time.Sleep(time.Minute)
		if store.Count(memlock.OpRenew) != n {
			t.Error("heartbeats go on after the release")
		}
	})
}

// The TTL runs from the moment that the store got the request at the earliest,
// so from before it was sent.
func TestDeadlineCountsFromBeforeTheRequest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{Delay: 2 * time.Second})
		var rec recorder
		l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe})
		start := time.Now()
		le := acquire(t, l, "k")
		if d := time.Since(start); d != 2*time.Second {
			t.Fatalf("acquired after %v", d)
		}
		if d := le.Deadline().Sub(start); d != 27*time.Second {
			t.Errorf("deadline %v after the request, want 27 s", d)
		}
		store.Inject(memlock.OpRenew, "k", memlock.Fault{Delay: 3 * time.Second})
		for rec.count(hasp.EventRenewed) == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		_, ts := rec.of(hasp.EventRenewed)
		if d := le.Deadline().Sub(ts[0]); d != 24*time.Second {
			t.Errorf("deadline %v after the answer, want 27 s less the 3 that it took", d)
		}
	})
}

func TestFailedHeartbeatsAreRepeatedFasterUntilTheDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var rec recorder
		le := acquire(t, locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe}), "k")
		start := time.Now()
		store.Inject(memlock.OpRenew, "k", memlock.Fault{Err: errors.New("out of order"), Times: -1})
		<-le.Done()
		if d := time.Since(start); d != 27*time.Second {
			t.Errorf("lost after %v, want 27 s", d)
		}
		es, ts := rec.of(hasp.EventRenewalFailed)
		if len(ts) < 10 || len(ts) > 200 {
			t.Fatalf("%d tries", len(ts))
		}
		for i, e := range es {
			if e.Margin <= 0 || !strings.Contains(e.Err.Error(), "out of order") || e.Token != le.Token() {
				t.Errorf("try %d: %+v", i, e)
			}
			if i > 0 && ts[i].Sub(ts[i-1]) > 3*time.Second {
				t.Errorf("try %d came %v after the one before", i, ts[i].Sub(ts[i-1]))
			}
		}
		within(t, "last gap", ts[len(ts)-1].Sub(ts[len(ts)-2]), time.Millisecond, 200*time.Millisecond)
	})
}

func TestHeartbeatsRecover(t *testing.T) {
	for name, f := range map[string]memlock.Fault{
		"failure":    {Err: errors.New("out of order"), Times: 5},
		"lost reply": {LoseReply: backend.Unavailable(errors.New("connection reset")), Times: 5},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				var rec recorder
				le := acquire(t, locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe}), "k")
				store.Inject(memlock.OpRenew, "k", f)
				time.Sleep(25 * time.Second)
				if n := rec.count(hasp.EventRenewalFailed); n != 5 {
					t.Errorf("%d failures, want the 5 injected", n)
				}
				_, failed := rec.of(hasp.EventRenewalFailed)
				n := rec.count(hasp.EventRenewed)
				time.Sleep(time.Minute)
				// and back to the usual pace
				if got := rec.count(hasp.EventRenewed) - n; got < 5 || got > 8 {
					t.Errorf("%d heartbeats in the minute after %v, want one in 9 to 10 s", got, failed)
				}
				if err := le.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A request that vanishes, as on a connection whose other end is gone, is given
// up early enough for another.
func TestVanishedHeartbeatIsRepeatedInTime(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 10 * time.Second, 30 * time.Second, 5 * time.Minute} {
		t.Run(ttl.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				client := memlock.New().Client()
				le := acquire(t, locker(t, client, &hasp.Options{TTL: ttl}), "k")
				client.Partition(true)
				time.Sleep(ttl/3 + ttl/100)
				client.Partition(false) // what was sent by now gets no answer
				time.Sleep(5 * ttl)
				if err := le.Err(); err != nil {
					t.Errorf("lost although the store is back: %v", err)
				}
			})
		})
	}
}

func TestLeaseIsLostAtItsDeadline(t *testing.T) {
	for name, fault := range map[string]func(*memlock.Store, *memlock.Client) (heal func()){
		"partition": func(_ *memlock.Store, c *memlock.Client) func() {
			c.Partition(true)
			return func() { c.Partition(false) }
		},
		"hanging call": func(s *memlock.Store, _ *memlock.Client) func() {
			unhang := make(chan struct{})
			s.Inject(memlock.OpRenew, "", memlock.Fault{Hang: unhang, Times: -1})
			return func() { close(unhang) }
		},
		"call that ignores its context for a while": func(s *memlock.Store, _ *memlock.Client) func() {
			unhang := make(chan struct{})
			s.Inject(memlock.OpRenew, "", memlock.Fault{Hang: unhang, Times: -1})
			time.AfterFunc(28*time.Second, func() { close(unhang) })
			return func() {}
		},
	} {
		for _, batch := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, batch %v", name, batch), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					store := memlock.New()
					c := store.Client()
					var b backend.Backend = c
					if !batch {
						b = plain{c}
					}
					var rec recorder
					le := acquire(t, locker(t, b, &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe}), "k")
					ctx, start := le.Context(), time.Now()
					heal := fault(store, c)
					<-le.Done()
					if d := time.Since(start); d != 27*time.Second {
						t.Errorf("lost after %v, want 27 s", d)
					}
					mustMatch(t, le.Err(), hasp.ErrLost)
					mustMatch(t, context.Cause(ctx), hasp.ErrLost)
					time.Sleep(2 * time.Second)
					heal()
					time.Sleep(time.Minute)
					// late success changes nothing
					mustMatch(t, le.Err(), hasp.ErrLost)
					if n := rec.count(hasp.EventRenewed); n != 0 {
						t.Errorf("%d renewals after the loss", n)
					}
					if n := rec.count(hasp.EventLost); n != 1 {
						t.Errorf("%d loss events", n)
					}
				})
			})
		}
	}
}

func TestDefiniteLossIsLostAtOnce(t *testing.T) {
	t.Run("found by a heartbeat", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			le := acquire(t, locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second}), "k")
			start := time.Now()
			store.Forget("k")
			<-le.Done()
			within(t, "lost after", time.Since(start), 9*time.Second, 10*time.Second)
			mustMatch(t, le.Err(), hasp.ErrLost)
		})
	})
	t.Run("told by the store", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			store := memlock.New()
			l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second})
			le, other := acquire(t, l, "k"), acquire(t, l, "other")
			start := time.Now()
			if err := store.Client().Break(t.Context(), "k", le.Token()); err != nil {
				t.Fatal(err)
			}
			<-le.Done()
			if d := time.Since(start); d != 0 {
				t.Errorf("lost after %v", d)
			}
			mustMatch(t, le.Err(), hasp.ErrLost)
			if err := other.Err(); err != nil {
				t.Errorf("another lease: %v", err)
			}
		})
	})
}

func TestWithoutHeartbeatsALeaseLivesItsTTL(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		le := acquire(t, locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, NoHeartbeat: true}), "k")
		start := time.Now()
		<-le.Done()
		if d := time.Since(start); d != 27*time.Second {
			t.Errorf("lost after %v", d)
		}
		if n := store.Count(memlock.OpRenew); n != 0 {
			t.Errorf("%d heartbeats", n)
		}
	})
}

// Renewals that hang hold up only their own leases, however many they are.
func TestHangingRenewalsDoNotDelayOthers(t *testing.T) {
	for _, hanging := range []int{1, 63, 64, 65, 300} {
		t.Run(fmt.Sprint(hanging), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				unhang := make(chan struct{})
				var rec recorder
				l := locker(t, plain{store.Client()}, &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe})
				stuck := make([]*hasp.Lease, hanging)
				for i := range stuck {
					key := fmt.Sprintf("stuck %d", i)
					store.Inject(memlock.OpRenew, key, memlock.Fault{Hang: unhang, Times: -1})
					stuck[i] = acquire(t, l, key)
				}
				good := make([]*hasp.Lease, 50)
				for i := range good {
					good[i] = acquire(t, l, fmt.Sprintf("good %d", i))
				}
				time.Sleep(5 * time.Minute)
				for _, le := range stuck {
					mustMatch(t, le.Err(), hasp.ErrLost)
				}
				for _, le := range good {
					if err := le.Err(); err != nil {
						t.Fatalf("%s: %v", le.Key(), err)
					}
				}
				es, _ := rec.of(hasp.EventRenewed)
				for _, e := range es {
					if e.Margin < 10*time.Second {
						t.Fatalf("%s was renewed with %v left, of 17 s", e.Key, e.Margin)
					}
				}
				close(unhang)
			})
		})
	}
}

// Also when nothing else is due that would set the queue going again.
func TestHangingRenewalsDoNotDelayTheOnlyOther(t *testing.T) {
	for _, hanging := range []int{64, 65, 300} {
		t.Run(fmt.Sprint(hanging), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				unhang := make(chan struct{})
				l := locker(t, plain{store.Client()}, &hasp.Options{TTL: 30 * time.Second})
				for i := range hanging {
					key := fmt.Sprintf("stuck %d", i)
					store.Inject(memlock.OpRenew, key, memlock.Fault{Hang: unhang, Times: -1})
					acquire(t, l, key)
				}
				time.Sleep(500 * time.Millisecond)
				good := acquire(t, l, "good")
				time.Sleep(5 * time.Minute)
				if err := good.Err(); err != nil {
					t.Error(err)
				}
				close(unhang)
			})
		})
	}
}

// batches counts requests and how many leases they renew.
func batches(c *memlock.Client) (b *batchStub, requests func() []int) {
	var mu sync.Mutex
	var sizes []int
	b = &batchStub{stub{Backend: c}, func(ctx context.Context, gs []backend.Grant) []backend.Renewal {
		mu.Lock()
		sizes = append(sizes, len(gs))
		mu.Unlock()
		return c.RenewAll(ctx, gs)
	}}
	return b, func() []int {
		mu.Lock()
		defer mu.Unlock()
		return append([]int(nil), sizes...)
	}
}

func TestManyLeasesRenewInFewRequests(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		b, requests := batches(store.Client())
		l := locker(t, b, &hasp.Options{TTL: 30 * time.Second})
		leases := make([]*hasp.Lease, 2000)
		for i := range leases {
			leases[i] = acquire(t, l, fmt.Sprintf("key %d", i))
		}
		time.Sleep(100 * time.Second)
		sizes := requests()
		total := 0
		for _, n := range sizes {
			total += n
			if n > 512 {
				t.Errorf("a batch of %d", n)
			}
		}
		// 10 to 12 rounds of 2000; what is due within a fiftieth of a round goes together
		if total < 20_000 || total > 24_000 || len(sizes) > 12*50 {
			t.Errorf("%d renewals in %d requests", total, len(sizes))
		}
		for _, le := range leases {
			if err := le.Err(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A lease that is nearly lost must not take the others of its batch with it.
func TestLeaseThatIsNearlyLostDoesNotFailItsBatch(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		b := &batchStub{stub{Backend: c}, func(ctx context.Context, gs []backend.Grant) []backend.Renewal {
			latency := time.NewTimer(2 * time.Second)
			defer latency.Stop()
			rs := make([]backend.Renewal, len(gs))
			select {
			case <-latency.C:
				rs = c.RenewAll(ctx, gs)
			case <-ctx.Done():
				for i := range rs {
					rs[i].Err = backend.Unavailable(ctx.Err())
				}
			}
			for i, g := range gs {
				if strings.HasPrefix(g.Key, "doomed") {
					rs[i].Err = errors.New("out of order")
				}
			}
			return rs
		}}
		var rec recorder
		l := locker(t, b, &hasp.Options{TTL: time.Minute, Observer: rec.observe})
		for i := range 300 {
			acquire(t, l, fmt.Sprintf("good %d", i))
			if i%10 == 0 {
				acquire(t, l, fmt.Sprintf("doomed %d", i))
			}
			time.Sleep(70 * time.Millisecond)
		}
		time.Sleep(5 * time.Minute)
		es, _ := rec.of(hasp.EventRenewalFailed, hasp.EventLost)
		for _, e := range es {
			if strings.HasPrefix(e.Key, "good") {
				t.Fatalf("%+v", e)
			}
		}
		if n := rec.count(hasp.EventLost); n != 30 {
			t.Errorf("%d doomed leases are lost, want 30", n)
		}
	})
}

func TestBatchWithTooFewAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		b := &batchStub{stub{Backend: c}, func(ctx context.Context, gs []backend.Grant) []backend.Renewal {
			return c.RenewAll(ctx, gs)[:len(gs)-1]
		}}
		var rec recorder
		l := locker(t, b, &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe})
		le := acquire(t, l, "k")
		start := time.Now()
		<-le.Done() // alone in its batches, so never answered
		if d := time.Since(start); d != 27*time.Second {
			t.Errorf("lost after %v, want 27 s: no answer is an unknown outcome", d)
		}
		es, _ := rec.of(hasp.EventRenewalFailed)
		if len(es) == 0 || !strings.Contains(es[0].Err.Error(), "no answer for this lease") {
			t.Errorf("events %v", es)
		}
		mustMatch(t, es[0].Err, hasp.ErrUnavailable)
	})
}

// Leases that are lost, released and acquired while heartbeats are under way keep
// the scheduler's heap whole.
func TestLeasesComeAndGoDuringHeartbeats(t *testing.T) {
	for _, batch := range []bool{true, false} {
		t.Run(fmt.Sprintf("batch %v", batch), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				store.Inject(memlock.OpRenew, "", memlock.Fault{Delay: 40 * time.Millisecond, Times: -1})
				var b backend.Backend = store.Client()
				if !batch {
					b = plain{b}
				}
				l := locker(t, b, &hasp.Options{TTL: 3 * time.Second, RequestTimeout: time.Minute})
				var wg sync.WaitGroup
				for g := range 20 {
					wg.Go(func() {
						for round := range 30 {
							le, err := l.Acquire(context.Background(), fmt.Sprintf("key %d", g))
							if err != nil {
								t.Error(err)
								return
							}
							time.Sleep(time.Duration((g*37+round*211)%4000) * time.Millisecond)
							switch (g + round) % 5 {
							case 0:
								store.Forget(le.Key())
								<-le.Done()
							case 1:
								store.Forget(le.Key())
								_ = le.Release(context.Background())
							default:
								if err := le.Release(context.Background()); err != nil {
									t.Error(err)
								}
							}
						}
					})
				}
				wg.Wait()
				synctest.Wait()
				le := acquire(t, l, "last")
				time.Sleep(time.Minute)
				if err := le.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
