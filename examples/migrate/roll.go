//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// name is the migration's.
const name = "example"

// roll is the whole way, from the old store to the new one and back.
type roll struct {
	f     *fleet
	each  int // acquisitions for which the fleet stays at each stage
	rnd   *rand.Rand
	kill  bool
	kills int // of operators
	// legacy processes, or nil
	legacy *legacy
	// away takes the stores away in turn, or is nil
	away func(context.Context) error
}

// run does what an operator does, in the order in which it is safe: a step that
// admits a phase comes before the first process of that phase, and a step that admits one no more after
// the last.
func (r *roll) run(ctx context.Context) error {
	for _, s := range []func(context.Context) error{
		// there
		r.stay(migrate.PhaseOld),
		r.step("advance", migrate.StageOldBoth),
		r.restart(migrate.PhaseBoth),
		r.stay(migrate.PhaseBoth),
		r.step("advance", migrate.StageBoth),
		r.ifLegacy("seal"), // they cannot look at the record
		r.step("advance", migrate.StageBothNew),
		r.restart(migrate.PhaseNew),
		r.step("advance", migrate.StageNew),
		r.stay(migrate.PhaseNew),
		// and back
		r.step("back", migrate.StageBothNew),
		r.restart(migrate.PhaseBoth),
		r.step("back", migrate.StageBoth),
		r.ifLegacy("unseal"),
		r.stay(migrate.PhaseBoth),
		r.step("back", migrate.StageOldBoth),
		r.restart(migrate.PhaseOld),
		r.step("back", migrate.StageOld),
		r.stay(migrate.PhaseOld),
	} {
		if err := s(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restart gives every process another phase, one at a time, while the others work.
func (r *roll) restart(p migrate.Phase) func(context.Context) error {
	return func(ctx context.Context) error {
		for i := range r.f.workers {
			if err := r.f.replace(i+1, p); err != nil {
				return err
			}
			if err := r.work(ctx, r.each/len(r.f.workers)/2); err != nil {
				return err
			}
		}
		r.f.log.step("all processes are of phase %s", p)
		return nil
	}
}

// stay lets the fleet work, and takes stores away if that is wanted.
func (r *roll) stay(p migrate.Phase) func(context.Context) error {
	return func(ctx context.Context) error {
		if r.away != nil {
			if err := r.away(ctx); err != nil {
				return err
			}
		}
		return r.work(ctx, r.each)
	}
}

// work waits until the fleet has acquired n more times, or something is wrong.
func (r *roll) work(ctx context.Context, n int) error {
	goal := r.f.witness.total() + n
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for r.f.witness.total() < goal {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		for _, err := range []error{r.f.witness.fault(), r.f.stuck(time.Minute), r.f.log.err()} {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// step has an operator's process take a step, to a stage if it leads to one. With kill it
// is killed after a while, which grows, until it gets through: a step that was interrupted
// is repeated, and as it may have been taken all but the last word, it says where it leads.
func (r *roll) step(step string, to migrate.Stage) func(context.Context) error {
	return func(ctx context.Context) error {
		after := time.Millisecond
		for {
			c, err := child(job{URL: migrate.URL(name, "", r.f.old, r.f.new), Step: step, To: to, LegacyGone: r.legacy == nil})
			if err != nil {
				return err
			}
			var out, bad strings.Builder
			c.Stdout, c.Stderr = &out, &bad
			if err := c.Start(); err != nil {
				return err
			}
			killed := false
			if r.kill && after < 300*time.Millisecond {
				die := time.AfterFunc(time.Duration(r.rnd.Int64N(int64(after)))+after, func() { _ = c.Process.Kill() })
				err = c.Wait()
				killed = !die.Stop() && err != nil
			} else {
				err = c.Wait()
			}
			if killed {
				r.kills++
				r.f.log.fault("kill -9 the operator in the middle of %s", step)
				after = after * 3 / 2
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w: %s", step, err, strings.TrimSpace(bad.String()))
			}
			r.f.log.took(step, strings.TrimSpace(out.String()))
			return ctx.Err()
		}
	}
}

// ifLegacy takes a step that is about EfsLock processes, if there are any. They go on
// trying while their locks are sealed.
func (r *roll) ifLegacy(step string) func(context.Context) error {
	if r.legacy == nil {
		return func(context.Context) error { return nil }
	}
	return r.step(step, "")
}

// operate is an operator's process: it takes the step, waits where it has to, and
// prints where it led from and to.
func operate(ctx context.Context, j job) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	b, err := backend.Open(ctx, j.URL)
	if err != nil {
		return err
	}
	defer b.Close()
	m, ok := b.(*migrate.Backend)
	if !ok {
		return errors.New("the URL is not a migration's")
	}
	o := migrate.StepOptions{By: "the example's operator", Wait: true, LegacyGone: j.LegacyGone, To: j.To}
	var done migrate.Step
	switch j.Step {
	case "start":
		done, err = m.Start(ctx, &migrate.StartOptions{StepOptions: o})
	case "advance":
		done, err = m.Advance(ctx, &o)
	case "back":
		done, err = m.Back(ctx, &o)
	case "seal", "unseal":
		do := m.Seal
		if j.Step == "unseal" {
			do = m.Unseal
		}
		_, err := do(ctx, &o)
		return err
	default:
		return fmt.Errorf("there is no step %q", j.Step)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, done.To)
	return err
}
