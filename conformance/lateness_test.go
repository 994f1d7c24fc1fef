package conformance_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/memlock"
)

// late frees what is stale only some time after its TTL.
type late struct {
	backend.Backend
	by time.Duration
}

func (l late) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	claimed := c.TTL
	c.TTL += l.by
	g, err := l.Backend.Acquire(ctx, key, c)
	g.TTL = claimed
	var h *backend.HeldError
	if errors.As(err, &h) {
		return g, backend.RefusedBy(l.shown(h.Record))
	}
	return g, err
}

func (l late) Inspect(ctx context.Context, key string) (backend.Record, error) {
	r, err := l.Backend.Inspect(ctx, key)
	return l.shown(r), err
}

func (l late) shown(r backend.Record) backend.Record {
	if r.State == backend.Held || r.State == backend.Stale {
		r.TTL = max(1, r.TTL-l.by)
		r.Remaining = max(0, r.Remaining-l.by)
	}
	return r
}

// coarse shows what is left in whole steps, rounded up.
type coarse struct {
	backend.Backend
	step time.Duration
}

func (c coarse) Inspect(ctx context.Context, key string) (backend.Record, error) {
	r, err := c.Backend.Inspect(ctx, key)
	if r.Remaining > 0 {
		r.Remaining = (r.Remaining + c.step - 1).Truncate(c.step)
	}
	return r, err
}

// tardy is a store that stands still once, when a lock is released, until its TTL is over.
type tardy struct {
	backend.Backend
	once *atomic.Bool
}

func (t tardy) Release(ctx context.Context, g backend.Grant) error {
	r, err := t.Inspect(ctx, g.Key)
	if err != nil || r.State != backend.Held || r.ID != g.ID || r.TTL > 10*time.Second || t.once.Swap(true) {
		return t.Backend.Release(ctx, g)
	}
	select {
	case <-ctx.Done():
		return backend.Unavailable(ctx.Err())
	case <-time.After(r.Remaining + 10*time.Millisecond):
	}
	return backend.ErrLost
}

// A store may be late by its Slack, and may stand still: no rule takes that for a fault.
func TestLateStore(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule  string
		slack time.Duration
		of    func(backend.Backend) backend.Backend
	}{
		{"wait-takeover", 1300 * time.Millisecond, func(b backend.Backend) backend.Backend { return late{b, 1100 * time.Millisecond} }},
		{"inspect-remaining", 3 * time.Second, func(b backend.Backend) backend.Backend { return coarse{b, 3 * time.Second} }},
		{"history-clients", time.Second, nil},
		{"renew-batch", time.Second, nil},
		{"renew-atomic", time.Second, nil},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			store, once := memlock.New(), &atomic.Bool{}
			of := test.of
			if of == nil {
				of = func(b backend.Backend) backend.Backend { return batching{tardy{b, once}} }
			}
			cfg := conformance.Config{
				Name: "late", MinTTL: 500 * time.Millisecond, Slack: test.slack, Lacks: map[string]string{},
				Open: func(context.Context) (backend.Backend, error) { return of(store.Client()), nil },
			}
			for _, r := range conformance.Rules() {
				if r.ID != test.rule {
					cfg.Lacks[r.ID] = "not what is tested"
				}
			}
			rep, err := conformance.Check(t.Context(), cfg)
			if err != nil || rep.Count(conformance.Passed) != 1 {
				t.Errorf("%s, %v", rep.Summary(), err)
			}
			if test.of == nil && test.rule != "renew-batch" && !once.Load() {
				t.Error("the store never stood still")
			}
		})
	}
}

// batching renews a batch one by one.
type batching struct{ backend.Backend }

func (b batching) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	rs := make([]backend.Renewal, len(gs))
	for i, g := range gs {
		rs[i].Grant, rs[i].Err = b.Renew(ctx, g)
	}
	return rs
}
