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
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// migrationCost is what the phases of a migration cost beside its two stores by themselves.
type migrationCost struct {
	place string
	away  time.Duration // how much longer than here a round trip takes
	old   string        // kinds of contestants: its stores by themselves
	fresh string
	locks group // acquire + release
	renew group
}

// awayBy are how far away the stores of the other migrations are: a round trip within a
// region, to another zone; and about what EFS takes, whose documentation promises 1.6 to
// 2.7 ms for a write and 0.25 ms for a read, at best.
var awayBy = []time.Duration{time.Millisecond, 2 * time.Millisecond}

const (
	phaseOld  = "phase old"
	phaseBoth = "phase both"
	phaseNew  = "phase new"
	nearRedis = "hasp, Redis over the link"
	farRedis  = "hasp, another Redis over the link"
)

// migration measures two stores, and migrations from the one to the other, each of which
// stands at a stage that admits the phase which is measured: once where a request takes
// what computing takes, and once where it takes a while.
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
	inRedis := func(addr, kind, part string) string {
		return "redis://" + addr + "?prefix=" + url.QueryEscape(strings.ReplaceAll(kind+part, " ", "-")+":")
	}
	near := &migrationCost{place: "from a directory on " + fileSystem(root) + " to Redis, both on this host", old: haspDir, fresh: haspRedis}
	if err := near.measure(ctx, l, func(kind string) (old, fresh string) {
		dir := filepath.Join(root, url.PathEscape(kind))
		return "efs://" + (&url.URL{Path: dir}).EscapedPath() + "?create=true", inRedis(l.redis, kind, "")
	}, l.batches); err != nil {
		return err
	}
	r.migrations = append(r.migrations, near)
	for _, by := range awayBy {
		one, err := l.link(l.redis, by)
		if err != nil {
			return err
		}
		two, err := l.link(l.redis, by)
		if err != nil {
			return err
		}
		away := &migrationCost{place: fmt.Sprintf("from Redis to Redis, to each of which a round trip takes %v longer", by), away: by, old: nearRedis, fresh: farRedis}
		if err := away.measure(ctx, l, func(kind string) (old, fresh string) {
			return inRedis(one, kind, fmt.Sprint(" old ", by)), inRedis(two, kind, fmt.Sprint(" new ", by))
		}, max(2, l.batches/4)); err != nil {
			return err
		}
		r.migrations = append(r.migrations, away)
	}
	return nil
}

// measure runs the stores at the URLs that a kind of contestant has, and the phases.
func (m *migrationCost) measure(ctx context.Context, l *lab, urls func(kind string) (old, fresh string), batches int) (err error) {
	var stops []func() error
	defer func() {
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
	}()
	open := func(kind string) (backend.Backend, error) {
		old, fresh := urls(kind)
		switch kind {
		case m.old:
			return backend.Open(ctx, old)
		case m.fresh:
			return backend.Open(ctx, fresh)
		}
		if err := begin(ctx, migrate.URL("bench", "", old, fresh), kind); err != nil {
			return nil, err
		}
		phase := map[string]migrate.Phase{phaseOld: migrate.PhaseOld, phaseBoth: migrate.PhaseBoth, phaseNew: migrate.PhaseNew}[kind]
		return backend.Open(ctx, migrate.URL("bench", phase, old, fresh))
	}
	m.locks = group{kinds: []string{m.old, m.fresh, phaseOld, phaseBoth, phaseNew}, samples: make([]sample, 5), ops: 30}
	m.renew = group{kinds: []string{m.old, m.fresh, phaseBoth}, samples: make([]sample, 3), ops: 30}
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
		var g backend.Grant // acquired by the first: the locks above may take more than a TTL
		renewals = append(renewals, func(ctx context.Context) (err error) {
			if g.ID == "" {
				g, err = b.Acquire(ctx, "renewed", backend.Claim{ID: "bench", Holder: backend.Holder{Owner: "bench", Host: "here", PID: 1}, TTL: ttl})
				return err
			}
			g, err = b.Renew(ctx, g)
			return err
		})
	}
	plain, cancel := context.WithCancel(context.Background()) // as in race
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if err := m.locks.run(plain, locks, batches); err != nil {
		return err
	}
	return m.renew.run(plain, renewals, batches)
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
	old, fresh := m.locks.of(m.old), m.locks.of(m.fresh)
	sum := make(sample, len(old))
	for i := range old {
		sum[i] = old[i] + fresh[i]
	}
	slower := make(sample, len(m.renew.of(m.old)))
	for i := range slower {
		slower[i] = max(m.renew.of(m.old)[i], m.renew.of(m.fresh)[i])
	}
	return []migrationRatio{
		{"phase both, acquire + release", "the two stores' together", m.locks.of(phaseBoth).over(sum), 1.3},
		{"phase old, acquire + release", m.old, m.locks.of(phaseOld).over(old), 1.5},
		{"phase new, acquire + release", m.fresh, m.locks.of(phaseNew).over(fresh), 1.5},
		{"phase both, renewal", "the slower store's", m.renew.of(phaseBoth).over(slower), 1.1},
	}
}

type migrationRatio struct {
	what, theirs string
	q            sample
	limit        float64
}

func (r *report) writeMigration() {
	r.say("## A migration\n\nA fleet that moves, a directory with its directory guard. Acquire and release through a Locker, renewals at the backend. Each phase has a migration of its own, at a stage that admits it.\n")
	for _, m := range r.migrations {
		r.say("### %s\n", strings.ToUpper(m.place[:1])+m.place[1:])
		m.write(r)
	}
}

func (m *migrationCost) write(r *report) {
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
