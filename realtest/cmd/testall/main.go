// Command testall runs the tests of every module of the workspace, several packages
// at once, and says how far it is.
//
//	go run ./realtest/cmd/testall [flags of go test]
//
// Most of the tests wait, for a TTL to run out or a server to start, so more packages
// run at once than there are processors, the longest first. The longest is begun at once,
// and the others are compiled meanwhile, at the lowest priority: then they are run, so
// that compilers do not stand in the way of tests that measure. What go test caches is
// not run again; -count=1 is for that.
//
// It prints what go test would, in the order in which packages end: failed tests with
// what they said, and a line per package. Every 15 s a line says which packages run, in
// which test, and about how long the rest will take. The estimate begins with seconds.txt,
// which is from one machine, and follows what the packages that have ended took here.
// HASP_RECORD=1 writes seconds.txt anew after a whole run that passed.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// interval is how often a line says how far it is.
const interval = 15 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := testAll(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
	}
	if !ok {
		stop()
		os.Exit(1)
	}
}

// testAll runs the tests and tells whether all passed.
func testAll(ctx context.Context, flags []string) (bool, error) {
	pkgs, err := list(ctx, flags)
	if err != nil {
		return false, err
	}
	seconds, err := readSeconds()
	if err != nil {
		return false, err
	}
	atOnce := runtime.NumCPU() + 1 // with twice as many, tests that measure were too often too late
	p := newProgress(seconds.sort(pkgs), seconds, atOnce, os.Stdout)
	p.verbose = slices.ContainsFunc(flags, func(f string) bool { return strings.TrimLeft(f, "-") == "v" })
	longest, others := p.pkgs[:1], p.pkgs[1:]
	fmt.Printf("testall: compiles the tests of %d packages, beside those of %s, then runs %d at once; about %v\n", len(pkgs), short(longest[0]), atOnce, p.left())
	if err := compile(ctx, flags, longest, false); err != nil {
		return false, err
	}
	lines, errs := make(chan string), make([]error, 2)
	var runs sync.WaitGroup
	runs.Go(func() { errs[0] = run(ctx, flags, longest, 1, lines) })
	runs.Go(func() {
		began := time.Now()
		if errs[1] = compile(ctx, flags, others, true); errs[1] == nil {
			lines <- fmt.Sprintf("testall: compiled in %v\n", round(time.Since(began)))
			errs[1] = run(ctx, flags, others, atOnce-1, lines)
		}
	})
	go func() {
		runs.Wait()
		close(lines)
	}()
	follow(p, lines)
	if ctx.Err() != nil {
		return false, errors.New("interrupted")
	}
	var ee *exec.ExitError
	err = errors.Join(errs...)
	if err != nil && !errors.As(err, &ee) {
		return false, err
	}
	if err != nil || p.failed > 0 {
		fmt.Printf("testall: FAILED: %s, in %v\n", strings.Join(p.failures, ", "), round(time.Since(p.began)))
		return false, nil
	}
	fmt.Printf("testall: all %d packages passed, in %v\n", len(pkgs), round(time.Since(p.began)))
	if os.Getenv("HASP_RECORD") != "" {
		return true, p.record()
	}
	return true, nil
}

// run runs the tests of packages, several at once, and passes on what go test says.
func run(ctx context.Context, flags, pkgs []string, atOnce int, lines chan<- string) error {
	if len(pkgs) == 0 {
		return nil
	}
	args := append([]string{"test", "-json", "-timeout", "15m", "-p", fmt.Sprint(atOnce)}, flags...)
	cmd := command(ctx, "go", append(args, pkgs...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	pass(out, lines)
	return cmd.Wait()
}

// pass passes lines on.
func pass(out io.Reader, lines chan<- string) {
	for r := bufio.NewReader(out); ; { // no Scanner: a line may be of any length
		line, err := r.ReadString('\n')
		if line != "" {
			lines <- line
		}
		if err != nil {
			return
		}
	}
}

// follow shows what go test says, until it ends.
func follow(p *progress, lines <-chan string) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			p.line(line)
		case <-tick.C:
			p.tell()
		}
	}
}

// command is a command that is interrupted with ctx: go test passes that on.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	return cmd
}

// buildFlags are those of go test's flags that decide what is compiled.
func buildFlags(flags []string) []string {
	var out []string
	for _, f := range flags {
		if name := strings.TrimLeft(f, "-"); name == "race" || strings.HasPrefix(name, "tags=") {
			out = append(out, f)
		}
	}
	return out
}

// list returns the import paths of the workspace's packages.
func list(ctx context.Context, flags []string) ([]string, error) {
	out, err := command(ctx, "go", append(append([]string{"list"}, buildFlags(flags)...), "work")...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// compile compiles what the tests of packages are made of; go test then only has to link
// it. Beside says that tests run meanwhile: they come first then, where nice is known.
func compile(ctx context.Context, flags, pkgs []string, beside bool) error {
	args := append([]string{"go", "list", "-export", "-test", "-deps", "-e", "-f", "{{with .Error}}{{.}}{{end}}"}, buildFlags(flags)...)
	if nice, err := exec.LookPath("nice"); err == nil && beside {
		args = append([]string{nice, "-n", "19"}, args...)
	}
	cmd := command(ctx, args[0], append(args[1:], pkgs...)...)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard // go test says what does not compile
	if err := cmd.Run(); err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return nil
}
