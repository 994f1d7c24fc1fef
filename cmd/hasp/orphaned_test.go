//go:build linux

package main_test

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// When hasp alone is killed its lock is free as soon as nothing runs under it any
// more, not after its TTL, which is 300 s here.
func TestKilledHaspsLockIsReleased(t *testing.T) {
	for name, url := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HASP_URL", url)
			best := time.Hour
			for range 3 { // on a machine that is busy with other things one may be late
				best = min(best, killedToAcquired(t))
			}
			t.Logf("the successor's command ran %v after the last of the group had ended", best)
			if best > time.Second {
				t.Errorf("the best of three took %v, want a second at most", best)
			}
		})
	}
}

// killedToAcquired returns how long after the end of a killed hasp's group the next
// one's command runs.
func killedToAcquired(t *testing.T) time.Duration {
	t.Helper()
	p := start(t, "run", "k", "--", "sh", "-c", family)
	a, b := p.pid(), p.pid()
	pgid, err := syscall.Getpgid(a)
	if err != nil {
		t.Fatal(err)
	}
	killGroup(t, pgid)
	guard := p.guarded()
	next := start(t, "run", "k", "--", "sh", "-c",
		fmt.Sprintf(`kill -0 %d 2>/dev/null && grep -q '^State:.[^Z]' /proc/%[1]d/status && echo lives; echo mine`, max(a, b)))
	next.waiting()
	p.signal(syscall.SIGKILL)
	eventually(t, "the group has ended", func() bool { return !alive(a) && !alive(b) })
	ended := time.Now()
	if got := next.line(); got != "mine" {
		t.Errorf("the next says %q", got)
	}
	took := time.Since(ended)
	if code := next.wait(); code != 0 {
		t.Errorf("the next: exit %d: %s", code, next.errors())
	}
	eventually(t, "the guard has gone", func() bool { return !alive(guard) })
	return took
}

// A guard that comes late releases nothing that is another's by then.
func TestKilledHaspsLockIsAnothersByThen(t *testing.T) {
	for name, url := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HASP_URL", url)
			p := start(t, "run", "k", "--", "sh", "-c", family)
			a, b := p.pid(), p.pid()
			pgid, err := syscall.Getpgid(a)
			if err != nil {
				t.Fatal(err)
			}
			killGroup(t, pgid)
			guard := p.guarded()
			if err := syscall.Kill(guard, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			p.signal(syscall.SIGKILL)
			if code, _, stderr := run(t, "break", "k", "--token", fmt.Sprint(status(t, "k").Token)); code != 0 {
				t.Fatalf("break: exit %d: %s", code, stderr)
			}
			next := holding(t, "k")
			token := status(t, "k").Token
			if err := syscall.Kill(guard, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the guard has gone", func() bool { return !alive(guard) })
			if alive(a) || alive(b) {
				t.Error("the guard has left the group alive")
			}
			if l := status(t, "k"); l.State != "held" || l.Token != token {
				t.Errorf("now %+v, want it held with token %d", l, token)
			}
			next.in.Close()
			if code := next.wait(); code != 0 {
				t.Errorf("the next: exit %d: %s", code, next.errors())
			}
		})
	}
}

// The guard finds what hasp has found by its working directory, and nothing of the
// URL's is in its arguments.
func TestKilledHaspsLockIsReleasedByARelativeURL(t *testing.T) {
	t.Chdir(tempDir(t))
	if err := os.Mkdir("locks", 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HASP_URL", "./locks")
	p := start(t, "run", "k", "--", "sh", "-c", family)
	a := p.pid()
	if pgid, err := syscall.Getpgid(a); err == nil {
		killGroup(t, pgid)
	}
	guard := p.guarded()
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", guard)); err != nil || bytes.Contains(args, []byte("locks")) {
		t.Errorf("the guard's arguments are %q, error %v", args, err)
	}
	p.signal(syscall.SIGKILL)
	eventually(t, "the lock is free", func() bool { return status(t, "k").State == "free" })
}
