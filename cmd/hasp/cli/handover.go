package cli

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/migrate"
)

// The part of hasp that is a program of its own, and the schemes that it is for.
const (
	partName    = "hasp-etcd"
	partPackage = "github.com/hasplock/hasp/cmd/hasp/hasp-etcd"
)

var partSchemes = []string{"etcd", "etcds"}

// handOver replaces this process by the program that has the backend for url, if
// this one has not: hasp's own other part for etcd, and as with git's remotes one
// called hasp-SCHEME for what others have written. handOver returns if there is no
// need, or an error if there is no such program. Call it before catchSignals: the new
// program knows nothing of what was caught here, and would take the lock all the same.
func handOver(url string) error {
	scheme := schemeOf(url)
	if scheme == "migrate" {
		var err error
		if scheme, err = lackingOf(url); err != nil {
			return err
		}
	}
	if scheme == "" || slices.Contains(backend.Schemes(), scheme) {
		return nil
	}
	name, path, err := find(scheme)
	if err != nil {
		return err
	}
	if err := replace(path, append([]string{name}, os.Args[1:]...)); err != nil {
		return fail(fmt.Errorf("%s cannot be run: %w", path, err))
	}
	return nil
}

// lackingOf returns the scheme of the store in a migration's URL that this program has
// no backend for, or "". One program has to have both, so what was handed over to is
// not left again.
func lackingOf(url string) (string, error) {
	old, new, _ := migrate.StoreURLs(url)
	lacking := ""
	for _, store := range []string{old, new} {
		scheme := strings.TrimSuffix(schemeOf(store), "s") // etcds is in etcd's program
		switch {
		case schemeOf(store) == "" || slices.Contains(backend.Schemes(), schemeOf(store)):
		case lacking != "" && lacking != scheme:
			return "", usagef("no program has backends for both %q and %q: build one that imports both and package cli", lacking, scheme)
		default:
			lacking = scheme
		}
	}
	if lacking != "" && !isHasp() {
		return "", usagef("no backend for scheme %q: this program has %s", lacking, strings.Join(backend.Schemes(), ", "))
	}
	return lacking, nil
}

// handOverToPart has hasp's other part do what this one has not in it.
func handOverToPart(what string) error {
	if !isHasp() {
		return usagef("%s: this program has not got it: it imports package cli, and not cli/%s", what, what)
	}
	path, err := part()
	if err != nil {
		return err
	}
	if err := replace(path, append([]string{partName}, os.Args[1:]...)); err != nil {
		return fail(fmt.Errorf("%s cannot be run: %w", path, err))
	}
	return nil
}

// find looks for the program for scheme.
func find(scheme string) (name, path string, err error) {
	if slices.Contains(partSchemes, scheme) && isHasp() {
		path, err := part()
		return partName, path, err
	}
	name = "hasp-" + scheme
	own := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	for _, n := range []string{name, strings.TrimSuffix(name, "s")} { // mydbs is mydb's business too
		path, err := exec.LookPath(filepath.Join(ownDir(), n))
		if err != nil {
			if path, err = exec.LookPath(n); err != nil {
				continue
			}
		}
		if n == own {
			return "", "", usagef("no backend for scheme %q: %s itself has %s", scheme, n, strings.Join(backend.Schemes(), ", "))
		}
		return n, path, nil
	}
	return "", "", usagef("no backend for scheme %q: this program has %s, and there is no %s beside it or in PATH",
		scheme, strings.Join(allSchemes(), ", "), name)
}

// isHasp tells whether this program is hasp, and not somebody's hasp-SCHEME.
func isHasp() bool {
	bi, ok := debug.ReadBuildInfo()
	return ok && bi.Path == filepath.ToSlash(filepath.Dir(partPackage))
}

// ownDir is the directory of this program's file.
func ownDir() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return filepath.Dir(exe)
}

// part returns the path of hasp's other part. It is looked for beside this one and
// nowhere else, and has to be of the same build: the two are one program, and one
// of another version that happens to be in PATH might lock in another way.
func part() (string, error) {
	path := filepath.Join(ownDir(), partName)
	if strings.HasSuffix(os.Args[0], ".exe") {
		path += ".exe"
	}
	const mend = "install both together, by make install or go install github.com/hasplock/hasp/cmd/hasp/..."
	if _, err := os.Stat(path); err != nil {
		return "", &exitError{exitInternal, fmt.Errorf("hasp's other part is missing: %w; %s", err, mend)}
	}
	other, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", &exitError{exitInternal, fmt.Errorf("hasp's other part cannot be recognized: %w; %s", err, mend)}
	}
	own, ok := debug.ReadBuildInfo()
	if !ok || other.Path != partPackage || buildID(own) != buildID(other) {
		return "", &exitError{exitInternal, fmt.Errorf("%s is not of the same build as this program: it is %s, and this is %s; %s", path, versionOf(other), versionOf(own), mend)}
	}
	return path, nil
}

// buildID is equal for programs that were built together.
func buildID(bi *debug.BuildInfo) string {
	return fmt.Sprint(bi.GoVersion, bi.Main, bi.Settings)
}

// allSchemes are those of this program and, if it is there, of its other part.
func allSchemes() []string {
	all := backend.Schemes()
	if !isHasp() {
		return all
	}
	if _, err := part(); err != nil {
		return all
	}
	all = slices.Concat(all, partSchemes)
	slices.Sort(all)
	return slices.Compact(all)
}
