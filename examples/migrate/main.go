//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/migrate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if text := os.Getenv(jobVar); text != "" {
		var j job
		if err = json.Unmarshal([]byte(text), &j); err == nil {
			if j.Step != "" {
				err = operate(ctx, j)
			} else {
				err = work(ctx, j)
			}
		}
	} else {
		err = parent(ctx, os.Args[1:], os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	old, new           string
	processes, keys, n int
	legacy             int
	kill, killOperator bool
	away, skew         time.Duration
	seed               uint64
	report, output     string
}

func parse(args []string) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("migrate", flag.ContinueOnError)
	fs.StringVar(&s.old, "old", "efs", "where the fleet comes from: efs, redis, etcd, or a URL")
	fs.StringVar(&s.new, "new", "redis", "where it goes: efs, redis, etcd, or a URL")
	fs.IntVar(&s.processes, "processes", 12, "how many processes")
	fs.IntVar(&s.keys, "keys", 5, "how many locks they contend for")
	fs.IntVar(&s.n, "acquisitions", 2000, "how many acquisitions in all, about")
	fs.IntVar(&s.legacy, "legacy", 0, "processes of the EfsLock protocol, one to a key at most")
	fs.BoolVar(&s.kill, "kill", false, "kill and stop workers at random")
	fs.BoolVar(&s.killOperator, "kill-operator", false, "kill the operator in the middle of each step")
	fs.DurationVar(&s.away, "away", 0, "how long each store is away in each phase")
	fs.DurationVar(&s.skew, "skew", 0, "how far the clock of a redis-server that is started is off")
	fs.Uint64Var(&s.seed, "seed", 1, "of what is random")
	fs.StringVar(&s.report, "report", "", "file for the page")
	fs.StringVar(&s.output, "o", "text", "text or json")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	switch {
	case fs.NArg() > 0:
		return s, fmt.Errorf("there is no argument %q", fs.Arg(0))
	case s.processes < 1, s.keys < 1, s.n < 1, s.away < 0:
		return s, errors.New("-processes, -keys and -acquisitions: at least 1; -away: not negative")
	case s.legacy < 0 || s.legacy > s.keys:
		return s, fmt.Errorf("-legacy %d: at most one for each of the %d keys", s.legacy, s.keys)
	case s.output != "text" && s.output != "json":
		return s, fmt.Errorf("-o %q: want text or json", s.output)
	}
	return s, nil
}

// result is what -o json prints.
type result struct {
	Processes       int            `json:"processes"`
	Acquired        int            `json:"acquired"`
	ByPhase         map[string]int `json:"by_phase"`
	Overlaps        int            `json:"overlaps"`
	Disorder        int            `json:"tokens_out_of_order"`
	WrongValues     int            `json:"wrong_values"`
	ValuesSet       int            `json:"values_set"`
	Kills           int            `json:"kills"`
	Stops           int            `json:"stops"`
	OperatorsKilled int            `json:"operators_killed"`
	Takeovers       int            `json:"takeovers"`
	Late            int            `json:"refused_after_their_deadline"`
	Lost            int            `json:"leases_lost"`
	Errors          int            `json:"errors"`
	LegacySections  int            `json:"legacy_sections"`
	WorstWait       float64        `json:"worst_wait_seconds"`
	Seconds         float64        `json:"seconds"`
}

// stays is for how many shares of the acquisitions the fleet works: four stays, and four
// restarts of half a share each.
const stays = 6

// parent starts the stores and the fleet, and moves it.
func parent(ctx context.Context, args []string, out io.Writer) (err error) {
	s, err := parse(args)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	home, err := os.MkdirTemp("", "migrate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	var stores [2]*store
	for i, url := range []string{s.old, s.new} {
		dir := fmt.Sprintf("%s/%d", home, i)
		if err := os.Mkdir(dir, 0o777); err != nil {
			return err
		}
		if stores[i], err = openStore(ctx, url, dir, s.skew, s.away > 0); err != nil {
			return err
		}
		defer stores[i].stop()
	}
	if s.legacy > 0 && stores[0].dir == "" {
		return errors.New("-legacy: the old store has no lock files")
	}
	view := newScreen(os.Stderr, s.output == "json")
	f := &fleet{old: stores[0].url, new: stores[1].url, keys: s.keys, ttl: 3 * time.Second, witness: newWitness(), log: &log{tell: view.line}}
	rnd := rand.New(rand.NewPCG(s.seed, 0))
	r := &roll{f: f, each: max(s.n/stays, 1), rnd: rnd, kill: s.killOperator}
	if s.legacy > 0 {
		r.legacy = &legacy{f: f, dir: stores[0].dir, n: s.legacy}
	}
	if s.away > 0 {
		r.away = func(ctx context.Context) error { return goAway(ctx, f, stores[:], s.away) }
	}
	begun := time.Now()
	done := make(chan struct{})
	if err := r.move(ctx, s, view, done); err != nil {
		return err
	}
	res := sum(f, r, s, begun)
	sentence := res.sentence()
	if s.report != "" {
		if err := draw(sentence, f, begun, time.Now()).write(s.report); err != nil {
			return err
		}
	}
	if s.output == "json" {
		return json.NewEncoder(out).Encode(res)
	}
	_, err = fmt.Fprintln(out, sentence)
	return err
}

// move starts the fleet, goes there and back, ends the fleet, and looks whether every key can be had.
func (r *roll) move(ctx context.Context, s settings, view *screen, done chan struct{}) (err error) {
	if err := r.step("start", "")(ctx); err != nil {
		return err
	}
	f := r.f
	if r.legacy != nil {
		if err := r.legacy.start(); err != nil {
			return err
		}
		defer r.legacy.stop()
	}
	for i := range s.processes {
		if err := f.start(i+1, migrate.PhaseOld); err != nil {
			return errors.Join(err, f.stop())
		}
	}
	harmed := make(chan struct{})
	go func() {
		defer close(harmed)
		if s.kill {
			f.harm(rand.New(rand.NewPCG(s.seed, 1)), done)
		}
	}()
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		view.run(f, done)
	}()
	err = r.run(ctx)
	close(done)
	<-harmed
	<-shown
	if err = errors.Join(err, f.stop(), f.witness.fault(), f.log.err()); err != nil {
		return err
	}
	return everyKey(ctx, f)
}

// everyKey looks whether each lock can still be had.
func everyKey(ctx context.Context, f *fleet) error {
	l, err := hasp.Open(ctx, migrate.URL(name, migrate.PhaseOld, f.old, f.new), &hasp.Options{TTL: f.ttl, RetryInterval: 100 * time.Millisecond, MaxWait: 4 * f.ttl})
	if err != nil {
		return err
	}
	defer l.Close()
	for i := range f.keys {
		if err := hasp.Do(ctx, l, fmt.Sprintf("key-%d", i), func(context.Context, *hasp.Lease) error { return nil }); err != nil {
			return err
		}
	}
	return l.Close()
}

// goAway takes the stores away, one after the other, while the fleet goes on trying.
func goAway(ctx context.Context, f *fleet, stores []*store, d time.Duration) error {
	for _, st := range stores {
		if st.away == nil {
			continue
		}
		f.log.step("%s is away for %v", st.what, d)
		f.log.fault("%s is away for %v", st.what, d)
		if err := st.away(); err != nil {
			return err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		if err := st.back(); err != nil {
			return err
		}
		f.log.step("%s is back", st.what)
	}
	return ctx.Err()
}

func sum(f *fleet, r *roll, s settings, begun time.Time) result {
	w := f.witness
	w.mu.Lock()
	defer w.mu.Unlock()
	res := result{
		Processes: s.processes, Acquired: len(w.holds), ByPhase: w.acquired, Overlaps: len(w.overlaps), Disorder: len(w.disorder),
		WrongValues: len(w.values), ValuesSet: w.sets, Kills: f.kills, Stops: f.stops, OperatorsKilled: r.kills, Takeovers: w.takeovers, Late: w.late,
		Lost: w.lost, WorstWait: w.worst.Round(time.Millisecond).Seconds(), Seconds: time.Since(begun).Round(time.Millisecond).Seconds(),
	}
	for _, n := range w.failed {
		res.Errors += n
	}
	if r.legacy != nil {
		res.LegacySections = r.legacy.sections
	}
	return res
}

func (r result) sentence() string {
	return fmt.Sprintf("%d processes moved there and back in %.1f s: %d acquired, %d overlaps, %d tokens out of order, %d values set and %d lost or changed; %d killed, %d stopped, %d operators killed; the longest wait took %.1f s",
		r.Processes, r.Seconds, r.Acquired, r.Overlaps, r.Disorder, r.ValuesSet, r.WrongValues, r.Kills, r.Stops, r.OperatorsKilled, r.WorstWait)
}
