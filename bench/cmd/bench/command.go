//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The contestants that start a command.
const (
	trueName      = "true"
	flockTrueName = "flock LOCK true"
	runTrueName   = "hasp run LOCK -- true"
	runBareName   = "hasp run --no-lockfile LOCK -- true"
)

// command measures what it costs to run a command under a lock that nobody else
// wants: hasp beside util-linux's flock, and the command alone.
func command(ctx context.Context, l *lab, r *report) error {
	dir, err := l.folder(l.dir, "command")
	if err != nil {
		return err
	}
	hasp := filepath.Join(dir, "hasp")
	build := exec.CommandContext(ctx, "go", "build", "-o", hasp, "github.com/hasplock/hasp/cmd/hasp")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build hasp: %w: %s", err, out)
	}
	var g group
	var rounds []func(context.Context) error
	add := func(kind string, args ...string) {
		g.kinds = append(g.kinds, kind)
		rounds = append(rounds, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	add(trueName, "true")
	if _, err := exec.LookPath("flock"); !errors.Is(err, exec.ErrNotFound) {
		add(flockTrueName, "flock", filepath.Join(dir, "flock"), "true")
	}
	add(runTrueName, hasp, "run", filepath.Join(dir, "lock"), "--", "true")
	add(runBareName, hasp, "run", "--no-lockfile", filepath.Join(dir, "bare"), "--", "true")
	g.ops = 1
	g.samples = make([]sample, len(g.kinds))
	if err := g.run(ctx, rounds, l.commands); err != nil {
		return err
	}
	r.command = &g
	return nil
}
