//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// The things that are measured.
const (
	cycle  = "acquire + release"
	beat   = "heartbeat"
	glance = "a waiter's look"
	fresh  = "`hasp run KEY -- true`, a fresh process"
)

// run is one measurement.
type run struct {
	l       *nfslab.Lab
	all     []contestant
	results map[string][]result // by contestant and thing
}

func id(c contestant, thing string) string { return c.name + "\x00" + thing }

func (b *run) keep(c contestant, thing string, r result) {
	b.results[id(c, thing)] = append(b.results[id(c, thing)], r)
}

// folder is a contestant's own.
func (b *run) folder(i int) string { return filepath.Join(b.l.Mount(), fmt.Sprint("contestant", i)) }

func (c contestant) url(dir string) string {
	u := "efs://" + dir
	if c.query != "" {
		u += "?" + c.query
	}
	return u
}

// round lets everybody do everything once, one thing after the other. Who begins
// changes from round to round.
func (b *run) round(ctx context.Context, n int) error {
	for _, thing := range []string{cycle, beat, fresh} {
		for k := range b.all {
			if err := b.measure(ctx, (k+n)%len(b.all), thing, n == 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *run) measure(ctx context.Context, i int, thing string, first bool) error {
	h, c, dir := b.l.Clients[0], &b.all[i], b.folder(i)
	if c.why != "" || c.bin == "" && thing != cycle {
		return nil
	}
	if _, err := h.Run(ctx, "mkdir", "-p", dir); err != nil {
		return err
	}
	bin, what := c.bin, "cycle"
	args := []string{"-mount", dir, "-url", c.url(dir), "-key", "lock", "-n", fmt.Sprint(*cycles)}
	switch {
	case c.bin == "":
		bin, what = b.all[0].bin, "legacy"
	case thing == beat:
		what = "renew"
	case thing == fresh:
		what = "exec"
		args = []string{"-mount", dir, "-n", fmt.Sprint(max(*cycles/5, 3)), "-warm", "1", filepath.Join(c.bin, "hasp"), "run"}
		if c.query == "" {
			args = append(args, filepath.Join(dir, "lock"))
		} else {
			args = append(args, "--on", c.url(dir), "lock")
		}
		args = append(args, "--", "true")
	}
	r, err := meter(ctx, h, bin, what, args...)
	if err != nil {
		if first && thing == cycle && c.query != "" { // an older tree does not know every guard
			lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
			c.why = lines[len(lines)-1]
			return nil
		}
		return fmt.Errorf("%s: %s: %w", c.name, thing, err)
	}
	b.keep(*c, thing, r)
	return nil
}

// looks counts a waiter's looks, while a process on the other client holds.
func (b *run) looks(ctx context.Context) error {
	for i, c := range b.all {
		if c.why != "" || c.bin == "" {
			continue
		}
		dir := b.folder(i)
		args := []string{"-mount", dir, "-url", c.url(dir), "-key", "lock", "-n", "10"}
		said := make(said, 1)
		holder, err := b.l.Clients[1].Start(nfslab.Command{Argv: append([]string{filepath.Join(c.bin, "meter"), "hold"}, args...), Stdout: said})
		if err != nil {
			return err
		}
		select {
		case <-said:
		case <-holder.Done():
			return fmt.Errorf("%s: the holder ended", c.name)
		case <-time.After(time.Minute):
			return fmt.Errorf("%s: the holder does not get the lock", c.name)
		}
		r, err := meter(ctx, b.l.Clients[0], c.bin, "look", args...)
		_ = holder.Kill()
		<-holder.Done()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		b.keep(c, glance, r)
	}
	return nil
}

// said is closed for business after the first write.
type said chan struct{}

func (s said) Write(p []byte) (int, error) {
	select {
	case s <- struct{}{}:
	default:
	}
	return len(p), nil
}
