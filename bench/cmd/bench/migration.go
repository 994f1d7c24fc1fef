//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// migrationCost is what the phases of a migration cost beside its two stores by themselves.
type migrationCost struct {
	place string
	locks group // acquire + release
	renew group
}

const (
	phaseOld  = "phase old"
	phaseBoth = "phase both"
	phaseNew  = "phase new"
)

// migration measures a directory, Redis, and migrations from the one to the other, each
// of which stands at a stage that admits the phase which is measured.
func migration(ctx context.Context, l *lab, r *report) (err error) {
	parent := l.dir
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		parent = "/dev/shm"
	}
	root, err := l.folder(parent, "migrate")
	if err != nil {
		return err
	}
	resume, err := l.alone(l.redis)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resume()) }()
	var stops []func() error
	defer func() {
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
	}()
	open := func(kind string) (backend.Backend, error) {
		dir := filepath.Join(root, url.PathEscape(kind))
		old, fresh := "efs://"+(&url.URL{Path: dir}).EscapedPath()+"?create=true", "redis://"+l.redis+"?prefix="+url.QueryEscape(strings.ReplaceAll(kind, " ", "-")+":")
		switch kind {
		case haspDir:
			return backend.Open(ctx, old)
		case haspRedis:
			return backend.Open(ctx, fresh)
		}
		if err := begin(ctx, migrate.URL("bench", "", old, fresh), kind); err != nil {
			return nil, err
		}
		phase := map[string]migrate.Phase{phaseOld: migrate.PhaseOld, phaseBoth: migrate.PhaseBoth, phaseNew: migrate.PhaseNew}[kind]
		return backend.Open(ctx, migrate.URL("bench", phase, old, fresh))
	}
	m := migrationCost{place: "from a directory on " + fileSystem(root) + " to Redis"}
	m.locks = group{kinds: []string{haspDir, haspRedis, phaseOld, phaseBoth, phaseNew}, samples: make([]sample, 5), ops: 30}
	m.renew = group{kinds: []string{haspDir, haspRedis, phaseBoth}, samples: make([]sample, 3), ops: 30}
	var locks, renewals []func(context.Context) error
	for _, kind := range m.locks.kinds {
		b, err := open(kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		locker := hasp.New(b, options())
		stops = append(stops, locker.Close)
		locks = append(locks, func(ctx context.Context) error {
			lease, err := locker.Acquire(ctx, "lock")
			if err != nil {
				return err
			}
			return lease.Release(ctx)
		})
		if !slices.Contains(m.renew.kinds, kind) {
			continue
		}
		g, err := b.Acquire(ctx, "renewed", backend.Claim{ID: "bench", Holder: backend.Holder{Owner: "bench", Host: "here", PID: 1}, TTL: ttl})
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		renewals = append(renewals, func(ctx context.Context) (err error) {
			g, err = b.Renew(ctx, g)
			return err
		})
	}
	plain, cancel := context.WithCancel(context.Background()) // as in race
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if err := m.locks.run(plain, locks, l.batches); err != nil {
		return err
	}
	if err := m.renew.run(plain, renewals, l.batches); err != nil {
		return err
	}
	r.migration = &m
	return nil
}

// begin takes a migration to a stage that admits the phase.
func begin(ctx context.Context, operator, phase string) (err error) {
	b, err := backend.Open(ctx, operator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	m := b.(*migrate.Backend)
	if _, err := m.Start(ctx, nil); err != nil {
		return err
	}
	for range map[string]int{phaseOld: 0, phaseBoth: 2, phaseNew: 4}[phase] {
		if _, err := m.Advance(ctx, &migrate.StepOptions{LegacyGone: true}); err != nil {
			return err
		}
	}
	return nil
}

// ratios are those that have a bar, each of figures of the same round.
func (m *migrationCost) ratios() []migrationRatio {
	dir, redis := m.locks.of(haspDir), m.locks.of(haspRedis)
	sum := make(sample, len(dir))
	for i := range dir {
		sum[i] = dir[i] + redis[i]
	}
	slower := make(sample, len(m.renew.of(haspDir)))
	for i := range slower {
		slower[i] = max(m.renew.of(haspDir)[i], m.renew.of(haspRedis)[i])
	}
	return []migrationRatio{
		{"phase both, acquire + release", "the two stores' together", m.locks.of(phaseBoth).over(sum), 1.3},
		{"phase old, acquire + release", haspDir, m.locks.of(phaseOld).over(dir), 1.5},
		{"phase new, acquire + release", haspRedis, m.locks.of(phaseNew).over(redis), 1.5},
		{"phase both, renewal", "the slower store's", m.renew.of(phaseBoth).over(slower), 1.1},
	}
}

type migrationRatio struct {
	what, theirs string
	q            sample
	limit        float64
}

func (r *report) writeMigration() {
	m := r.migration
	r.say("## A migration\n\nA fleet that moves %s, with its directory guard. Acquire and release through a Locker, renewals at the backend. Each phase has a migration of its own, at a stage that admits it.\n",
		m.place)
	var rows [][]string
	for _, x := range []struct {
		what string
		g    group
	}{{"acquire + release", m.locks}, {"renewal", m.renew}} {
		for i, kind := range x.g.kinds {
			s := x.g.samples[i]
			rows = append(rows, []string{x.what, kind, seconds(s.median()), seconds(s.quantile(.1)) + " to " + seconds(s.quantile(.9)), fmt.Sprintf("%d × %d", len(s), x.g.ops)})
		}
	}
	r.table("what|where|median|10th to 90th percentile|batches × operations", rows)
	rows = nil
	for _, x := range m.ratios() {
		rows = append(rows, []string{x.what + " / " + x.theirs, figures(x.q.median()), figures(x.q.quantile(.1)) + " to " + figures(x.q.quantile(.9))})
	}
	r.table("ratio|median|10th to 90th percentile", rows)
}
