package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What go test really says of a module whose packages pass, fail, panic and do not
// compile is told, and nothing of what passed.
func TestRealOutput(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":            "module " + module + "\n\ngo 1.26.0\n",
		"pass/pass_test.go": "package pass\nimport \"testing\"\nfunc TestPass(t *testing.T) { t.Log(\"unsaid\") }\nfunc TestSkip(t *testing.T) { t.Skip(\"unsaid\") }\nfunc TestMain(m *testing.M) { println(\"unsaid\"); m.Run() }\n",
		"fail/fail_test.go": "package fail\nimport \"testing\"\nfunc TestFail(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"said: failed\") }) }\nfunc TestOther(t *testing.T) { t.Log(\"unsaid\") }\n",
		"dead/dead_test.go": "package dead\nimport \"testing\"\nfunc TestDead(t *testing.T) { panic(\"said: panicked\") }\n",
		"typo/typo_test.go": "package typo\nimport \"testing\"\nfunc TestTypo(t *testing.T) { undefinedName() }\n",
		"none/none.go":      "package none\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "./...")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	raw, err := cmd.Output()
	if err == nil {
		t.Fatal("go test passed")
	}
	var pkgs []string
	for _, p := range []string{"dead", "fail", "none", "pass", "typo"} {
		pkgs = append(pkgs, module+"/"+p)
	}
	var out strings.Builder
	p := newProgress(pkgs, seconds{}, 2, &out)
	lines := make(chan string)
	go func() {
		defer close(lines)
		pass(strings.NewReader(string(raw)), lines)
	}()
	follow(p, lines)
	got := out.String()
	for _, want := range []string{"said: failed", "said: panicked", "undefinedName", "--- FAIL: TestFail", "ok  \t" + module + "/pass", "FAIL\t" + module + "/fail"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not told", want)
		}
	}
	if strings.Contains(got, "unsaid") {
		t.Error("it tells what passed")
	}
	if f := strings.Join(p.failures, " "); p.failed != 3 || len(p.ended) != 5 || !strings.Contains(f, "dead") || !strings.Contains(f, "fail") || !strings.Contains(f, "typo") {
		t.Errorf("%d failed: %v; %d ended", p.failed, p.failures, len(p.ended))
	}
	if t.Failed() {
		t.Log(got)
	}
}

func say(p *progress, e event) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	p.line(string(line) + "\n")
}

// The estimate follows what has been seen.
func TestEstimate(t *testing.T) {
	var out strings.Builder
	s := seconds{"a": 100, "b": 60, "c": 40, "d": 40}
	p := newProgress(s.sort([]string{"d", "b", "a", "c"}), s, 2, &out)
	if got := strings.Join(p.pkgs, ""); got != "abdc" {
		t.Errorf("the order is %s", got)
	}
	if got := p.left(); got != 120*time.Second {
		t.Errorf("at first %v", got)
	}
	say(p, event{Action: "start", Package: "a"})
	say(p, event{Action: "pass", Package: "a", Elapsed: 200}) // a machine half as fast
	if got := p.left(); got != 140*time.Second {
		t.Errorf("with the rest twice as slow: %v", got)
	}
	say(p, event{Action: "start", Package: "b"})
	p.started["b"] = time.Now().Add(-30 * time.Second)
	say(p, event{Action: "run", Package: "b", Test: "TestB"})
	p.tell()
	if got := out.String(); !strings.Contains(got, "1 of 4 packages") || !strings.Contains(got, "running b (TestB)") {
		t.Errorf("told: %q", got)
	}
	if got := p.left(); got < 120*time.Second || got > 126*time.Second { // (90 + 80 + 80) / 2, or less on a slow machine
		t.Errorf("in the middle of b: %v", got)
	}
	// What was cached says nothing of the machine.
	say(p, event{Action: "output", Package: "c", Output: "ok  \tc\t(cached)\n"})
	say(p, event{Action: "pass", Package: "c"})
	if got := p.pace(); got != 2 {
		t.Errorf("pace %v", got)
	}
}

func TestEveryPackageIsKnown(t *testing.T) {
	if _, err := readSeconds(); err != nil {
		t.Fatal(err)
	}
	pkgs, err := list(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 20 {
		t.Errorf("the workspace has %d packages", len(pkgs))
	}
}
