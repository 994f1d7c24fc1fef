package hasp_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Who uses the core, or the EFS backend, gets the standard library and little
// else: the clients of stores live in modules of their own.
func TestDependencies(t *testing.T) {
	const module = "github.com/hasplock/hasp"
	allowed := []string{module, "golang.org/x/sys", "github.com/hashicorp/go-multierror", "github.com/hashicorp/errwrap"}
	for _, goos := range []string{"linux", "darwin", "freebsd", "windows"} {
		t.Run(goos, func(t *testing.T) {
			cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}",
				".", "./backend", "./memlock", "./efs")
			cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			deps := strings.Fields(string(out))
			if len(deps) < 4 {
				t.Fatalf("go list found %q", deps)
			}
			for _, dep := range deps {
				ok := false
				for _, a := range allowed {
					ok = ok || dep == a || strings.HasPrefix(dep, a+"/")
				}
				if !ok {
					t.Errorf("%s is imported; allowed besides the standard library are %q", dep, allowed)
				}
				for _, other := range []string{"redislock", "etcdlock", "migrate", "conformance", "cmd", "examples", "realtest", "bench"} {
					if strings.HasPrefix(dep+"/", module+"/"+other+"/") {
						t.Errorf("%s is imported", dep)
					}
				}
			}
		})
	}
}

// The same for what `go get` brings along: go.mod has no more than that either.
func TestModuleRequirements(t *testing.T) {
	out, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"golang.org/x/sys": true, "github.com/hashicorp/go-multierror": true, "github.com/hashicorp/errwrap": true}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) >= 2 && strings.HasPrefix(f[1], "v") && !allowed[f[0]] {
			t.Errorf("go.mod requires %s", f[0])
		}
		if strings.HasPrefix(strings.TrimSpace(line), "replace") {
			t.Errorf("go.mod has a replace, which does not reach those who import it: %s", line)
		}
	}
}
