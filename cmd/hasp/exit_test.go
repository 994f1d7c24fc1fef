//go:build unix

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestExitStatusIsTheCommands(t *testing.T) {
	key := lockPath(t)
	for _, c := range []struct {
		script string
		want   int
	}{
		{"exit 0", 0},
		{"exit 3", 3},
		{"exit 75", 75},
		{"kill -9 $$", 128 + 9},
		{"kill -15 $$", 128 + 15},
	} {
		code, _, stderr := run(t, "run", key, "--", "sh", "-c", c.script)
		if code != c.want || stderr != "" {
			t.Errorf("sh -c %q: exit %d, want %d; standard error %q", c.script, code, c.want, stderr)
		}
	}
}

func TestUsage(t *testing.T) {
	dir := tempDir(t)
	key := filepath.Join(dir, "sub", "lock")
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, ""},
		{[]string{"jog"}, `unknown command "jog"`},
		{[]string{"run"}, "KEY is missing"},
		{[]string{"run", "--", "true"}, "KEY is missing"},
		{[]string{"run", key}, "command is missing"},
		{[]string{"run", key, "--"}, "command is missing"},
		{[]string{"run", key, "true"}, "put -- before the command"},
		{[]string{"run", key, "more", "--", "true"}, "one KEY"},
		{[]string{"run", "--timeout", "-1s", key, "--", "true"}, "--timeout -1s: it must not be negative"},
		{[]string{"run", "--timeout", "0", key, "--", "true"}, "--timeout 0"},
		{[]string{"run", "--timeout", "soon", key, "--", "true"}, "soon"},
		{[]string{"run", "--timeout", "300", key, "--", "true"}, `"--timeout" flag: it has no unit: write 300s`},
		{[]string{"run", "--grace", "1.5", key, "--", "true"}, "write 1.5s"},
		{[]string{"verify", "--slack", "2", "mem:"}, "write 2s"},
		{[]string{"run", "--retry-interval", "-5s", key, "--", "true"}, "--retry-interval -5s"},
		{[]string{"run", "--max-wait", "-5s", key, "--", "true"}, "--max-wait -5s"},
		{[]string{"run", "--max-retries", "-2", key, "--", "true"}, "--max-retries -2"},
		{[]string{"run", "--grace", "-1s", key, "--", "true"}, "--grace -1s"},
		{[]string{"run", "--grace", "200s", key, "--", "true"}, "third of --timeout"},
		{[]string{"run", "--try", "--max-wait", "1s", key, "--", "true"}, "--try does not wait"},
		{[]string{"run", "--no-such", key, "--", "true"}, "no-such"},
		{[]string{"run", "-o", "xml", key, "--", "true"}, "want text or json"},
		{[]string{"run", "", "--", "true"}, "KEY is empty"},
		{[]string{"run", dir + "/", "--", "true"}, "is a directory"},
		{[]string{"run", dir + "/..", "--", "true"}, "is a directory"},
		{[]string{"run", "efs://" + dir, "--", "true"}, "is a URL"},
		{[]string{"run", filepath.Join(dir, strings.Repeat("x", 300)), "--", "true"}, "invalid key"},
		{[]string{"run", filepath.Join(dir, "a\nb"), "--", "true"}, "invalid key"},
		{[]string{"run", "--on", "efs://" + dir, "../lock", "--", "true"}, "invalid key"},
		{[]string{"run", "--on", "efs://" + dir, "", "--", "true"}, "invalid key"},
		{[]string{"run", "--on", "efs://" + dir + "?lokfile=false", "k", "--", "true"}, `unknown option "lokfile"`},
		{[]string{"run", "--on", "efs://" + dir + "?poll=-1s", "k", "--", "true"}, "poll"},
		{[]string{"run", "--on", "nosuch://host", "k", "--", "true"}, `no backend for scheme "nosuch"`},
		{[]string{"run", "--on", "redis://h", "--no-lockfile", "k", "--", "true"}, "--no-lockfile"},
		{[]string{"once", key, "--", "true"}, "--unless PATH is missing"},
		{[]string{"once", key, "--keep", "--unless", dir, "--", "true"}, "give one"},
		{[]string{"once", key, "--keep"}, "command is missing"},
		{[]string{"once", filepath.Join(dir, "a\nb"), "--keep", "--", "true"}, "invalid key"},
		{[]string{"value"}, "accepts 1 arg"},
		{[]string{"value", filepath.Join(dir, "a\nb")}, "invalid key"},
		{[]string{"value", dir + "/"}, "is a directory"},
		{[]string{"forget", filepath.Join(dir, "a\nb")}, "invalid key"},
		{[]string{"forget", key, "--timeout", "0"}, "--timeout 0"},
		{[]string{"forget", key, "--grace", "1s"}, "unknown flag: --grace"},
		{[]string{"raise", key}, "--token is missing"},
		{[]string{"raise", key, "--token", "-1"}, "-1"},
		{[]string{"status"}, "accepts 1 arg"},
		{[]string{"status", dir + "/"}, "is a directory"},
		{[]string{"list"}, "want --on URL"},
		{[]string{"break", key}, "--token is missing"},
		{[]string{"break", key, "--token", "-1"}, "-1"},
	} {
		code, stdout, stderr := run(t, c.args...)
		if code != 64 || !strings.Contains(stderr, c.says) || stdout != "" {
			t.Errorf("hasp %q: exit %d, want 64; standard error %q, want %q in it; standard output %q", c.args, code, stderr, c.says, stdout)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("bad arguments left behind: %v", left)
	}
}

func TestCommandIsLookedUpBeforeLocking(t *testing.T) {
	dir := tempDir(t)
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		command string
		want    int
		says    string
	}{
		{"no-such-command-anywhere", 127, "command not found: no-such-command-anywhere"},
		{filepath.Join(dir, "missing"), 127, "command not found"},
		{plain, 126, "permission denied"},
		{dir, 126, "is a directory"},
	} {
		key := filepath.Join(dir, "new", "lock")
		code, _, stderr := run(t, "run", key, "--", c.command)
		if code != c.want || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit %d, want %d; %q, want %q in it", c.command, code, c.want, stderr, c.says)
		}
		if _, err := os.Stat(filepath.Dir(key)); err == nil {
			t.Errorf("%s: something was locked for it", c.command)
		}
	}
}

func TestNotAProgramReleasesTheLock(t *testing.T) {
	dir := tempDir(t)
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("\x7fELF, not really"), 0o755); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "lock")
	if code, _, stderr := run(t, "run", key, "--", bad); code != 126 || !strings.Contains(stderr, "exec format error") {
		t.Errorf("exit %d, want 126: %s", code, stderr)
	}
	if code, _, stderr := run(t, "run", "--try", key, "--", "true"); code != 0 {
		t.Errorf("the lock was left held: exit %d: %s", code, stderr)
	}
}

func TestStoreErrors(t *testing.T) {
	dir := tempDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want int
		says string
	}{
		{"unreachable", []string{"run", "--on", "redis://127.0.0.1:1", "k", "--", "true"}, 69, "connection refused"},
		{"file for a directory", []string{"run", filepath.Join(file, "lock"), "--", "true"}, 73, "not a directory"},
	} {
		code, _, stderr := run(t, c.args...)
		if code != c.want || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit %d, want %d; %q, want %q in it", c.name, code, c.want, stderr, c.says)
		}
		for line := range strings.Lines(stderr) {
			if !strings.HasPrefix(line, "hasp: ") {
				t.Errorf("%s: somebody else has written %q", c.name, line)
			}
		}
	}
}

func TestNoPermission(t *testing.T) {
	dir := tempDir(t)
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := asNobody(t, "run", filepath.Join(dir, "lock"), "--", "true")
	code, stderr := cmd.wait(), cmd.errors()
	if code != 77 || !strings.Contains(stderr, "permission denied") {
		t.Errorf("exit %d, want 77: %s", code, stderr)
	}
}

func TestSignalWhileWaiting(t *testing.T) {
	key := lockPath(t)
	holder := holding(t, key)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		waiter := start(t, "run", key, "--", "echo", "ran")
		waiter.waiting()
		waiter.signal(sig)
		if code := waiter.wait(); code != 128+int(sig) {
			t.Errorf("%v: exit %d: %s", sig, code, waiter.errors())
		}
		if s := waiter.errors(); !strings.Contains(s, fmt.Sprint(sig)) || !strings.Contains(s, "held by") {
			t.Errorf("%v: says %q", sig, s)
		}
	}
	holder.in.Close()
	if code := holder.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, holder.errors())
	}
}
