package hasp_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/memlock"
)

// heapBytes is what is in use after a collection.
func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// hold acquires n leases of l.
func hold(tb testing.TB, l hasp.Locker, n int) []*hasp.Lease {
	tb.Helper()
	leases := make([]*hasp.Lease, n)
	for i := range leases {
		var err error
		if leases[i], err = l.Acquire(context.Background(), fmt.Sprintf("key %d", i)); err != nil {
			tb.Fatal(err)
		}
	}
	return leases
}

// BenchmarkHeldLeases tells what leases cost that are held and renewed. The
// store's own memory is counted apart.
func BenchmarkHeldLeases(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var goroutines, perLease float64
			for b.Loop() {
				goroutines, perLease = costOfLeases(b, n)
			}
			b.ReportMetric(goroutines, "goroutines")
			b.ReportMetric(perLease, "B/lease")
			b.ReportMetric(0, "ns/op") // mostly the wait for heartbeats
		})
	}
}

// costOfLeases holds n leases for a while and tells how many goroutines there
// are then, and how many bytes a lease takes besides what it takes in the store.
func costOfLeases(tb testing.TB, n int) (goroutines, perLease float64) {
	// what the store keeps of n leases, seen after their Locker has gone
	store, before := memlock.New(), heapBytes()
	l := hasp.New(store.Client(), nil)
	hold(tb, l, n)
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	l = nil
	stored := int64(heapBytes()) - int64(before)
	runtime.KeepAlive(store)

	store = memlock.New()
	before, running := heapBytes(), runtime.NumGoroutine()
	l = hasp.New(store.Client(), &hasp.Options{Heartbeat: 500 * time.Millisecond})
	leases := hold(tb, l, n)
	for store.Count(memlock.OpRenew) < n {
		time.Sleep(10 * time.Millisecond)
	}
	goroutines = float64(runtime.NumGoroutine() - running)
	perLease = float64(int64(heapBytes())-int64(before)-stored) / float64(n)
	for _, le := range leases {
		if err := le.Err(); err != nil {
			tb.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	return goroutines, perLease
}

func TestManyLeasesNeedFewGoroutines(t *testing.T) {
	goroutines, perLease := costOfLeases(t, 5000)
	t.Logf("%v goroutines, %.0f bytes a lease", goroutines, perLease)
	if goroutines > 20 {
		t.Errorf("%v goroutines for 5000 leases", goroutines)
	}
	if perLease > 2048 {
		t.Errorf("%.0f bytes a lease, want less than 2 KiB", perLease)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	l := hasp.New(memlock.New().Client(), nil)
	defer l.Close()
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		le, err := l.Acquire(ctx, "k")
		if err != nil {
			b.Fatal(err)
		}
		if err := le.Release(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
