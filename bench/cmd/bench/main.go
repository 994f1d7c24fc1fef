//go:build unix

// Command bench measures hasp's backends beside their alternatives, on this
// machine and in one run, and writes what it finds as Markdown and SVG:
//
//	go run ./cmd/bench -out ../docs
//
// It starts its own servers (redis-server must be installed; etcd is embedded)
// and its own processes, and leaves nothing behind. It judges nothing by time:
// a bar that is missed is written down as missed, and only a failure is an error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say: how much of everything is measured.
type config struct {
	out     string
	dir     string
	only    []string
	timeout time.Duration

	batches       int           // uncontended, migration: rounds in which each contestant runs one batch
	commands      int           // command: rounds
	handoffs      int           // hand-off: rounds
	window        time.Duration // waiters: how long each crowd is watched
	redisWaiters  sizes
	pollWaiters   sizes
	etcdWaiters   sizes
	leases        sizes
	efsLeases     sizes
	leaseWindow   time.Duration // held leases: how long each number is watched
	largestWindow time.Duration // and the largest
	fill          time.Duration // and how long acquiring them may take
}

// part is one of the measurements.
type part struct {
	name string
	run  func(context.Context, *lab, *report) error
}

// parts are in the order in which they are made.
var parts = []part{
	{"uncontended", uncontended},
	{"migration", migration},
	{"command", command},
	{"handoff", handOff},
	{"waiters", waiters},
	{"leases", heldLeases},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArg {
		os.Exit(childMain(os.Args[2]))
	}
	c := config{
		batches: 200, commands: 100, handoffs: 40, window: 3 * time.Second,
		redisWaiters: sizes{2, 16, 1000}, pollWaiters: sizes{2, 16, 1000}, etcdWaiters: sizes{2, 16, 128},
		leases: sizes{1, 1000, 100_000}, efsLeases: sizes{1, 1000, 10_000},
		leaseWindow: 10 * time.Second, largestWindow: 5 * time.Minute, fill: 45 * time.Second,
	}
	var only string
	quick := flag.Bool("quick", false, "small numbers: shows that it works, and no figure worth keeping")
	flag.StringVar(&only, "only", "", "the parts to measure, comma-separated: uncontended,migration,command,handoff,waiters,leases")
	flag.StringVar(&c.out, "out", "docs", "`folder` that benchmarks.md and the plots are written to")
	flag.StringVar(&c.dir, "dir", "", "`folder` for temporary files, on the disk to be measured (default: the system's)")
	flag.DurationVar(&c.timeout, "timeout", 20*time.Minute, "give up after this long")
	flag.IntVar(&c.batches, "batches", c.batches, "uncontended, migration: batches of each contestant")
	flag.IntVar(&c.commands, "commands", c.commands, "command: rounds")
	flag.IntVar(&c.handoffs, "handoffs", c.handoffs, "hand-off: rounds")
	flag.DurationVar(&c.window, "window", c.window, "waiters: how long each crowd is watched")
	flag.Var(&c.redisWaiters, "waiters", "waiters: numbers of hasp's waiters on Redis")
	flag.Var(&c.pollWaiters, "poll-waiters", "waiters: numbers of the alternatives' waiters on Redis")
	flag.Var(&c.etcdWaiters, "etcd-waiters", "waiters: numbers of waiters on etcd")
	flag.Var(&c.leases, "leases", "leases: numbers of held leases")
	flag.Var(&c.efsLeases, "efs-leases", "leases: numbers of held leases in a directory")
	flag.DurationVar(&c.leaseWindow, "lease-window", c.leaseWindow, "leases: how long each number is watched")
	flag.DurationVar(&c.largestWindow, "largest-window", c.largestWindow, "leases: how long the largest number is watched")
	flag.DurationVar(&c.fill, "fill", c.fill, "leases: how long acquiring them may take; what is held by then is watched")
	flag.Parse()
	if *quick {
		c.batches, c.commands, c.handoffs, c.window = 5, 5, 3, 500*time.Millisecond
		c.redisWaiters, c.pollWaiters, c.etcdWaiters = sizes{2, 16}, sizes{2, 16}, sizes{2, 8}
		c.leases, c.efsLeases = sizes{1, 100}, sizes{1, 100}
		c.leaseWindow, c.largestWindow = 2*time.Second, 2*time.Second
	}
	if only != "" {
		c.only = strings.Split(only, ",")
	}
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(c config) (err error) {
	if flag.NArg() > 0 {
		return fmt.Errorf("no arguments are expected, only flags: %q", flag.Args())
	}
	for _, name := range c.only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("-only: there is no part %q", name)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	l, err := openLab(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := l.close(); err == nil {
			err = cerr
		}
	}()
	r := &report{start: time.Now()}
	if err := r.machine(ctx, l); err != nil {
		return err
	}
	// What was measured before something failed is kept, and says what is missing.
	for _, p := range parts {
		if len(c.only) > 0 && !slices.Contains(c.only, p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", p.name)
		if err := p.run(ctx, l, r); err != nil {
			r.failures = append(r.failures, fmt.Errorf("%s: %w", p.name, err))
		}
		if ctx.Err() == context.Canceled {
			return fmt.Errorf("interrupted, nothing written: %w", errors.Join(r.failures...))
		}
	}
	if err := os.MkdirAll(c.out, 0o777); err != nil {
		return errors.Join(append(r.failures, err)...)
	}
	if err := r.write(c.out); err != nil {
		return errors.Join(append(r.failures, err)...)
	}
	fmt.Fprintf(os.Stderr, "bench: wrote %s in %v\n", filepath.Join(c.out, "benchmarks.md"), time.Since(r.start).Round(time.Second))
	return errors.Join(r.failures...)
}
