//go:build unix

package main_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestHeldElsewhere(t *testing.T) {
	key := lockPath(t)
	holder := holding(t, key, "--owner", "trainer-7")
	for _, c := range []struct {
		flags []string
		wait  time.Duration
	}{
		{[]string{"--try"}, 0},
		{[]string{"--max-retries", "0"}, 0},
		{[]string{"--max-wait", "0"}, 0},
		{[]string{"--max-wait", "1500ms"}, 1500 * time.Millisecond},
		{[]string{"--max-wait", "1s", "--retry-interval", "300ms"}, time.Second},
		{[]string{"--max-retries", "5", "--retry-interval", "200ms"}, time.Second},
	} {
		args := append(append([]string{"run", "-o", "json"}, c.flags...), key, "--", "true")
		code, _, stderr := run(t, args...)
		var res struct {
			Exit   int     `json:"exit"`
			Ran    bool    `json:"ran"`
			Waited float64 `json:"waited_seconds"`
			Error  string  `json:"error"`
		}
		if err := json.Unmarshal([]byte(stderr), &res); err != nil {
			t.Fatalf("%q: %v: %s", c.flags, err, stderr)
		}
		if code != 75 || res.Exit != 75 || res.Ran {
			t.Errorf("%q: exit %d, want 75: %s", c.flags, code, stderr)
		}
		// The program's own start-up is not in it.
		if over := res.Waited - c.wait.Seconds(); over < 0 || over > 1 {
			t.Errorf("%q: waited %v s, want %v", c.flags, res.Waited, c.wait)
		}
		pid := strconv.Itoa(holder.cmd.Process.Pid)
		if !strings.Contains(res.Error, "held by trainer-7 (") || !strings.Contains(res.Error, "pid "+pid) || !strings.Contains(res.Error, key) {
			t.Errorf("%q: does not name the lock and its holder: %s", c.flags, res.Error)
		}
	}
	holder.in.Close()
	if code := holder.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, holder.errors())
	}
}

func TestWaiterLogsWhoHoldsItAndGetsIt(t *testing.T) {
	key := lockPath(t)
	holder := holding(t, key, "--owner", "trainer-7")
	waiter := start(t, "run", key, "--", "echo", "mine")
	waiter.waiting()
	holder.in.Close()
	if got := waiter.line(); got != "mine" {
		t.Errorf("the waiter's command says %q", got)
	}
	if code := waiter.wait(); code != 0 {
		t.Errorf("the waiter: exit %d", code)
	}
	s := waiter.errors()
	if strings.Count(s, "\n") != 1 || !strings.Contains(s, "held by trainer-7 (") || !strings.Contains(s, "up to 5m20s left") {
		t.Errorf("one line that names the holder is wanted, got %q", s)
	}
}
