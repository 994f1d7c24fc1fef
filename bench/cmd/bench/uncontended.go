//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

// uncontended measures acquire + release of a lock that nobody else wants.
func uncontended(ctx context.Context, l *lab, r *report) error {
	disk, err := l.folder(l.dir, "disk")
	if err != nil {
		return err
	}
	places := []struct {
		title, addr string
		ops         int // in a batch
		kinds       []string
	}{
		{"Redis", l.redis, 30, []string{haspRedis, bsmName, redsyncName, rueidisName, pingName}},
		{"etcd, one node, fsync", l.etcd, 4, []string{haspEtcd, mutexName}},
		{"directory on " + fileSystem(disk), disk, 40, []string{haspBare, flockName, haspDir, legacyName}},
	}
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		memory, err := l.folder("/dev/shm", "shm")
		if err != nil {
			return err
		}
		places = append(places, places[2])
		places[3].title, places[3].addr = "directory on "+fileSystem(memory), memory
	}
	for _, pl := range places {
		resume, err := l.alone(pl.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", pl.title, err)
		}
		g, err := race(ctx, pl.addr, pl.kinds, l.batches, pl.ops)
		if err := errors.Join(err, resume()); err != nil {
			return fmt.Errorf("%s: %w", pl.title, err)
		}
		g.title = pl.title
		r.uncontended = append(r.uncontended, g)
	}
	return nil
}

// pingName is the floor on Redis: two round trips.
const pingName = "two PINGs"

// group is one comparison. samples[i][k] is the time that contestant i took for
// one acquire + release, on average over batch k.
type group struct {
	title   string
	kinds   []string
	ops     int
	samples []sample
}

func (g group) of(kind string) sample {
	for i, k := range g.kinds {
		if k == kind {
			return g.samples[i]
		}
	}
	return nil
}

// race has the contestants take turns, batch by batch.
func race(ctx context.Context, addr string, kinds []string, batches, ops int) (_ group, err error) {
	g := group{kinds: kinds, samples: make([]sample, len(kinds))}
	rounds := make([]func(context.Context) error, len(kinds))
	for i, kind := range kinds {
		if kind == pingName {
			c := newRedis(addr)
			defer c.Close()
			rounds[i] = twoPings(c)
			continue
		}
		p, err := openPeer(kind, addr, true)
		if err != nil {
			return g, fmt.Errorf("%s: %w", kind, err)
		}
		defer func() {
			if cerr := p.close(); err == nil {
				err = cerr
			}
		}()
		take, err := p.waiter(fmt.Sprintf("uncontended-%d", i))
		if err != nil {
			return g, fmt.Errorf("%s: %w", kind, err)
		}
		rounds[i] = func(ctx context.Context) error {
			let, err := take(ctx)
			if err != nil {
				return err
			}
			return let(ctx)
		}
	}
	g.ops = ops
	// The context that a program waits with can be cancelled and has no deadline, as
	// a rule. That of this run has one, which some contestants would make use of.
	plain, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	return g, g.run(plain, rounds, batches)
}

// run has them take turns, in an order that is drawn for each round: a contestant
// finds the caches, and the server's too, as the one before it left them.
func (g *group) run(ctx context.Context, rounds []func(context.Context) error, batches int) error {
	for batch := -1; batch < batches; batch++ { // the first one warms up
		for _, i := range rand.Perm(len(g.kinds)) {
			start := time.Now()
			for range g.ops {
				if err := rounds[i](ctx); err != nil {
					return fmt.Errorf("%s: %w", g.kinds[i], err)
				}
			}
			if batch >= 0 {
				g.samples[i].add(time.Since(start) / time.Duration(g.ops))
			}
		}
	}
	return nil
}

func twoPings(c *redis.Client) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := c.Ping(ctx).Err(); err != nil {
			return err
		}
		return c.Ping(ctx).Err()
	}
}
