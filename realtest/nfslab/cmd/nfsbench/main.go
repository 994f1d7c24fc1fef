//go:build linux

// Command nfsbench boots a lab and prints, as Markdown, what locks cost on NFS, in time
// and requests: those of this tree with each guard, those of a reference commit of it,
// and the lock-file protocol's own operations. All take turns, in rounds.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
	"github.com/hasplock/hasp/realtest/nfslab/internal/mountstats"
)

var (
	reference = flag.String("reference", "1f0c6fe", "the commit to compare with; empty for none")
	rounds    = flag.Int("rounds", 20, "rounds")
	cycles    = flag.Int("n", 20, "repetitions in a round")
	quick     = flag.Bool("quick", false, "2 rounds of 10")
	out       = flag.String("out", "", "write to this file; default standard output")
	trees     = map[string]string{}
)

// contestant is a build with a guard.
type contestant struct {
	name  string
	bin   string // the folder with meter and hasp; empty for the lock-file protocol
	query string
	why   string // why it has no figures
}

// result is what the meter prints.
type result struct {
	Times    []time.Duration
	N        int
	Requests mountstats.Counts
}

func main() {
	flag.Func("tree", "NAME=DIR: another tree of this project to measure", func(s string) error {
		name, dir, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=DIR", s)
		}
		trees[name] = dir
		return nil
	})
	flag.Parse()
	if *quick {
		*rounds, *cycles = 2, 10
	}
	if err := bench(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "nfsbench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context) (err error) {
	begin := time.Now()
	l, err := nfslab.Start(nfslab.Options{Clients: 2})
	if err != nil {
		return err
	}
	defer l.Close()
	all, err := contestants(l)
	if err != nil {
		return err
	}
	b := &run{l: l, all: all, results: map[string][]result{}}
	for i := range *rounds {
		fmt.Fprintf(os.Stderr, "nfsbench: round %d of %d\n", i+1, *rounds)
		if err := b.round(ctx, i); err != nil {
			return err
		}
	}
	if err := b.looks(ctx); err != nil {
		return err
	}
	w := io.Writer(os.Stdout)
	if *out != "" {
		f, err := os.Create(*out)
		if err != nil {
			return err
		}
		defer func() {
			if e := f.Close(); err == nil {
				err = e
			}
		}()
		w = f
	}
	return b.print(w, time.Since(begin))
}

// contestants builds what is to be measured.
func contestants(l *nfslab.Lab) ([]contestant, error) {
	top, err := output("", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	var all []contestant
	add := func(name, tree string, guards map[string]string) error {
		bin := filepath.Join(l.Bin(), fmt.Sprint("build", len(all)))
		if err := os.Mkdir(bin, 0o755); err != nil {
			return err
		}
		if err := nfslab.Build(filepath.Join(tree, "realtest"), "./nfslab/internal/meter", filepath.Join(bin, "meter")); err != nil {
			return err
		}
		if err := nfslab.Build(filepath.Join(tree, "cmd/hasp"), ".", filepath.Join(bin, "hasp")); err != nil {
			return err
		}
		for _, g := range slices.Sorted(maps.Keys(guards)) {
			all = append(all, contestant{name: name + g, bin: bin, query: guards[g]})
		}
		return nil
	}
	if *reference != "" {
		dir, err := archive(top, *reference)
		defer os.RemoveAll(dir)
		if err == nil {
			err = add("commit "+*reference, dir, map[string]string{", with lock file": "", ", without": "lockfile=false"})
		}
		if err != nil {
			return nil, fmt.Errorf("the reference: %w", err)
		}
	}
	guards := map[string]string{", default guard": "", ", lockfile=file": "lockfile=file", ", lockfile=false": "lockfile=false"}
	if err := add("this tree", top, guards); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		if err := add(name, trees[name], guards); err != nil {
			return nil, err
		}
	}
	return append(all, contestant{name: "lock-file protocol, without its sleep"}), nil
}

// archive puts a commit's tree into a new folder, with this tree's meter in it.
func archive(top, commit string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "hasp-nfsbench-"); err != nil {
		return "", err
	}
	if _, err := output(top, "git", "archive", "--format=tar", "-o", dir+"/tree.tar", commit); err != nil {
		return dir, fmt.Errorf("%w (a clone that is not shallow has it)", err)
	}
	if _, err := output(dir, "tar", "xf", "tree.tar"); err != nil {
		return dir, err
	}
	lab := filepath.Join(dir, "realtest/nfslab")
	if err := os.RemoveAll(lab); err != nil {
		return dir, err
	}
	return dir, os.CopyFS(lab, os.DirFS(filepath.Join(top, "realtest/nfslab")))
}

func output(dir, name string, args ...string) (string, error) {
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	b, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(b)), err
}

// meter runs the meter of bin in a client.
func meter(ctx context.Context, h *nfslab.Host, bin, what string, args ...string) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	s, err := h.Run(ctx, append([]string{filepath.Join(bin, "meter"), what}, args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(s), &r)
	}
	return r, err
}
