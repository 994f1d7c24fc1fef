package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The workers are this test's program again.
func TestMain(m *testing.M) {
	if os.Getenv(jobVar) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func sweepIt(t *testing.T, args ...string) result {
	t.Helper()
	var out bytes.Buffer
	if err := parent(t.Context(), append(args, "-o", "json"), &out); err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	return r
}

func TestOneCreatesTheSweepAndTheRestFindIt(t *testing.T) {
	dir := t.TempDir()
	r := sweepIt(t, "-dir", dir)
	if r.Processes != 8 || r.Created != 1 || r.Found != 7 || r.Takeovers != 0 || r.Token == 0 || r.Seconds <= 0 {
		t.Errorf("got %+v", r)
	}
	again := sweepIt(t, "-dir", dir, "-processes", "3")
	if again.Created != 0 || again.Found != 3 || again.Token != r.Token {
		t.Errorf("the second time: %+v, want token %d still", again, r.Token)
	}
	onlyTheSweep(t, dir)
}

func TestCrash(t *testing.T) {
	dir := t.TempDir()
	r := sweepIt(t, "-dir", dir, "-crash", "-timeout", "1s", "-processes", "6")
	if r.Created != 1 || r.Found != 4 || r.Takeovers != 1 || r.Seconds < 1 {
		t.Errorf("got %+v", r)
	}
	onlyTheSweep(t, dir)
}

// Every process has the id that the first one chose, also when that one was killed
// before it could keep any, and another time.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	r := sweepIt(t, "-keep", "-dir", dir, "-crash", "-timeout", "1s")
	if r.Created != 1 || r.Found != 6 || r.Takeovers != 1 || !strings.HasPrefix(r.ID, "resnet-lr-") || r.Token == 0 {
		t.Errorf("got %+v", r)
	}
	var out bytes.Buffer
	if err := parent(t.Context(), []string{"-keep", "-dir", dir, "-processes", "3"}, &out); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if line := fmt.Sprintf("worker %d: %s, found\n", i+1, r.ID); !strings.Contains(out.String(), line) {
			t.Errorf("%q is not in it:\n%s", line, out.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != ".resnet-lr.hasp" {
		t.Errorf("there is more than the lock's state: %v (%v)", left, err)
	}
}

// onlyTheSweep fails if there is anything but the sweep and the lock's state.
func onlyTheSweep(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "resnet-lr"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	runs, err := filepath.Glob(filepath.Join(dir, "resnet-lr", "runs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != ".lock.hasp config.yaml runs" || len(runs) != 24 {
		t.Errorf("there are %s, and %d runs", got, len(runs))
	}
}

func TestHalfMadeSweepIsNotComplete(t *testing.T) {
	dir := t.TempDir()
	s, err := parseSweep(builtin)
	if err != nil {
		t.Fatal(err)
	}
	sweepIt(t, "-dir", dir, "-processes", "1")
	if err := os.Remove(runFile(filepath.Join(dir, s.Name), 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := check(dir, s); err == nil {
		t.Error("a run is missing and nobody noticed")
	}
}

func TestText(t *testing.T) {
	var out bytes.Buffer
	if err := parent(t.Context(), []string{"-dir", t.TempDir(), "-processes", "2"}, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "2 processes: 1 created the sweep, 1 found it, token 1") {
		t.Errorf("got %q", out.String())
	}
}

func TestBadInput(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("name: ../elsewhere\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"-processes", "0"}, "too few"},
		{[]string{"-processes", "1", "-crash"}, "too few"},
		{[]string{"-timeout", "-1s"}, "negative"},
		{[]string{"-o", "xml"}, "text or json"},
		{[]string{"more"}, `no argument "more"`},
		{[]string{"-file", bad}, "cannot be a directory's"},
		{[]string{"-on", "nosuch://x", "-processes", "1"}, "no backend"},
	} {
		var out bytes.Buffer
		err := parent(t.Context(), append(c.args, "-dir", t.TempDir()), &out)
		if err == nil || !strings.Contains(err.Error(), c.says) || out.Len() > 0 {
			t.Errorf("%q: %v, want %q in it; printed %q", c.args, err, c.says, out.String())
		}
	}
}

// What the README runs first is to compile fast: without the clients of the stores
// that it does not use, and without package net.
func TestNoClientsInIt(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if p == "net" || strings.Contains(p, "redis") || strings.Contains(p, "etcd") {
			t.Errorf("it compiles %s", p)
		}
	}
}

// For another store it is compiled again, and says that first.
func TestOtherStores(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "sweep")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for url, says := range map[string]string{
		"redis://127.0.0.1:1":           "connection refused",
		"ETCD://127.0.0.1:1?timeout=1s": "connection refused",
	} {
		out, err := exec.Command(exe, "-on", url, "-processes", "1", "-dir", t.TempDir()).CombinedOutput()
		before, after, _ := strings.Cut(string(out), "\n")
		if err == nil || !strings.Contains(before, "compiling with the clients") || !strings.Contains(after, says) {
			t.Errorf("%s: %v: %s", url, err, out)
		}
		if strings.HasSuffix(strings.TrimSpace(string(out)), "exit status 1") {
			t.Errorf("%s: it says again that it failed: %s", url, out)
		}
	}
}

// With Redis there is no directory at all.
func TestKeepInRedis(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	server := exec.Command("redis-server", "--port", "0", "--unixsocket", sock, "--save", "")
	if err := server.Start(); err != nil {
		t.Fatalf("%v (scripts/test-needs installs what the tests need)", err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	exe := filepath.Join(t.TempDir(), "sweep")
	if out, err := exec.Command("go", "build", "-tags", "stores", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) { // until it serves
		if c, err := net.Dial("unix", sock); err == nil {
			c.Close()
			break
		} else if time.Since(begun) > time.Minute {
			t.Fatal(err)
		}
	}
	var first result
	for round := range 2 {
		cmd := exec.Command(exe, "-keep", "-on", "redis+unix://"+sock, "-o", "json")
		if round == 0 {
			cmd.Args = append(cmd.Args, "-crash", "-timeout", "1s")
		}
		out, err := cmd.Output()
		var r result
		if err == nil {
			err = json.Unmarshal(out, &r)
		}
		if err != nil || r.Processes != 8 || !strings.HasPrefix(r.ID, "resnet-lr-") {
			t.Fatalf("%v: %s", err, out)
		}
		if round == 0 {
			first = r
		}
		if r.Created != 1-round || r.Found != 6+2*round || r.ID != first.ID {
			t.Errorf("round %d: %+v, and the id was %s", round, r, first.ID)
		}
	}
}

func TestRunsAreAllCombinations(t *testing.T) {
	s := sweep{Name: "s", Command: "c", Parameters: map[string][]any{"a": {1, 2}, "b": {"x", "y", "z"}}}
	seen := map[string]bool{}
	for _, r := range s.runs() {
		text, err := json.Marshal(r.Parameters)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(text)] = true
	}
	if len(seen) != 6 || !seen[`{"a":2,"b":"y"}`] {
		t.Errorf("got %v", seen)
	}
}
