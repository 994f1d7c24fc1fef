package outside

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// shared is what all tests have: a proxy, and a module cache that is empty at first.
var shared struct {
	once sync.Once
	dir  string
	env  []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func user(t *testing.T) *User {
	t.Helper()
	shared.once.Do(func() {
		var err error
		if shared.dir, err = os.MkdirTemp("", "hasp-outside-"); err != nil {
			t.Fatal(err)
		}
		proxy := filepath.Join(shared.dir, "proxy")
		if err := os.CopyFS(proxy, os.DirFS(Proxy(t))); err != nil {
			t.Fatal(err)
		}
		shared.env = Environment(t, proxy, filepath.Join(shared.dir, "modules"))
	})
	if shared.env == nil {
		t.Fatal("there is no proxy: see above")
	}
	return NewUser(t, shared.env)
}

// modules returns the module graph.
func (u *User) modules() []string {
	u.tb.Helper()
	return strings.Fields(u.Run("go", "list", "-m", "-f", "{{.Path}}", "all"))
}

const program = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hasplock/hasp"
	_ %q
)

func main() {
	err := func() error {
		ctx := context.Background()
		l, err := hasp.Open(ctx, os.Args[1], nil)
		if err != nil {
			return err
		}
		defer l.Close()
		return hasp.Do(ctx, l, "key", func(ctx context.Context, lease *hasp.Lease) error {
			fmt.Println("token", lease.Token() > 0)
			return nil
		})
	}()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
`

// Who fetches one backend gets it, and no other's client.
func TestGetEachBackend(t *testing.T) {
	v := Version(t)
	clients := []string{"redis", "etcd", "grpc", "sqlite", "cobra", "testcontainers", "moby"}
	for _, c := range []struct {
		pkg, module, url, says string
		brings                 string // whose client it is
		most                   int    // modules, with the user's own
	}{
		{Root + "/efs", Root, "efs://DIR", "token true", "", 5},
		{Root + "/memlock", Root, "mem:", "token true", "", 5},
		{Root + "/redislock", Root + "/redislock", "redis://127.0.0.1:1", "connection refused", "redis", 60},
		{Root + "/etcdlock", Root + "/etcdlock", "etcd://127.0.0.1:1/?timeout=1s", "connection refused", "etcd grpc", 120},
	} {
		t.Run(c.pkg, func(t *testing.T) {
			u := user(t)
			u.Run("go", "mod", "init", "example.com/user")
			u.Run("go", "get", c.pkg+"@"+v)
			u.Write("main.go", fmt.Sprintf(program, c.pkg))
			u.Run("go", "mod", "tidy")
			if mod := u.Run("cat", "go.mod"); strings.Contains(mod, "replace") || !strings.Contains(mod, c.module+" "+v) {
				t.Errorf("go.mod is\n%s", mod)
			}
			u.Run("go", "build", "-o", "program", ".")
			out, err := u.Command("./program", strings.ReplaceAll(c.url, "DIR", u.Dir)).CombinedOutput()
			if !strings.Contains(string(out), c.says) {
				t.Errorf("%v: %s", err, out)
			}
			mods := u.modules()
			t.Logf("%d modules: %s", len(mods), strings.Join(mods, " "))
			if len(mods) > c.most {
				t.Errorf("%d modules, at most %d", len(mods), c.most)
			}
			for _, client := range clients {
				got := slices.ContainsFunc(mods, func(m string) bool { return strings.Contains(strings.TrimPrefix(m, Root), client) })
				if want := slices.Contains(strings.Fields(c.brings), client); got != want {
					t.Errorf("modules of %s: %v, want %v", client, got, want)
				}
			}
			for _, m := range mods {
				if strings.HasPrefix(m, Root+"/") && m != c.module {
					t.Errorf("it gets %s", m)
				}
			}
		})
	}
}

// go install makes both parts of the command, of one build.
func TestInstallTheCommand(t *testing.T) {
	u, v := user(t), Version(t)
	u.Env = append(slices.Clone(u.Env), "GOBIN="+u.Dir)
	u.Run("go", "install", Root+"/cmd/hasp/...@"+v)
	hasp := filepath.Join(u.Dir, "hasp")
	if got := u.Run(hasp, "version"); !strings.Contains(got, v) || !strings.Contains(got, " etcd,") {
		t.Errorf("version says %q", got)
	}
	if got := u.Run(hasp, "run", filepath.Join(u.Dir, "lock"), "--", "echo", "mine"); got != "mine\n" {
		t.Errorf("run says %q", got)
	}
	out, err := u.Command(hasp, "run", "--on", "etcd://127.0.0.1:1/?timeout=1s", "k", "--", "true").CombinedOutput()
	if !strings.Contains(string(out), "connection refused") {
		t.Errorf("for etcd: %v: %s", err, out)
	}
}

// A module can have the command as a tool of its own, in the version that it names.
func TestTool(t *testing.T) {
	u, v := user(t), Version(t)
	u.Run("go", "mod", "init", "example.com/user")
	u.Run("go", "get", "-tool", Root+"/cmd/hasp@"+v)
	if got := u.Run("go", "tool", "hasp", "run", filepath.Join(u.Dir, "lock"), "--", "echo", "mine"); got != "mine\n" {
		t.Errorf("run says %q", got)
	}
	if got := u.Run("go", "tool", "hasp", "version"); !strings.Contains(got, v) {
		t.Errorf("version says %q", got)
	}
}

// The example runs without the tree, on another store too.
func TestRunTheExample(t *testing.T) {
	u, v := user(t), Version(t)
	if got := u.Run("go", "run", Root+"/examples/sweep@"+v); !strings.HasPrefix(got, "8 processes: 1 created the sweep") {
		t.Errorf("it says %q", got)
	}
	out, err := u.Command("go", "run", Root+"/examples/sweep@"+v, "-on", "redis://127.0.0.1:1", "-processes", "1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "connection refused") {
		t.Errorf("on redis: %v: %s", err, out)
	}
}

// Each module has the license with it, and none says where another is.
func TestEachModuleIsWhole(t *testing.T) {
	top := Top(t)
	license, err := os.ReadFile(filepath.Join(top, "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "-C", top, "ls-files", "*go.mod").Output()
	if err != nil {
		t.Fatal(err)
	}
	mods := strings.Fields(string(out))
	if len(mods) < len(Modules) {
		t.Fatalf("git knows of %q", mods)
	}
	for _, mod := range mods {
		dir := filepath.Join(top, filepath.Dir(mod))
		if own, err := os.ReadFile(filepath.Join(dir, "LICENSE")); err != nil || !bytes.Equal(own, license) {
			t.Errorf("%s: its LICENSE is not that at the top: %v", dir, err)
		}
		text, err := os.ReadFile(filepath.Join(top, mod))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "replace ") {
			t.Errorf("%s replaces a module: nobody could install from it", mod)
		}
	}
}
