//go:build unix

package main_test

import (
	"strings"
	"syscall"
	"testing"
)

func TestHelpSaysWhatIsNeeded(t *testing.T) {
	for command, want := range map[string][]string{
		"":       {"hasp run /mnt", "--version", "exit status"},
		"run":    {"hasp run [flags] KEY -- COMMAND [ARG…]", "  hasp run --try", "75  not acquired", "127  the command was not found", "default 300s", "(default 5s)"},
		"once":   {"hasp once [flags] KEY (--unless PATH | --keep) -- COMMAND [ARG…]", "  hasp once ", "exit status 65", "76  the lock was lost"},
		"status": {"hasp status [flags] KEY", "  hasp status ", "75 if it is"},
		"list":   {"hasp list [flags] [PREFIX]", "  hasp list "},
		"break":  {"hasp break [flags] KEY --token N", "  hasp break "},
		"value":  {"hasp value [flags] KEY", "  hasp value ", "1 if there is no value"},
		"forget": {"hasp forget [flags] KEY", "  hasp forget ", "75 if another", "(default 5s)"},
		"raise":  {"hasp raise [flags] KEY --token N", "  hasp raise "},
		"verify": {"hasp verify [flags] [URL]", "  hasp verify "},
		"doctor": {"hasp doctor [flags] [URL]", "  hasp doctor ", "0 if there is no problem"},
	} {
		args := strings.Fields(command + " --help")
		code, out, stderr := run(t, args...)
		if code != 0 || stderr != "" {
			t.Errorf("hasp %s: exit %d: %s", args, code, stderr)
		}
		for _, s := range want {
			if !strings.Contains(out, s) {
				t.Errorf("hasp %s: does not say %q:\n%s", args, s, out)
			}
		}
	}
}

// A flag that was meant for hasp and given after -- is warned of; the command has
// it all the same.
func TestFlagsAfterTheCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		warn string
	}{
		{[]string{"--", "echo", "--max-wait", "5s"}, "--max-wait after -- is for echo"},
		{[]string{"--", "echo", "a", "--try", "--timeout=5s"}, "--try, --timeout after --"},
		{[]string{"--", "echo", "--on", "redis://:p@h"}, "--on after --"},
		{[]string{"--timeout", "60s", "--", "echo", "--timeout", "5s"}, ""}, // it is known where they go
		{[]string{"--", "echo", "--output", "x", "-o", "y", "--colour", "--", "--try"}, ""},
		{[]string{"--", bin, "run", "--try", lockPath(t), "--", "true"}, ""},
	} {
		code, out, stderr := run(t, append([]string{"run", lockPath(t)}, c.args...)...)
		if code != 0 || c.warn == "" && stderr != "" || !strings.Contains(stderr, c.warn) {
			t.Errorf("hasp %q: exit %d: %q, want %q", c.args, code, stderr, c.warn)
		}
		if i := len(c.args); c.args[1] == "echo" && !strings.HasSuffix(out, c.args[i-1]+"\n") {
			t.Errorf("hasp %q: the command has said %q", c.args, out)
		}
	}
}

func TestStatusByExitCode(t *testing.T) {
	key := lockPath(t)
	ask := func(want int, flags ...string) {
		t.Helper()
		code, out, stderr := run(t, append([]string{"status", key}, flags...)...)
		if code != want || out == "" || stderr != "" {
			t.Errorf("status %q: exit %d, want %d: %s%s", flags, code, want, out, stderr)
		}
	}
	ask(0, "--exit-code")
	p := holding(t, key, "--timeout", "1s")
	ask(75, "--exit-code")
	ask(75, "--exit-code", "-o", "json")
	ask(0)
	p.signal(syscall.SIGSTOP)
	eventually(t, "it is stale", func() bool { return status(t, key).State == "stale" })
	ask(1, "--exit-code")
	p.signal(syscall.SIGCONT)
}

func TestListIsATable(t *testing.T) {
	dir := tempDir(t)
	var ps []*proc
	for _, key := range []string{"a", "a-much-longer-key"} {
		ps = append(ps, holding(t, dir+"/"+key, "--owner", "owner-of-"+key))
	}
	_, out, _ := run(t, "list", dir)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q", out)
	}
	for _, column := range []string{"STATE", "HOLDER", "HELD FOR", "STALE IN", "TOKEN"} {
		at := strings.Index(lines[0], column)
		for _, line := range lines[1:] {
			if at < 2 || len(line) < at || line[at-2:at] != "  " || line[at] == ' ' {
				t.Errorf("%s is not aligned:\n%s", column, out)
			}
		}
	}
	if _, out, _ := run(t, "list", tempDir(t)); out != "" {
		t.Errorf("no locks: %q", out)
	}
	for _, p := range ps {
		p.in.Close()
		if code := p.wait(); code != 0 {
			t.Errorf("exit %d: %s", code, p.errors())
		}
	}
}
