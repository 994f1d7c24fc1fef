package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/hasplock/hasp"
)

// createSweep makes the sweep in dir unless it is there, and tells whether it
// did. half is called when half of it has been made.
func createSweep(ctx context.Context, l hasp.Locker, dir string, s sweep, half func() error) (created bool, err error) {
	home := filepath.Join(dir, s.Name)
	complete := filepath.Join(home, "config.yaml")
	done := func(context.Context) (bool, error) {
		_, err := os.Stat(complete)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	return hasp.Once(ctx, l, s.Name+"/lock", done, func(ctx context.Context, lease *hasp.Lease) error {
		// Whoever held the lock before may have been killed in here: whatever
		// there is of the sweep is made anew.
		if err := os.MkdirAll(filepath.Join(home, "runs"), 0o777); err != nil {
			return err
		}
		runs := s.runs()
		for i, r := range runs {
			if i == len(runs)/2 {
				if err := half(); err != nil {
					return err
				}
			}
			// A lease that is lost ends ctx: stop then, another may be at it.
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := writeFile(runFile(home, i), r, lease.Token()); err != nil {
				return err
			}
		}
		if err := tidy(home); err != nil {
			return err
		}
		return writeFile(complete, config{Sweep: s, Runs: len(runs), Token: lease.Token()}, lease.Token())
	})
}

func runFile(home string, i int) string {
	return filepath.Join(home, "runs", fmt.Sprintf("%04d.yaml", i))
}

// writeFile makes the file appear complete or not at all. The token keeps the
// unfinished file of one holder of the lock apart from another's.
func writeFile(path string, v any, token uint64) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d.tmp", path, token)
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// tidy removes the unfinished files of those who were killed.
func tidy(home string) error {
	for _, pattern := range []string{"*.tmp", "runs/*.tmp"} {
		left, err := filepath.Glob(filepath.Join(home, pattern))
		if err != nil {
			return err
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// check reads the sweep back.
func check(dir string, s sweep) (config, error) {
	var c config
	home := filepath.Join(dir, s.Name)
	if err := readFile(filepath.Join(home, "config.yaml"), &c); err != nil {
		return c, err
	}
	for i := range c.Runs {
		var r run
		if err := readFile(runFile(home, i), &r); err != nil {
			return c, err
		}
		if r.Command != s.Command || len(r.Parameters) != len(s.Parameters) {
			return c, fmt.Errorf("%s is not a run of this sweep", runFile(home, i))
		}
	}
	if want := len(s.runs()); c.Runs != want {
		return c, fmt.Errorf("the sweep has %d runs, and should have %d", c.Runs, want)
	}
	return c, nil
}

func readFile(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
