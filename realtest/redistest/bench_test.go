package redistest_test

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
)

func median(ts []time.Duration) time.Duration {
	slices.Sort(ts)
	return ts[len(ts)/2]
}

// BenchmarkHandOff measures from the call of Release in one process to the return
// of Acquire in another, which the release woke, beside PINGs sent in between.
func BenchmarkHandOff(b *testing.B) {
	s := redistest.Start(b, &redistest.Options{Binary: true})
	here := open(b, s.URL())
	client := s.Client()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	there := startWorker(b, "relay", s.URL(), "k")
	there.line()
	var ts, pings []time.Duration
	for b.Loop() {
		g, err := await(ctx, here, "k", claim(time.Minute))
		if err != nil {
			b.Fatal(err)
		}
		waits := func() bool {
			r, err := here.Inspect(ctx, "k")
			return err == nil && r.Note == "1 waiting"
		}
		eventually(b, "the other process waits", waits)
		start := time.Now()
		if err := client.Ping(ctx).Err(); err != nil {
			b.Fatal(err)
		}
		pings = append(pings, time.Since(start))
		start = time.Now()
		if err := here.Release(ctx, g); err != nil {
			b.Fatal(err)
		}
		var token uint64
		var end int64
		for token <= g.Token { // it also tells of locks that it got before
			fmt.Sscan(there.line(), &token, &end)
		}
		ts = append(ts, time.Unix(0, end).Sub(start)) // two processes, one wall clock
	}
	b.ReportMetric(float64(median(ts).Nanoseconds()), "median-ns")
	b.ReportMetric(float64(median(ts))/float64(median(pings)), "round-trips")
}

// BenchmarkAcquireRelease is beside two PINGs over the same kind of connection.
func BenchmarkAcquireRelease(b *testing.B) {
	s := redistest.Start(b, &redistest.Options{Binary: true})
	l, c := open(b, s.URL()), s.Client()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var locks, pings []time.Duration
	for b.Loop() {
		start := time.Now()
		g, err := l.Acquire(ctx, "k", claim(time.Minute))
		if err == nil {
			err = l.Release(ctx, g)
		}
		if err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		c.Ping(ctx)
		c.Ping(ctx)
		locks, pings = append(locks, middle.Sub(start)), append(pings, time.Since(middle))
	}
	b.ReportMetric(float64(median(locks).Nanoseconds()), "median-ns")
	b.ReportMetric(float64(median(locks))/float64(median(pings)), "two-pings")
}

// BenchmarkRenewAll measures what a heartbeat costs this process, in CPU time.
func BenchmarkRenewAll(b *testing.B) {
	s := redistest.Start(b, &redistest.Options{Binary: true})
	l := open(b, s.URL())
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	var gs []backend.Grant
	for i := range 512 {
		gs = append(gs, acquire(b, l, fmt.Sprintf("jobs/lease-%06d", i), claim(time.Hour)))
	}
	before := cpu(b)
	n := 0
	for b.Loop() {
		for _, r := range l.RenewAll(ctx, gs) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
		n += len(gs)
	}
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(n), "cpu-ns/lease")
}

// cpu is the CPU time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
