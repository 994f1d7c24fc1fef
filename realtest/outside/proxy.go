// Package outside makes a Go module proxy of the working tree, for tests that do what
// those do who are not in it: go get, go install, and the README's lines.
package outside

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// Root is the path of the module at the top.
const Root = "github.com/hasplock/hasp"

// Modules are those that others fetch, each after those that it requires, as directories
// relative to the top of the tree.
var Modules = []string{".", "redislock", "etcdlock", "cmd/hasp", "examples"}

// Path is the import path of one of Modules.
func Path(dir string) string {
	if dir == "." {
		return Root
	}
	return Root + "/" + dir
}

// Top is the top of the tree that the test is in.
func Top(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	tb.Fatalf("no go.work above the working directory: %v", err)
	return ""
}

// Version is the version that the modules require of each other.
func Version(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(Top(tb), "redislock", "go.mod"))
	if err != nil {
		tb.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*` + Root + ` (v\S+)$`).FindSubmatch(text)
	if m == nil {
		tb.Fatalf("redislock does not require %s", Root)
	}
	return string(m[1])
}

// Proxy makes a proxy of the tree as it is, with what is not committed, and returns its
// directory: for GOPROXY, as file://.
func Proxy(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, m := range Modules {
		if err := publish(dir, Top(tb), m, Version(tb)); err != nil {
			tb.Fatalf("module %s: %v", Path(m), err)
		}
	}
	return dir
}

// publish adds a module to the proxy in dir.
func publish(dir, top, m, version string) error {
	path, err := module.EscapePath(Path(m))
	if err != nil {
		return err
	}
	at := filepath.Join(dir, filepath.FromSlash(path), "@v")
	if err := os.MkdirAll(at, 0o777); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(top, m, "go.mod"))
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	fs, err := files(filepath.Join(top, m))
	if err != nil {
		return err
	}
	if err := zip.Create(&archive, module.Version{Path: Path(m), Version: version}, fs); err != nil {
		return err
	}
	info := fmt.Sprintf(`{"Version":%q,"Time":%q}`, version, time.Now().UTC().Format(time.RFC3339))
	for name, text := range map[string][]byte{
		"list": []byte(version + "\n"), version + ".info": []byte(info), version + ".mod": mod, version + ".zip": archive.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(at, name), text, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// files lists what a tag of the module in dir would have: what git tracks, or would if
// it was added, without other modules in it.
func files(dir string) ([]zip.File, error) {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w: %s", err, stderr.String())
	}
	names := strings.Split(strings.Trim(string(out), "\x00"), "\x00")
	var nested []string
	for _, n := range names {
		if d, ok := strings.CutSuffix(n, "/go.mod"); ok {
			nested = append(nested, d+"/")
		}
	}
	var fs []zip.File
	for _, n := range names {
		if slices.ContainsFunc(nested, func(d string) bool { return strings.HasPrefix(n, d) }) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, n)); err == nil { // else it was removed, and that not committed
			fs = append(fs, file{dir, n})
		}
	}
	return fs, nil
}

// file is a file in the tree.
type file struct{ dir, name string }

func (f file) Path() string                 { return f.name }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.dir, f.name)) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.dir, f.name)) }
