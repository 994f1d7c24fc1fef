//go:build unix

package conformance

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// selective has the methods of all that memlock can do, as a backend that is made of
// others has, and says of some of them that they do nothing.
type selective struct {
	*memlock.Client
	lacks []backend.Capability
}

func (s selective) Has(c backend.Capability) bool {
	return !slices.Contains(s.lacks, c) && backend.Has(s.Client, c)
}

func (s selective) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	if !s.Has(backend.CapWatch) {
		return nil, nil, backend.ErrUnsupported
	}
	return s.Client.Watch(ctx, key, c)
}

func (s selective) Break(ctx context.Context, key string, token uint64) error {
	if !s.Has(backend.CapBreak) {
		return backend.ErrUnsupported
	}
	return s.Client.Break(ctx, key, token)
}

func (s selective) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	if !s.Has(backend.CapList) {
		return nil, backend.ErrUnsupported
	}
	return s.Client.List(ctx, prefix)
}

func (s selective) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	if s.Has(backend.CapBatchRenew) {
		return s.Client.RenewAll(ctx, gs)
	}
	rs := make([]backend.Renewal, len(gs))
	for i, g := range gs {
		rs[i] = backend.Renewal{Grant: g, Err: backend.ErrUnsupported}
	}
	return rs
}

func (s selective) OnLoss(f func(key, id string)) func() {
	if !s.Has(backend.CapLossNotify) {
		return nil
	}
	return s.Client.OnLoss(f)
}

func (s selective) RaiseToken(ctx context.Context, key string, floor uint64) error {
	if !s.Has(backend.CapRaiseToken) {
		return backend.ErrUnsupported
	}
	return s.Client.RaiseToken(ctx, key, floor)
}

// A backend that has the methods and says that they do nothing is right, whichever they are.
func TestSelective(t *testing.T) {
	has := backend.Capabilities(memlock.New().Client())
	sets := [][]backend.Capability{has}
	for _, c := range has {
		sets = append(sets, []backend.Capability{c})
	}
	base := labConfig(newLab("", ""))
	var wg sync.WaitGroup
	for _, lacks := range sets {
		wg.Go(func() {
			store := memlock.New()
			cfg := Config{
				Name: "selective", MinTTL: base.MinTTL, Slack: base.Slack, brief: true, Lacks: maps.Clone(base.Lacks),
				Open: func(context.Context) (backend.Backend, error) { return selective{store.Client(), lacks}, nil },
				Wipe: func(context.Context) error { store.Wipe(); return nil },
				Partition: func(_ context.Context, b backend.Backend) (func() error, error) {
					c := b.(selective).Client
					c.Partition(true)
					return func() error { c.Partition(false); return nil }, nil
				},
			}
			for _, c := range AllCapabilities {
				if !slices.Contains(has, c) || slices.Contains(lacks, c) {
					cfg.Lacks[string(c)] = "it says that it does nothing"
				}
			}
			begun := time.Now()
			if _, err := Check(t.Context(), cfg); err != nil {
				t.Errorf("without %v: %v", lacks, err)
			}
			t.Logf("without %v: %v", lacks, backend.Round(time.Since(begun)))
		})
	}
	wg.Wait()
}
