package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

const (
	tryRounds = 5
	tryTTL    = 30 * time.Second
	// slowVerbs is what an acquire and release, or a heartbeat, may take before it is told.
	slowVerbs = 500 * time.Millisecond
)

// trial is a few rounds of every verb on a key that nobody else uses.
type trial struct {
	b     backend.Backend
	key   string
	claim backend.Claim // of the holder; empty if none was made
	times map[string][]time.Duration
	token uint64
}

// tryVerbs does what a holder, one who is refused and an operator do, and measures it.
// What is left when ctx ends in the middle is released all the same.
func tryVerbs(ctx context.Context, b backend.Backend, remove func(context.Context) error, yield backend.Finder) (err error) {
	t := &trial{b: b, key: "hasp-doctor-" + strings.ToLower(rand.Text()), times: map[string][]time.Duration{}}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if t.claim.ID != "" {
			// It may hold nothing.
			_ = b.Release(cctx, backend.Grant{Key: t.key, ID: t.claim.ID})
		}
		if rerr := remove(cctx); rerr != nil {
			err = errors.Join(err, fmt.Errorf("what was tried could not be taken away: %w", rerr))
		}
	}()
	for range tryRounds {
		if f := t.round(ctx); f != nil {
			if ctx.Err() == nil {
				yield(*f)
			}
			return nil
		}
	}
	yield(backend.Finding{ID: "exclusion", Level: backend.LevelOK, Seen: fmt.Sprintf("%d holders in turn; a second claim was refused each time and told who holds, and tokens rise", tryRounds)})
	t.list(ctx, yield)
	t.speed(yield)
	return nil
}

// round returns what went wrong, or nil.
func (t *trial) round(ctx context.Context) *backend.Finding {
	wrong := func(what string, err error) *backend.Finding {
		seen := what
		if err != nil {
			seen += ": " + backend.Text(err)
		}
		return &backend.Finding{ID: "exclusion", Level: backend.LevelProblem, Seen: seen, Advice: "hasp verify tries every rule, and names those that are broken"}
	}
	t.claim = newTrialClaim()
	var g backend.Grant
	err := t.timed(ctx, "acquire", func(ctx context.Context) (err error) { g, err = t.b.Acquire(ctx, t.key, t.claim); return err })
	if err != nil {
		return wrong("acquire failed", err)
	}
	if g.Token <= t.token {
		return wrong(fmt.Sprintf("token %d was granted after %d", g.Token, t.token), nil)
	}
	t.token = g.Token
	err = t.timed(ctx, "refused acquire", func(ctx context.Context) error {
		other := newTrialClaim()
		o, err := t.b.Acquire(ctx, t.key, other)
		if err == nil {
			_ = t.b.Release(ctx, o)
		}
		return err
	})
	var held *backend.HeldError
	switch {
	case err == nil:
		return wrong("two claims were granted one key at once", nil)
	case !errors.As(err, &held):
		return wrong("a second claim was refused in another way than as held", err)
	}
	err = t.timed(ctx, "renew", func(ctx context.Context) error {
		renewed, err := t.b.Renew(ctx, g)
		if err == nil {
			g = renewed
		}
		return err
	})
	if err != nil {
		return wrong("renew failed", err)
	}
	var rec backend.Record
	err = t.timed(ctx, "inspect", func(ctx context.Context) (err error) { rec, err = t.b.Inspect(ctx, t.key); return err })
	if err != nil || rec.State != backend.Held || rec.Token != g.Token {
		return wrong(fmt.Sprintf("held with token %d, it is shown as %s", g.Token, rec), err)
	}
	if err = t.timed(ctx, "release", func(ctx context.Context) error { return t.b.Release(ctx, g) }); err != nil {
		return wrong("release failed", err)
	}
	if rec, err = t.b.Inspect(ctx, t.key); err != nil || rec.State == backend.Held {
		return wrong(fmt.Sprintf("released, it is shown as %s", rec), err)
	}
	t.claim = backend.Claim{}
	return nil
}

func (t *trial) list(ctx context.Context, yield backend.Finder) {
	var recs []backend.Record
	err := t.timed(ctx, "list", func(ctx context.Context) (err error) { recs, err = backend.List(ctx, t.b, t.key); return err })
	switch {
	case errors.Is(err, backend.ErrUnsupported):
		delete(t.times, "list")
	case err != nil:
		delete(t.times, "list")
		yield(backend.Finding{ID: "list", Level: backend.LevelWarning, Seen: "locks cannot be listed: " + backend.Text(err), Advice: "hasp list needs this; locks do not"})
	case len(recs) > 0:
		yield(backend.Finding{ID: "list", Level: backend.LevelWarning, Seen: fmt.Sprintf("a lock that was released is listed: %s", recs[0])})
	}
}

// speed tells what each verb took.
func (t *trial) speed(yield backend.Finder) {
	var parts []string
	for _, verb := range []string{"acquire", "release", "refused acquire", "renew", "inspect", "list"} {
		if len(t.times[verb]) > 0 {
			parts = append(parts, fmt.Sprintf("%s %v", verb, backend.Round(t.median(verb).Round(time.Microsecond))))
		}
	}
	f := backend.Finding{ID: "time", Level: backend.LevelOK, Seen: fmt.Sprintf("%s (median of %d)", strings.Join(parts, ", "), tryRounds)}
	if slowest := max(t.median("acquire")+t.median("release"), t.median("renew")); slowest > slowVerbs {
		f.Level = backend.LevelWarning
		f.Advice = fmt.Sprintf("find out why the store is slow; until then use a --timeout of %v at least, so that heartbeats are in time", (60 * slowest).Round(time.Second))
	}
	yield(f)
}

func (t *trial) median(verb string) time.Duration {
	ds := slices.Sorted(slices.Values(t.times[verb]))
	if len(ds) == 0 {
		return 0
	}
	return ds[len(ds)/2]
}

func (t *trial) timed(ctx context.Context, verb string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	t.times[verb] = append(t.times[verb], time.Since(start))
	return err
}

func newTrialClaim() backend.Claim {
	host, _ := os.Hostname() // for people, as the owner
	return backend.Claim{ID: rand.Text(), TTL: tryTTL, Holder: backend.Holder{Owner: "hasp doctor", Host: host, PID: os.Getpid()}}
}
