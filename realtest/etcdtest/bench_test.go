package etcdtest_test

import (
	"context"
	"github.com/hasplock/hasp/backend"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// BenchmarkUncontended takes and releases a free lock: etcdlock beside
// concurrency.Mutex with a session that all rounds share. The two take turns, so
// that what else the machine does meets both.
func BenchmarkUncontended(b *testing.B) {
	srv := etcdtest.Start(b, &etcdtest.Options{Fsync: true})
	ctx := context.Background()
	hasp := newBackend(b, srv.Client())
	defer hasp.OnLoss(func(key, id string) {})()
	session, err := concurrency.NewSession(srv.Client(), concurrency.WithTTL(30))
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close()
	var ours, theirs []time.Duration
	for b.Loop() {
		start := time.Now()
		g, err := hasp.Acquire(ctx, "k", claim(30*time.Second))
		if err != nil {
			b.Fatal(err)
		}
		if err := hasp.Release(ctx, g); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(start))

		start = time.Now()
		m := concurrency.NewMutex(session, "mutex/k")
		if err := m.Lock(ctx); err != nil {
			b.Fatal(err)
		}
		if err := m.Unlock(ctx); err != nil {
			b.Fatal(err)
		}
		theirs = append(theirs, time.Since(start))
	}
	compare(b, ours, theirs)
}

// BenchmarkHandoff measures from the call of Release to the return of a waiting
// client's Acquire.
func BenchmarkHandoff(b *testing.B) {
	srv := etcdtest.Start(b, &etcdtest.Options{Fsync: true})
	ctx := context.Background()
	backends := []*etcdlock.Backend{newBackend(b, srv.Client()), newBackend(b, srv.Client())}
	var sessions []*concurrency.Session
	for range 2 {
		s, err := concurrency.NewSession(srv.Client(), concurrency.WithTTL(30))
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		sessions = append(sessions, s)
	}
	// long enough for both kinds of waiter to watch, and for the server to have
	// brought their watches up to date, which it does ten times a second
	const settle = 250 * time.Millisecond
	var ours, theirs []time.Duration
	for b.Loop() {
		g, err := backends[0].Acquire(ctx, "k", claim(30*time.Second))
		if err != nil {
			b.Fatal(err)
		}
		got := make(chan time.Time)
		go func() {
			g, err := acquireWaiting(ctx, backends[1], "k", claim(30*time.Second), never)
			got <- time.Now()
			if err == nil {
				err = backends[1].Release(ctx, g)
			}
			if err != nil {
				b.Error(err)
			}
			close(got)
		}()
		time.Sleep(settle)
		start := time.Now()
		if err := backends[0].Release(ctx, g); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, (<-got).Sub(start))
		<-got

		m := concurrency.NewMutex(sessions[0], "mutex/k")
		if err := m.Lock(ctx); err != nil {
			b.Fatal(err)
		}
		got = make(chan time.Time)
		go func() {
			m := concurrency.NewMutex(sessions[1], "mutex/k")
			err := m.Lock(ctx)
			got <- time.Now()
			if err == nil {
				err = m.Unlock(ctx)
			}
			if err != nil {
				b.Error(err)
			}
			close(got)
		}()
		time.Sleep(settle)
		start = time.Now()
		if err := m.Unlock(ctx); err != nil {
			b.Fatal(err)
		}
		theirs = append(theirs, (<-got).Sub(start))
		<-got
	}
	compare(b, ours, theirs)
}

func compare(b *testing.B, ours, theirs []time.Duration) {
	median := func(ds []time.Duration) float64 {
		slices.Sort(ds)
		return float64(ds[len(ds)/2].Microseconds())
	}
	o, t := median(ours), median(theirs)
	b.ReportMetric(0, "ns/op") // both together: means nothing
	b.ReportMetric(o, "hasp-µs")
	b.ReportMetric(t, "mutex-µs")
	b.ReportMetric(o/t, "ratio")
}

// BenchmarkHeld holds many locks in one process and renews them all, as is due
// three times in a TTL of 30 s. It reports what they cost this process.
func BenchmarkHeld(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			srv := etcdtest.Start(b, nil)
			ctx := context.Background()
			hasp := newBackend(b, srv.Client())
			defer hasp.OnLoss(func(key, id string) { b.Errorf("lost %q", key) })()
			mustRelease(b, hasp, mustAcquire(b, hasp, "first", claim(time.Minute)))
			gs := make([]backend.Grant, n)
			memory := func() uint64 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc + m.StackInuse
			}
			goroutines, before := runtime.NumGoroutine(), memory()
			var wg sync.WaitGroup
			next := atomic.Int64{}
			for range 32 {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
						g, err := hasp.Acquire(ctx, "lock-"+strconv.FormatInt(i, 10), claim(2*time.Minute))
						if err != nil {
							b.Error(err)
							return
						}
						gs[i] = g
					}
				})
			}
			wg.Wait()
			time.Sleep(time.Second) // all are watched by now
			perLock := float64(memory()-before) / float64(n)
			more := runtime.NumGoroutine() - goroutines
			cpu, rounds := cpuTime(), 0
			for b.Loop() {
				for i, r := range hasp.RenewAll(ctx, gs) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
					gs[i] = r.Grant
				}
				rounds++
			}
			cpu = (cpuTime() - cpu) / time.Duration(rounds)
			b.ReportMetric(perLock, "B/lock")
			b.ReportMetric(float64(more), "goroutines")
			b.ReportMetric(cpu.Seconds()*1000, "cpu-ms/round")
			b.ReportMetric(cpu.Seconds()/10*100, "%core-at-TTL-30s")
		})
	}
}

// cpuTime is what this process, and not the server, has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
