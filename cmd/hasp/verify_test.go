//go:build unix

package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/conformance"
)

func TestVerifyMemory(t *testing.T) {
	t.Parallel()
	page := filepath.Join(tempDir(t), "report.html")
	code, stdout, stderr := run(t, "verify", "mem:///verify", "--min-ttl", "300ms", "--slack", "1s", "--report", page, "-o", "json")
	var rep conformance.Report
	if err := json.Unmarshal([]byte(stdout), &rep); err != nil {
		t.Fatalf("%v in %s; standard error: %s", err, stdout, stderr)
	}
	if code != 0 || rep.Count(conformance.Failed) > 0 || rep.Count(conformance.Passed) < 50 {
		t.Errorf("exit status %d: %s: %v", code, rep.Summary(), rep.Err())
	}
	if n := strings.Count(stderr, "\n"); n != len(rep.Results) {
		t.Errorf("%d lines of progress for %d rules", n, len(rep.Results))
	}
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "history-clients") {
		t.Errorf("the page has %d bytes, error %v", len(b), err)
	}
}

// On a directory the rules about processes are tried by processes, and nothing is
// left.
func TestVerifyDirectory(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	code, stdout, stderr := run(t, "verify", dir, "--min-ttl", "500ms", "--slack", "1s", "-q")
	if code != 0 || stderr != "" {
		t.Errorf("exit status %d, standard error %q:\n%s", code, stderr, stdout)
	}
	for _, rule := range []string{"process-killed", "process-stopped", "history-processes"} {
		if !strings.Contains(stdout, rule+" ") || strings.Contains(stdout, rule+"  lacking") {
			t.Errorf("%s was not tried:\n%s", rule, stdout)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v, error %v", left, err)
	}
}

func TestVerifyInterrupted(t *testing.T) {
	dir := tempDir(t)
	p := start(t, "verify", dir)
	for begun := time.Now(); !strings.Contains(p.errors(), "passed") && time.Since(begun) < patience; {
		time.Sleep(10 * time.Millisecond)
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 128+15 {
		t.Errorf("exit status %d, want %d; standard error: %s", code, 128+15, p.errors())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v, error %v", left, err)
	}
}

func TestVerifyMistakes(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"want the URL of a store":     {"verify"},
		"no such file or directory":   {"verify", "/nowhere/at/all"},
		"too short to be measured":    {"verify", "mem:///x", "--min-ttl", "1us"},
		"no backend for scheme":       {"verify", "nothing:x"},
		"started by hasp verify":      {"verify", "worker"},
		"the report cannot be writte": {"verify", "mem:///x", "--min-ttl", "20ms", "-q", "--report", "/nowhere/at/all"},
	} {
		code, stdout, stderr := run(t, args...)
		if code == 0 || !strings.Contains(stderr, want) || stdout != "" {
			t.Errorf("%v: exit status %d, standard output %q, standard error %q, want %q", args, code, stdout, stderr, want)
		}
	}
}
