package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hasplock/hasp/backend"
)

// program is this one, for the go command.
const program = "github.com/hasplock/hasp/examples/sweep"

// withStores are the schemes that this program has only if it is compiled with the
// tag stores. Without, it compiles in a third of the time.
var withStores = []string{"redis", "rediss", "redis+unix", "etcd", "etcds"}

// handOver runs this program with the clients of all stores in it, if url needs one
// that it has not; otherwise it returns false. That program says itself why it
// fails: the error is then its *exec.ExitError.
func handOver(ctx context.Context, url string, args []string, out io.Writer) (bool, error) {
	scheme, _, _ := strings.Cut(url, ":")
	scheme = strings.ToLower(scheme)
	if !slices.Contains(withStores, scheme) || slices.Contains(backend.Schemes(), scheme) {
		return false, nil
	}
	fmt.Fprintf(os.Stderr, "sweep: compiling with the clients of Redis and etcd, for %s (go build -tags stores); the first time this takes a minute\n", scheme)
	dir, err := os.MkdirTemp("", "sweep-program-")
	if err != nil {
		return true, err
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "sweep")
	if runtime.GOOS == "windows" {
		exe += ".exe"
	}
	build := exec.CommandContext(ctx, "go", "build", "-tags", "stores", "-o", exe, program)
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Sum != "" { // it was fetched: there is no tree
		build = exec.CommandContext(ctx, "go", "install", "-tags", "stores", program+"@"+bi.Main.Version)
		build.Env = append(os.Environ(), "GOBIN="+dir)
	}
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return true, fmt.Errorf("the program for %s cannot be compiled: %v; build it in the source tree: go build -tags stores ./examples/sweep", scheme, err)
	}
	c := exec.CommandContext(ctx, exe, args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, out, os.Stderr
	return true, c.Run()
}
