package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
