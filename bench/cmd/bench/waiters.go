//go:build unix

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// crowdProcesses is how many processes the waiters are in.
const crowdProcesses = 8

// crowdWarmUp is how long a crowd runs before it is watched.
const crowdWarmUp = time.Second

// crowd is what was seen of a number of waiters for one lock.
type crowd struct {
	kind     string
	local    bool
	waiters  int
	grants   int
	window   time.Duration
	changes  int     // grants to another waiter than the one before
	latency  sample  // from release called to the next acquire returned
	requests float64 // to the server, per grant
	commands float64 // and with those inside scripts; 0 if not known
	jain     float64
	starved  int // waiters without a grant in the window
	longest  time.Duration
	gaveUp   int
}

// held is one waiter's time with the lock.
type held struct {
	Got, Let time.Duration // by the clock that all processes share
	Wait     time.Duration // since it asked
}

// crowdReport is what a process of a crowd has to say.
type crowdReport struct {
	Grants  [][]held        // of each waiter
	Waiting []time.Duration // since when each was still waiting at the end
	GaveUp  int
}

// waiters measures crowds.
func waiters(ctx context.Context, l *lab, r *report) error {
	run := func(kind, addr string, local bool, ns sizes) error {
		for _, n := range ns {
			c, err := watchCrowd(ctx, l, kind, addr, local, n)
			if err != nil {
				return fmt.Errorf("%d waiters of %s: %w", n, kind, err)
			}
			r.crowds = append(r.crowds, c)
		}
		return nil
	}
	return firstError(
		func() error { return run(haspRedis, l.redis, false, l.redisWaiters) },
		func() error { return run(haspRedis, l.redis, true, l.redisWaiters) },
		func() error { return run(bsmName, l.redis, false, l.pollWaiters) },
		func() error { return run(redsyncName, l.redis, false, l.pollWaiters) },
		func() error { return run(haspEtcd, l.etcd, false, l.etcdWaiters) },
		func() error { return run(mutexName, l.etcd, false, l.etcdWaiters) },
	)
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// watchCrowd runs n waiters and watches them for l.window.
func watchCrowd(ctx context.Context, l *lab, kind, addr string, local bool, n int) (c crowd, err error) {
	processes := min(n, crowdProcesses)
	c = crowd{kind: kind, local: local, waiters: n}
	key := fmt.Sprintf("crowd-%s-%d-%v", kind, n, local)
	var children []*child
	defer func() {
		for _, p := range children {
			if cerr := p.end(); err == nil {
				err = cerr
			}
		}
	}()
	for i := range processes {
		share := n / processes
		if i < n%processes {
			share++
		}
		p, err := startChild(task{Role: "crowd", Kind: kind, Addr: addr, Key: key, N: share, Local: local})
		if err != nil {
			return c, err
		}
		children = append(children, p)
	}
	each := func(word, answer string) error {
		for _, p := range children {
			if word != "" {
				if err := p.tell(word); err != nil {
					return err
				}
			}
		}
		for _, p := range children {
			if answer != "" {
				if err := p.expect(ctx, answer, nil); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := errors.Join(each("", "ready"), each("go", "")); err != nil {
		return c, err
	}
	count, stop := l.counter(kind)
	defer stop()
	time.Sleep(crowdWarmUp)
	from := now()
	before, err := count(ctx)
	if err != nil {
		return c, err
	}
	time.Sleep(l.window)
	after, err := count(ctx)
	if err != nil {
		return c, err
	}
	to := now()
	if err := each("stop", ""); err != nil {
		return c, err
	}
	var reports []crowdReport
	for _, p := range children {
		var cr crowdReport
		if err := p.expect(ctx, "seen", &cr); err != nil {
			return c, err
		}
		reports = append(reports, cr)
	}
	if err := c.add(reports, from, to); err != nil {
		return c, err
	}
	used := after.minus(before)
	c.requests, c.commands = used.requests/float64(c.grants), used.commands/float64(c.grants)
	return c, nil
}

// counter returns a function that counts what kind's server has done.
func (l *lab) counter(kind string) (count func(context.Context) (redisCount, error), stop func()) {
	if kind == haspEtcd || kind == mutexName {
		return func(ctx context.Context) (redisCount, error) {
			n, err := etcdRequests(ctx, l.etcd)
			return redisCount{requests: n}, err
		}, func() {}
	}
	client := newRedis(l.redis)
	return func(ctx context.Context) (redisCount, error) { return countRedis(ctx, client, kind) },
		func() { _ = client.Close() }
}

// add evaluates what the processes say of the time between from and to. Two that
// held the lock at once are an error: there is nothing to measure then.
func (c *crowd) add(reports []crowdReport, from, to time.Duration) error {
	type grant struct {
		held
		waiter int
	}
	var all []grant
	var counts []int
	for _, cr := range reports {
		c.gaveUp += cr.GaveUp
		for i, hs := range cr.Grants {
			got := 0
			for _, h := range hs {
				all = append(all, grant{h, len(counts)})
				if h.Got >= from && h.Got < to {
					got++
					c.longest = max(c.longest, h.Wait)
				}
			}
			if since := cr.Waiting[i]; since > 0 && since < to {
				c.longest = max(c.longest, to-since)
			}
			if got == 0 {
				c.starved++
			}
			counts = append(counts, got)
			c.grants += got
		}
	}
	slices.SortFunc(all, func(a, b grant) int { return cmp.Compare(a.Got, b.Got) })
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		if b.Got < a.Let {
			return fmt.Errorf("two waiters held the lock at once, for %v at least", a.Let-b.Got)
		}
		if b.Got < from || b.Got >= to {
			continue
		}
		if a.waiter != b.waiter {
			c.changes++
			c.latency.add(b.Got - a.Let)
		}
	}
	c.window, c.jain = to-from, jain(counts)
	if c.grants == 0 {
		c.jain = math.NaN()
		return errors.New("nobody got the lock")
	}
	return nil
}

// joinCrowd is a process of a crowd: each of its waiters takes the lock and gives it
// up at once, again and again.
func joinCrowd(t task) error {
	p, err := openPeer(t.Kind, t.Addr, t.Local)
	if err != nil {
		return err
	}
	takes := make([]acquire, t.N)
	for i := range takes {
		if takes[i], err = p.waiter(t.Key); err != nil {
			return errors.Join(err, p.close())
		}
	}
	if err := say("ready", nil); err != nil {
		return err
	}
	words := orders(func() {})
	if <-words != "go" {
		return p.close()
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	cr := crowdReport{Grants: make([][]held, t.N), Waiting: make([]time.Duration, t.N)}
	errs := make([]error, t.N)
	gaveUp := make([]int, t.N)
	var wg sync.WaitGroup
	for i := range takes {
		wg.Go(func() {
			for ctx.Err() == nil {
				asked := now()
				let, err := takes[i](ctx)
				for errors.Is(err, errGaveUp) && ctx.Err() == nil {
					gaveUp[i]++
					let, err = takes[i](ctx)
				}
				got := now()
				if err != nil {
					cr.Waiting[i] = asked
					if ctx.Err() == nil {
						errs[i] = err
						stop()
					}
					return
				}
				called := now()
				if err := let(context.WithoutCancel(ctx)); err != nil {
					errs[i] = err
					stop()
					return
				}
				cr.Grants[i] = append(cr.Grants[i], held{got, called, got - asked})
			}
		})
	}
	select {
	case <-words:
	case <-ctx.Done():
	}
	stop()
	wg.Wait()
	for _, n := range gaveUp {
		cr.GaveUp += n
	}
	if err := errors.Join(errors.Join(errs...), p.close()); err != nil {
		return err
	}
	return say("seen", cr)
}
