//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guarded waits until p's guard process watches.
func (p *proc) guarded() (pid int) {
	p.t.Helper()
	eventually(p.t, "there is a guard", func() bool {
		for _, child := range children(p.cmd.Process.Pid) {
			args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
			if err == nil && bytes.HasPrefix(args, []byte("hasp-guard")) {
				pid = child
				return true
			}
		}
		return false
	})
	return pid
}

func children(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(s); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// family is a command with a child of its own that ignores all signals it can:
// it says both pids.
const family = `trap '' TERM HUP INT
sh -c 'trap "" TERM HUP INT; echo $$; while :; do sleep 1; done' &
echo $$
while :; do sleep 1; done`

// killGroup ends what a test has left running.
func killGroup(t *testing.T, pgid int) {
	t.Cleanup(func() { _ = syscall.Kill(-pgid, syscall.SIGKILL) })
}

func TestKillNineKillsTheCommandAndItsChildren(t *testing.T) {
	key := lockPath(t)
	const ttl = 2 * time.Second
	p := start(t, "run", "--timeout", ttl.String(), key, "--", "sh", "-c", family)
	a, b := p.pid(), p.pid()
	pgid, err := syscall.Getpgid(a)
	if err != nil {
		t.Fatal(err)
	}
	killGroup(t, pgid)
	guard := p.guarded()

	killed := time.Now()
	p.signal(syscall.SIGKILL)
	at := eventually(t, "the command is dead", func() bool { return !alive(pgid) })
	all := eventually(t, "its child is dead", func() bool { return !alive(a) && !alive(b) })
	t.Logf("dead after %v, its child after %v more", at, all)
	if at > time.Second {
		t.Errorf("the command was dead %v after hasp", at)
	}

	next := start(t, "run", "--timeout", ttl.String(), key, "--", "echo", "mine")
	if got := next.line(); got != "mine" {
		t.Errorf("the next says %q", got)
	}
	t.Logf("taken after %v", time.Since(killed))
	if code := next.wait(); code != 0 {
		t.Errorf("the next: exit %d: %s", code, next.errors())
	}
	eventually(t, "the guard has gone", func() bool { return !alive(guard) })
}

// Whoever kills the command at once, before there is a guard, is the kernel.
func TestKillNineAtOnce(t *testing.T) {
	p := start(t, "run", lockPath(t), "--", "sh", "-c", "echo $$; exec sleep 1000")
	pid := p.pid()
	killGroup(t, pid)
	p.signal(syscall.SIGKILL)
	if d := eventually(t, "the command is dead", func() bool { return !alive(pid) }); d > time.Second {
		t.Errorf("the command was dead %v after hasp", d)
	}
}

func TestStoppedPastTTL(t *testing.T) {
	key := lockPath(t)
	// Stopped at 5.4 s, taken over after 6 s: there is that much time to be late.
	p := start(t, "run", "--timeout", "6s", key, "--", "sh", "-c", family)
	a, b := p.pid(), p.pid()
	pgid, err := syscall.Getpgid(a)
	if err != nil {
		t.Fatal(err)
	}
	killGroup(t, pgid)
	p.guarded()
	p.signal(syscall.SIGSTOP)

	// The successor looks, first thing, whether its predecessor's are still there.
	next := start(t, "run", "--timeout", "2s", key, "--", "sh", "-c",
		fmt.Sprintf(`for p in %d %d; do kill -0 $p 2>/dev/null && grep -q '^State:.[^Z]' /proc/$p/status && echo "$p lives"; done; echo $HASP_TOKEN; read x; echo $x`, a, b))
	token := next.line()
	if _, err := strconv.ParseUint(token, 10, 64); err != nil {
		t.Fatalf("when the lock was taken over: %s", token)
	}
	p.signal(syscall.SIGCONT)
	if code := p.wait(); code != 76 {
		t.Errorf("the one that was stopped: exit %d, want 76: %s", code, p.errors())
	}
	if s := p.errors(); !strings.Contains(s, "lock was lost") || !strings.Contains(s, key) {
		t.Errorf("it says %q", s)
	}
	code, out, _ := run(t, "status", key)
	if code != 0 || !strings.Contains(out, "token "+token) || !strings.Contains(out, "held by") {
		t.Errorf("the successor's lock: exit %d: %s", code, out)
	}
	fmt.Fprintln(next.in, "undisturbed")
	if got := next.line(); got != "undisturbed" {
		t.Errorf("the successor says %q", got)
	}
	if code := next.wait(); code != 0 {
		t.Errorf("the successor: exit %d: %s", code, next.errors())
	}
}

func TestBrokenLockStopsTheCommand(t *testing.T) {
	key := lockPath(t)
	p := start(t, "run", "--timeout", "3s", "--grace", "500ms", key, "--", "sh", "-c", family)
	a, b := p.pid(), p.pid()
	pgid, err := syscall.Getpgid(a)
	if err != nil {
		t.Fatal(err)
	}
	killGroup(t, pgid)
	token := status(t, key).Token
	if code, _, stderr := run(t, "break", key, "--token", strconv.FormatUint(token, 10)); code != 0 {
		t.Fatalf("break: exit %d: %s", code, stderr)
	}
	if code := p.wait(); code != 76 {
		t.Errorf("exit %d, want 76: %s", code, p.errors())
	}
	if alive(a) || alive(b) {
		t.Error("hasp has ended before what it ran")
	}
	if code, _, stderr := run(t, "run", "--try", key, "--", "true"); code != 0 {
		t.Errorf("the lock is not free: exit %d: %s", code, stderr)
	}
}

// What the command leaves running in its group ends before the lock is free.
func TestLeftoversEndBeforeTheLock(t *testing.T) {
	key := lockPath(t)
	p := start(t, "run", "--grace", "300ms", key, "--", "sh", "-c",
		`sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' & read x; exit 7`)
	left := p.pid()
	waiter := start(t, "run", key, "--", "sh", "-c",
		fmt.Sprintf(`kill -0 %d 2>/dev/null && grep -q '^State:.[^Z]' /proc/%[1]d/status && echo lives; echo held`, left))
	waiter.waiting()
	p.in.Close()
	if got := waiter.line(); got != "held" {
		t.Errorf("when the lock was free, what the command had left: %s", got)
	}
	if code := p.wait(); code != 7 {
		t.Errorf("exit %d, want the command's own, 7: %s", code, p.errors())
	}
	if code := waiter.wait(); code != 0 {
		t.Errorf("the waiter: exit %d: %s", code, waiter.errors())
	}
}

// Nothing of hasp itself is left running.
func TestGuardEndsWithHasp(t *testing.T) {
	p := holding(t, lockPath(t))
	guard := p.guarded()
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d: %s", code, p.errors())
	}
	if alive(guard) {
		t.Error("the guard outlives hasp")
	}
}

// The terminal's and the user's signals reach the group.
func TestSignalsArePassedOn(t *testing.T) {
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(echoVar, "1")
	p := start(t, "run", lockPath(t), "--", me)
	if got := p.line(); got != "up" {
		t.Fatalf("got %q", got)
	}
	for _, sig := range echoed {
		p.signal(sig.(syscall.Signal))
		if got := p.line(); got != sig.String() {
			t.Errorf("after %v the command says %q", sig, got)
		}
	}
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d: %s", code, p.errors())
	}
}

func TestNohup(t *testing.T) {
	cmd := exec.Command("nohup", bin, "run", lockPath(t), "--", "sh", "-c", "echo up; read x; echo $x")
	p := startCmd(t, cmd)
	if got := p.line(); got != "up" {
		t.Fatalf("got %q", got)
	}
	p.signal(syscall.SIGHUP)
	fmt.Fprintln(p.in, "still here")
	if got := p.line(); got != "still here" {
		t.Errorf("after SIGHUP under nohup: %q", got)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d: %s", code, p.errors())
	}
}
