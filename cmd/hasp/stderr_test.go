//go:build linux

package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startUnread starts hasp with a standard error that nobody reads: a full pipe, or
// one whose reader has gone.
func startUnread(t *testing.T, gone bool, args ...string) *proc {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if gone {
		r.Close()
	} else {
		if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{4096, 1} {
			for err = nil; err == nil; {
				_, err = w.Write(make([]byte, n))
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
		}
	}
	w.Fd() // blocking, as pipes are
	cmd := exec.Command(bin, args...)
	cmd.Stderr = w
	p := startOn(t, cmd)
	w.Close()
	return p
}

func TestGoneStderrWhileWaiting(t *testing.T) {
	key := lockPath(t)
	holder := holding(t, key)
	waiter := startUnread(t, true, "run", key, "--", "echo", "mine")
	// Another that came later waits: then this one does, or is about to.
	start(t, "run", key, "--", "true").waiting()
	holder.in.Close()
	if got := waiter.line(); got != "mine" {
		t.Errorf("got %q", got)
	}
	if code := waiter.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestFullStderrWhileWaiting(t *testing.T) {
	key := lockPath(t)
	holder := holding(t, key)
	waiter := startUnread(t, false, "run", key, "--", "echo", "mine")
	stopped := startUnread(t, false, "run", key, "--", "echo", "mine")
	for _, p := range []*proc{waiter, stopped} {
		eventually(t, "it hangs in writing that it waits", func() bool { return writesTo(p.cmd.Process.Pid, 2) })
	}
	stopped.signal(syscall.SIGTERM)
	if code := stopped.wait(); code != 128+15 {
		t.Errorf("after SIGTERM: exit %d", code)
	}
	holder.in.Close()
	if got := waiter.line(); got != "mine" {
		t.Errorf("got %q", got)
	}
	if code := waiter.wait(); code != 0 {
		t.Errorf("the waiter: exit %d", code)
	}
}

// writesTo tells whether one of the process's threads is in write(fd, …).
func writesTo(pid, fd int) bool {
	calls, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, path := range calls {
		text, _ := os.ReadFile(path)
		if strings.HasPrefix(string(text), fmt.Sprintf("%d %#x ", syscall.SYS_WRITE, fd)) {
			return true
		}
	}
	return false
}

// A warning in the middle of the command costs neither it nor the lock.
func TestUnreadStderrWhileRunning(t *testing.T) {
	for name, gone := range map[string]bool{"gone": true, "full": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := lockPath(t)
			p := startUnread(t, gone, "run", "--timeout", "3s", key, "--", "sh", "-c", "echo up; read x; exit 5")
			if got := p.line(); got != "up" {
				t.Fatalf("got %q", got)
			}
			// hasp warns of that when it next tells the guard of a heartbeat.
			if err := syscall.Kill(p.guarded(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for beats, last := 0, time.Hour.Seconds(); beats < 3; {
				left := remaining(t, key)
				if left > last {
					beats++
				}
				if last = left; left == 0 {
					t.Fatal("there are no heartbeats any more")
				}
			}
			fmt.Fprintln(p.in)
			if code := p.wait(); code != 5 {
				t.Errorf("exit %d, want the command's own, 5", code)
			}
		})
	}
}

// remaining is for how many seconds the lock is good, or 0.
func remaining(t *testing.T, key string) float64 {
	t.Helper()
	_, out, stderr := run(t, "status", "-o", "json", key)
	var l struct {
		State     string
		Remaining float64 `json:"remaining_seconds"`
	}
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	if l.State != "held" {
		return 0
	}
	return l.Remaining
}

// Whoever reads the output may stop reading, and the command gets its SIGPIPE.
func TestOutputReaderGone(t *testing.T) {
	code, out, stderr := runCmd(t, exec.Command("bash", "-c", `"$0" run "$1" -- sh -c 'kill -PIPE $$; echo survived' ; echo $?
		"$0" version | true; echo ${PIPESTATUS[0]}`, bin, lockPath(t)))
	if want := "141\n"; code != 0 || !strings.HasPrefix(out, want) || strings.Contains(stderr, "hasp:") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
}

func TestJSONResultHasALineOfItsOwn(t *testing.T) {
	_, _, stderr := run(t, "run", "-o", "json", lockPath(t), "--", "sh", "-c", "printf half >&2; exit 3")
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	var res struct{ Exit int }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &res); err != nil || res.Exit != 3 || lines[0] != "half" {
		t.Errorf("%v: %q", err, stderr)
	}
}

// Process 1 of a namespace cannot end itself by a signal.
func TestCtrlCAsProcessOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a namespace; what it is for is tested by CI, which is root")
	}
	key := lockPath(t)
	holder := holding(t, key, "--owner", "trainer-7")
	p, keys, _ := onTerminal(t, "unshare", "--pid", "--fork", "--kill-child", bin, "run", key, "--", "echo", "mine")
	p.shows("trainer-7")
	fmt.Fprint(keys, "\x03")
	if code := p.wait(); code != 128+int(syscall.SIGINT) {
		t.Errorf("exit %d: %s", code, p.errors())
	}
	holder.in.Close()
	if code := holder.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, holder.errors())
	}
}
