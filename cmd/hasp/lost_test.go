//go:build unix

package main_test

import (
	"strconv"
	"strings"
	"testing"
)

// That the lock was lost is found out by the release at the latest, and the message
// says what it means.
func TestReleaseFindsOutThatTheLockWasLost(t *testing.T) {
	key := lockPath(t)
	p := holding(t, key)
	if code, _, stderr := run(t, "break", key, "--token", strconv.FormatUint(status(t, key).Token, 10)); code != 0 {
		t.Fatalf("break: exit %d: %s", code, stderr)
	}
	p.in.Close()
	if code := p.wait(); code != 76 {
		t.Errorf("exit %d, want 76", code)
	}
	if s := p.errors(); !strings.Contains(s, "lock was lost") || !strings.Contains(s, "; the command had run to its end") {
		t.Errorf("it says %q", s)
	}
}
