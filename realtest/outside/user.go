package outside

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// User is somebody with an empty directory, Go and a proxy.
type User struct {
	tb  testing.TB
	Dir string
	Env []string
}

// NewUser returns a user who has what environment says, in a directory of its own.
func NewUser(tb testing.TB, env []string) *User {
	tb.Helper()
	return &User{tb, tb.TempDir(), env}
}

// Environment is for users of a proxy made by Proxy: nothing that this machine has of
// the modules is seen, and what they fetch stays in cache. Other people's modules come
// from this machine's cache, or from where it fetches them.
func Environment(tb testing.TB, proxy, cache string) []string {
	tb.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		tb.Fatal(err)
	}
	have, from, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return append(os.Environ(),
		"GOWORK=off", "GOTOOLCHAIN=local", "GOSUMDB=off", "CGO_ENABLED=0",
		"GOFLAGS=-trimpath -modcacherw -buildvcs=false", // compiled once for all caches; and removable
		"GOMODCACHE="+cache,
		"GOPROXY=file://"+filepath.ToSlash(proxy)+",file://"+filepath.ToSlash(have)+"/cache/download,"+from,
	)
}

// Write writes a file in the user's directory.
func (u *User) Write(name, text string) {
	u.tb.Helper()
	path := filepath.Join(u.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		u.tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		u.tb.Fatal(err)
	}
}

// Command is a command of the user's.
func (u *User) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = u.Dir, u.Env
	return cmd
}

// Run runs a command that has to succeed, and returns what it prints.
func (u *User) Run(name string, args ...string) string {
	u.tb.Helper()
	cmd := u.Command(name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		u.tb.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}
