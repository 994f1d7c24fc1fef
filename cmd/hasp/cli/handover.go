package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hasplock/hasp/backend"
)

// handOver replaces this process by the program that has the backend for url, if
// this one has not. As with git's remotes its name is hasp-SCHEME, and it stands
// beside this program or in PATH. handOver returns if there is no need, or an
// error if there is no such program.
func handOver(url string) error {
	scheme, _, ok := strings.Cut(url, ":")
	if !ok || strings.ContainsAny(scheme, `/\.`) || slices.Contains(backend.Schemes(), scheme) {
		return nil
	}
	name, path := find(scheme)
	if path == "" {
		return usagef("no backend for scheme %q: this program has %s, and there is no %s beside it or in PATH",
			scheme, strings.Join(backend.Schemes(), ", "), name)
	}
	if base := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"); base == name {
		return usagef("no backend for scheme %q: %s itself has %s", scheme, name, strings.Join(backend.Schemes(), ", "))
	}
	if err := replace(path, append([]string{name}, os.Args[1:]...)); err != nil {
		return fail(fmt.Errorf("%s cannot be run: %w", path, err))
	}
	return nil
}

// find looks for the program for scheme: etcds is etcd's business too.
func find(scheme string) (name, path string) {
	name = "hasp-" + scheme
	for _, n := range []string{name, strings.TrimSuffix(name, "s")} {
		if exe, err := os.Executable(); err == nil {
			if p, err := exec.LookPath(filepath.Join(filepath.Dir(exe), n)); err == nil {
				return n, p
			}
		}
		if p, err := exec.LookPath(n); err == nil {
			return n, p
		}
	}
	return name, ""
}
