//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp"
)

// acquirers is how many goroutines take the leases that are then held.
const acquirers = 128

// holding is what a number of held leases cost.
type holding struct {
	Kind       string
	Asked      int
	Leases     int // that were acquired
	Lost       int
	Goroutines int
	Bytes      float64       // of heap and stacks, per lease
	CPU        float64       // of one core
	Renewals   float64       // a second
	Requests   float64       // to the server, a second
	Commands   float64       // and with those inside scripts
	Window     time.Duration // watched for
	Acquired   time.Duration // the last of them took
}

// heldLeases has one process for each backend, all at once: what is looked at is
// processor time, and they leave most of it.
func heldLeases(ctx context.Context, l *lab, r *report) error {
	dir, err := l.folder(l.dir, "leases")
	if err != nil {
		return err
	}
	addrs := []struct {
		kind, addr string
		ns         sizes
	}{
		{haspMemory, "", l.leases}, {haspRedis, l.redis, l.leases},
		{haspEtcd, l.etcd, l.leases}, {haspDir, dir, l.efsLeases},
	}
	results := make([][]holding, len(addrs))
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() {
			results[i], errs[i] = watchLeases(ctx, task{Role: "leases", Kind: a.kind, Addr: a.addr, Sizes: a.ns,
				Window: l.leaseWindow, Last: l.largestWindow, Fill: l.fill})
		})
	}
	wg.Wait()
	for _, hs := range results {
		r.holdings = append(r.holdings, hs...)
	}
	return errors.Join(errs...)
}

func watchLeases(ctx context.Context, t task) (_ []holding, err error) {
	p, err := startChild(t)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := p.end(); err == nil {
			err = cerr
		}
	}()
	var hs []holding
	for range t.Sizes {
		var h holding
		if err := p.expect(ctx, "held", &h); err != nil {
			return hs, err
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// holdLeases is such a process. It ends without releasing: the servers go with it.
func holdLeases(t task) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	orders(cancel)
	b, _, err := openBackend(t.Kind, t.Addr)
	if err != nil {
		return err
	}
	var renewed, lost atomic.Int64
	opts := options()
	opts.Observer = func(e hasp.Event) {
		switch e.Kind {
		case hasp.EventRenewed:
			renewed.Add(1)
		case hasp.EventLost:
			lost.Add(1)
		}
	}
	l := hasp.New(b, opts)
	// One lease, taken and released, makes what all of them share.
	le, err := l.Acquire(ctx, "first")
	if err == nil {
		err = le.Release(ctx)
	}
	if err != nil {
		return err
	}
	count, stop := t.counter()
	defer stop()
	leases := make([]*hasp.Lease, t.Sizes[len(t.Sizes)-1])
	empty := memory()
	for i, have := 0, 0; i < len(t.Sizes); i++ {
		h := holding{Kind: t.Kind, Asked: t.Sizes[i], Window: t.Window}
		if i == len(t.Sizes)-1 {
			h.Window = t.Last
		}
		start := time.Now()
		if h.Leases, err = takeLeases(ctx, l, leases, have, h.Asked, t.Fill); err != nil {
			return err
		}
		have = h.Leases
		h.Acquired = time.Since(start)
		h.Bytes = (memory() - empty) / float64(h.Leases)
		h.Goroutines = runtime.NumGoroutine()
		if err := h.watch(ctx, count, &renewed); err != nil {
			return err
		}
		h.Lost = int(lost.Load())
		if err := say("held", h); err != nil {
			return err
		}
	}
	runtime.KeepAlive(leases)
	return nil
}

func (h *holding) watch(ctx context.Context, count func(context.Context) (redisCount, error), renewed *atomic.Int64) error {
	before, err := count(ctx)
	if err != nil {
		return err
	}
	cpu, err := cpuTime()
	if err != nil {
		return err
	}
	start, beats := time.Now(), renewed.Load()
	select {
	case <-time.After(h.Window):
	case <-ctx.Done():
		return ctx.Err()
	}
	took := time.Since(start).Seconds()
	cpuAfter, err := cpuTime()
	if err != nil {
		return err
	}
	h.CPU = (cpuAfter - cpu).Seconds() / took
	h.Renewals = float64(renewed.Load()-beats) / took
	after, err := count(ctx)
	if err != nil {
		return err
	}
	used := after.minus(before)
	h.Requests, h.Commands = used.requests/took, used.commands/took
	return nil
}

// takeLeases fills leases from one number to another, for so long at most, and
// returns how far it came.
func takeLeases(ctx context.Context, l hasp.Locker, leases []*hasp.Lease, from, to int, limit time.Duration) (int, error) {
	end := time.Now().Add(limit)
	var next atomic.Int64
	next.Store(int64(from))
	errs := make([]error, acquirers)
	var wg sync.WaitGroup
	for w := range acquirers {
		wg.Go(func() {
			for time.Now().Before(end) {
				i := int(next.Add(1)) - 1
				if i >= to {
					return
				}
				if leases[i], errs[w] = l.Acquire(ctx, fmt.Sprintf("leases/%02d/job-%06d", i%100, i)); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return min(int(next.Load()), to), errors.Join(errs...)
}

// memory is what the heap and the goroutines' stacks hold after a collection.
func memory() float64 {
	runtime.GC()
	runtime.GC() // what the first one moved to the pools' second row
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// counter counts what the backend's server has done; there may be none.
func (t task) counter() (count func(context.Context) (redisCount, error), stop func()) {
	switch t.Kind {
	case haspRedis, haspEtcd:
		l := lab{redis: t.Addr, etcd: t.Addr}
		return l.counter(t.Kind)
	}
	return func(context.Context) (redisCount, error) { return redisCount{}, nil }, func() {}
}
