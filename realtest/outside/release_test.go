package outside

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scripts/release tries first, tags every module, and refuses what it cannot mend.
func TestRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hasp")
	run := func(args ...string) (string, error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		// What it runs by itself are the checks of this tree, and this test.
		cmd.Env = append(os.Environ(), "HASP_RELEASE_UNCHECKED=1", "GIT_CONFIG_GLOBAL=/dev/null", "GOFLAGS=-buildvcs=false")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		return out
	}
	if out, err := exec.Command("git", "clone", "-q", Top(t), dir).CombinedOutput(); err != nil {
		t.Skipf("the tree cannot be cloned: %v: %s", err, out)
	}
	must("git", "config", "user.name", "somebody")
	must("git", "config", "user.email", "somebody@localhost")
	before := must("git", "rev-parse", "HEAD")
	refused := func(says string, args ...string) {
		t.Helper()
		out, err := run(append([]string{"scripts/release"}, args...)...)
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("%q: %v: %s\nwant %q", args, err, out, says)
		}
	}
	refused("usage")
	refused("usage", "0.9.7")
	refused("usage", "v0.9")
	refused("/v2", "v2.0.0")
	if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	refused("not committed", "v0.9.7")
	if err := os.Remove(filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}

	if out := must("scripts/release", "v0.9.7"); !strings.Contains(out, "trial") {
		t.Errorf("it says %s", out)
	}
	if after := must("git", "rev-parse", "HEAD"); after != before || must("git", "tag", "-l", "*v0.9.7") != "" || must("git", "status", "--porcelain") != "" {
		t.Error("the trial left something")
	}

	out := must("scripts/release", "--tag", "v0.9.7")
	tags := "cmd/hasp/v0.9.7\netcdlock/v0.9.7\nexamples/v0.9.7\nredislock/v0.9.7\nv0.9.7\n"
	if got := must("git", "tag", "-l", "*v0.9.7"); got != tags {
		t.Errorf("the tags are %s", got)
	}
	if !strings.Contains(out, "git push --atomic origin HEAD:main v0.9.7 redislock/v0.9.7 etcdlock/v0.9.7 cmd/hasp/v0.9.7 examples/v0.9.7") {
		t.Errorf("it says %s", out)
	}
	if got := must("git", "status", "--porcelain"); got != "" {
		t.Errorf("it left %s", got)
	}
	for file, has := range map[string]string{
		"redislock/go.mod": Root + " v0.9.7\n", "cmd/hasp/go.mod": Root + "/etcdlock v0.9.7\n", "CHANGELOG.md": "## Unreleased\n\n## v0.9.7 (",
		"examples/go.mod": Root + "/cmd/hasp v0.9.7", "bench/go.mod": Root + " v0.9.7\n", "go.work": Root + " v0.9.7 => .\n",
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(text), has) {
			t.Errorf("%s has no %q: %v", file, has, err)
		}
	}
	if got, err := run("git", "grep", "-n", "hasplock/hasp[a-z/]* "+Version(t), "--", "*go.mod", "go.work"); err == nil {
		t.Errorf("the former version is required still: %s", got)
	}
	must("go", "build", "-o", os.DevNull, "./cmd/hasp") // go.work knows the new versions
	refused("there already", "v0.9.7")
}
