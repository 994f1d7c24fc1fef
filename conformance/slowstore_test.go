package conformance_test

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/memlock"
)

// slow is a store that is slow to look when what is left of a holder's TTL is less than
// part of it, up to times times: it finds that the TTL has run out.
type slow struct {
	backend.Backend
	part  time.Duration // of the TTL, in percent
	times *atomic.Int64
}

func (s slow) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if err := s.dawdle(ctx, key); err != nil {
		return backend.Grant{}, err
	}
	if r, err := s.Inspect(ctx, key); err != nil || r.State == backend.Stale && r.ID == c.ID {
		// and it knows nothing any more of this holder either
		if err := cmp.Or(err, s.Backend.Release(ctx, backend.Grant{Key: key, ID: c.ID})); err != nil {
			return backend.Grant{}, err
		}
	}
	return s.Backend.Acquire(ctx, key, c)
}

// Release knows nothing any more of a holder whose TTL has run out.
func (s slow) Release(ctx context.Context, g backend.Grant) error {
	if err := s.dawdle(ctx, g.Key); err != nil {
		return err
	}
	if r, err := s.Inspect(ctx, g.Key); err != nil || r.State == backend.Stale {
		return cmp.Or(err, backend.ErrLost)
	}
	return s.Backend.Release(ctx, g)
}

func (s slow) dawdle(ctx context.Context, key string) error {
	r, err := s.Inspect(ctx, key)
	if err != nil || r.State != backend.Held || r.TTL > 10*time.Second || r.Remaining > r.TTL*s.part/100 || s.times.Add(-1) < 0 {
		return err
	}
	select {
	case <-ctx.Done():
		return backend.Unavailable(ctx.Err())
	case <-time.After(r.Remaining + 10*time.Millisecond):
	}
	return nil
}

// slower is a store that, up to times times, is about to grant a key that is in state, and
// finds then that the TTL which was asked for is over.
type slower struct {
	backend.Backend
	state backend.State
	times *atomic.Int64
}

func (s slower) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	r, err := s.Inspect(ctx, key)
	if err != nil || r.State != s.state || c.TTL > 10*time.Second || s.times.Add(-1) < 0 {
		return s.Backend.Acquire(ctx, key, c)
	}
	select {
	case <-ctx.Done():
		return backend.Grant{}, backend.Unavailable(ctx.Err())
	case <-time.After(c.TTL):
		return backend.Grant{}, backend.Unavailable(errors.New("what would be granted is over by now"))
	}
}

// What was begun within a TTL and is executed after it finds the key free, or lost. That is
// the store's slowness, or the machine's, and no rule takes it for a fault.
func TestSlowStore(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule  string
		part  time.Duration // 0: slower at free keys, -1: at stale ones
		times int64
	}{
		{"stale-untouched", 25, 1 << 30},       // a claim that came in time got the key
		{"keys-paths", 100, 1 << 30},           // a Release said that the key was lost
		{"wait-takeover", 100, 1},              // an attempt got a key that had been locked just before
		{"acquire-repeat-restarts-ttl", 60, 1}, // a repeated attempt came too late to be one
		{"grant-complete", 0, 1},               // an attempt at a free key was too slow for its own TTL
		{"renew-after-stale-successor", -1, 1}, // the same, at a stale key
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			store := memlock.New()
			times := &atomic.Int64{}
			times.Store(test.times)
			cfg := conformance.Config{
				Name: "slow",
				Open: func(context.Context) (backend.Backend, error) {
					switch test.part {
					case 0:
						return slower{store.Client(), backend.Free, times}, nil
					case -1:
						return slower{store.Client(), backend.Stale, times}, nil
					}
					return slow{store.Client(), test.part, times}, nil
				},
				MinTTL: 500 * time.Millisecond, Slack: 600 * time.Millisecond,
				Lacks: map[string]string{},
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
		})
	}
}
