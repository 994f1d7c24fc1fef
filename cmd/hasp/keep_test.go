//go:build unix

package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// noValue fails unless key has none.
func noValue(t *testing.T, key string) {
	t.Helper()
	if code, out, stderr := run(t, "value", key); code != 1 || out != "" || stderr != fmt.Sprintf("hasp: value %q: there is no value\n", key) {
		t.Errorf("value: exit %d: %q, %q", code, out, stderr)
	}
}

// Each of many prints what the one that ran it has written.
func TestKeepAmongMany(t *testing.T) {
	dir := tempDir(t)
	key, runs := filepath.Join(dir, "lock"), filepath.Join(dir, "runs")
	var ps []*proc
	for range 8 {
		ps = append(ps, start(t, "once", key, "--keep", "--", "sh", "-c", `echo run >> "$0"; echo id-$$`, runs))
	}
	first := ""
	for _, p := range ps {
		id := p.line()
		if first == "" {
			first = id
		}
		if code := p.wait(); code != 0 || id != first || !strings.HasPrefix(id, "id-") {
			t.Errorf("exit %d: %q, and another %q; standard error %q", code, id, first, p.errors())
		}
	}
	if text, err := os.ReadFile(runs); string(text) != "run\n" {
		t.Errorf("it ran %d times (%v)", strings.Count(string(text), "\n"), err)
	}
	if code, out, stderr := run(t, "value", key); code != 0 || out != first+"\n" || stderr != "" {
		t.Errorf("value: exit %d: %q, %q", code, out, stderr)
	}
	if l := status(t, key); l.State != "free" {
		t.Errorf("the lock is %s", l.State)
	}
}

func TestKeepIsExact(t *testing.T) {
	for name, data := range map[string]string{
		"nothing": "", "NULs": "a\x00\x00b", "no line end": "x", "not UTF-8": "\xff\xfe\n", "URL": "redis://me:secret@host\n",
		"as much as there can be": strings.Repeat("0123456789abcdef", 4096),
	} {
		dir := tempDir(t)
		key, file := filepath.Join(dir, "lock"), filepath.Join(dir, "data")
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"cat", "false"} { // the second is not run
			if code, out, stderr := run(t, "once", key, "--keep", "--", command, file); code != 0 || out != data || stderr != "" {
				t.Errorf("%s: %s: exit %d: %.40q (%d bytes), %q", name, command, code, out, len(out), stderr)
			}
		}
		if code, out, _ := run(t, "value", key); code != 0 || out != data {
			t.Errorf("%s: value: exit %d: %.40q", name, code, out)
		}
	}
}

// What is too long to be kept is not lost, and memory has an end.
func TestKeepTooMuch(t *testing.T) {
	key := lockPath(t)
	for _, n := range []int{64<<10 + 1, 3 << 20} {
		for range 2 { // nothing is kept, so the second time is as the first
			code, out, stderr := run(t, "once", key, "--keep", "--", "sh", "-c", `head -c $0 /dev/zero | tr '\0' x`, strconv.Itoa(n))
			written, said, _ := strings.Cut(stderr, "\n")
			if code != 65 || out != "" || written != strings.Repeat("x", n) || !strings.Contains(said, "more than the 64 KiB that can be kept: nothing is kept") {
				t.Errorf("%d bytes: exit %d: %d bytes on standard output, %d on standard error, %q", n, code, len(out), len(written), said)
			}
			noValue(t, key)
		}
	}
}

func TestKeepNothingOfWhatFailed(t *testing.T) {
	key := lockPath(t)
	for script, want := range map[string]int{"echo half; exit 3": 3, "echo half; kill -9 $$": 128 + 9} {
		if code, out, stderr := run(t, "once", key, "--keep", "--", "sh", "-c", script); code != want || out != "" || stderr != "half\n" {
			t.Errorf("%s: exit %d: %q, %q", script, code, out, stderr)
		}
		noValue(t, key)
	}
	code, out, stderr := run(t, "once", key, "--keep", "-o", "json", "--", "sh", "-c", "printf half; exit 3")
	if code != 3 || out != "" || !strings.HasPrefix(stderr, "half\n\n{") || !strings.Contains(stderr, `"ran":true,"exit":3`) {
		t.Errorf("exit %d: %q, %q", code, out, stderr)
	}
	if code, out, _ := run(t, "once", key, "--keep", "--", "echo", "whole"); code != 0 || out != "whole\n" {
		t.Errorf("then: exit %d: %q", code, out)
	}
}

// A holder that was broken keeps nothing, whatever its command does.
func TestKeepNothingUnderALockThatWasLost(t *testing.T) {
	key := lockPath(t)
	p := start(t, "once", key, "--keep", "--", "sh", "-c", `echo up >&2; echo late; read x; exit 0`)
	eventually(t, "the command runs", func() bool { return strings.Contains(p.errors(), "up\n") })
	if code, _, stderr := run(t, "break", key, "--token", fmt.Sprint(status(t, key).Token)); code != 0 {
		t.Fatalf("break: exit %d: %s", code, stderr)
	}
	p.in.Close()
	code := p.wait()
	rest, _ := p.lines.ReadString(0)
	if code != 76 || rest != "" || !strings.Contains(p.errors(), "late\n") || !strings.Contains(p.errors(), "lock was lost") {
		t.Errorf("exit %d: %q, %q", code, rest, p.errors())
	}
	noValue(t, key)
}

// A hasp that is killed keeps nothing, and the next one runs the command again.
func TestKeepNothingWhenKilled(t *testing.T) {
	key := lockPath(t)
	p := start(t, "once", key, "--keep", "--timeout", "2s", "--", "sh", "-c", `echo late; echo up >&2; read x; exit 0`)
	eventually(t, "the command runs", func() bool { return strings.Contains(p.errors(), "up\n") })
	p.signal(syscall.SIGKILL)
	p.wait()
	noValue(t, key)
	if code, out, stderr := run(t, "once", key, "--keep", "--retry-interval", "20ms", "--", "echo", "next"); code != 0 || out != "next\n" {
		t.Errorf("exit %d: %q, %q", code, out, stderr)
	}
}

// Who has left the group and keeps the pipe open is not waited for.
func TestKeepWhatADaemonHoldsOpen(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip(err)
	}
	key := lockPath(t)
	r, w, err := os.Pipe() // ends the daemon
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(bin, "once", key, "--keep", "--", "sh", "-c", `setsid sh -c 'read x <&3' 3<&0 2>/dev/null & echo id`)
	cmd.Stdin = r
	out, err := cmd.Output()
	if err != nil || string(out) != "id\n" {
		t.Errorf("%q, %v", out, err)
	}
	w.Close()
	if code, out, _ := run(t, "value", key); code != 0 || out != "id\n" {
		t.Errorf("value: exit %d: %q", code, out)
	}
}

func TestForgetAndRaise(t *testing.T) {
	dir := tempDir(t)
	key := filepath.Join(dir, "sub", "lock")
	ask := func(want int, says string, args ...string) {
		t.Helper()
		code, out, stderr := run(t, args...)
		if code != want || !strings.Contains(out+stderr, says) {
			t.Errorf("hasp %q: exit %d, want %d: %q, want %q", args, code, want, out+stderr, says)
		}
	}
	ask(1, "there is no value", "value", key)
	ask(0, key+": there was no value\n", "forget", key)
	if _, err := os.Stat(filepath.Dir(key)); err == nil {
		t.Error("a directory was made for looking")
	}
	ask(0, "one\n", "once", key, "--keep", "--", "echo", "one")
	ask(0, "one\n", "once", key, "--keep", "--", "echo", "two")
	p := holding(t, key)
	ask(75, "held by", "forget", "--try", key)
	ask(0, "one\n", "value", key)
	waiter := start(t, "forget", key, "--retry-interval", "20ms")
	waiter.waiting()
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, p.errors())
	}
	if got := waiter.line(); got != key+": value forgotten" || waiter.wait() != 0 {
		t.Errorf("forget: %q, %s", got, waiter.errors())
	}
	noValue(t, key)
	ask(0, "two\n", "once", key, "--keep", "--", "echo", "two")

	const above = 9_000_000_000_000_000
	ask(0, fmt.Sprintf("%s: later tokens are greater than %d\n", key, above), "raise", key, "--token", fmt.Sprint(above))
	code, out, _ := run(t, "run", key, "--", "sh", "-c", "echo $HASP_TOKEN")
	if n, err := strconv.ParseUint(strings.TrimSpace(out), 10, 64); code != 0 || err != nil || n <= above {
		t.Errorf("after raise: exit %d: %q", code, out)
	}
}

func TestValueJSON(t *testing.T) {
	dir := tempDir(t)
	key := filepath.Join(dir, "lock")
	ask := func(want string, wantCode int, args ...string) {
		t.Helper()
		code, out, stderr := run(t, append(args, "-o", "json")...)
		if got := strings.TrimSpace(golden(out, dir)); code != wantCode || got != want {
			t.Errorf("hasp %s: exit %d, want %d\n got %s\nwant %s\n%s", args[0], code, wantCode, got, want, stderr)
		}
	}
	ask(`{"key":"<0>/lock","exists":false,"value":null,"encoding":"","token":0}`, 1, "value", key)
	ask(`{"key":"<0>/lock","forgotten":false,"token":0}`, 0, "forget", key)
	run(t, "once", key, "--keep", "--", "printf", `a<b> "é"`)
	ask(`{"key":"<0>/lock","exists":true,"value":"a<b> \"é\"","encoding":"utf-8","token":<n>}`, 0, "value", key)
	ask(`{"key":"<0>/lock","forgotten":true,"token":<n>}`, 0, "forget", key)
	ask(`{"key":"<0>/lock","exists":false,"value":null,"encoding":"","token":<n>}`, 1, "value", key)
	run(t, "once", key, "--keep", "--", "printf", `\377`)
	ask(`{"key":"<0>/lock","exists":true,"value":"/w==","encoding":"base64","token":<n>}`, 0, "value", key)
	ask(`{"key":"<0>/lock","above":7}`, 0, "raise", key, "--token", "7")
	code, out, stderr := run(t, "once", key, "-o", "json", "--keep", "--", "true")
	var res struct {
		Ran  bool
		Exit int
	}
	if err := json.Unmarshal([]byte(stderr), &res); err != nil || code != 0 || out != "\xff" || res.Ran || res.Exit != 0 {
		t.Errorf("once: exit %d: %q, %s (%v)", code, out, stderr, err)
	}
}
