//go:build unix

package main_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// rootVar makes this program one that becomes root for good, as sudo does, and sleeps.
const rootVar = "HASP_TEST_ROOT"

func becomeRoot() {
	if err := syscall.Setuid(0); err != nil || syscall.Getuid() != 0 {
		os.Stdout.WriteString("0\n")
		return
	}
	os.Stdout.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	sleep()
}

// becomesRoot is this program as a file that does it, whoever starts it.
func becomesRoot(t *testing.T) string {
	t.Helper()
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	in, err := os.Open(me)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(dir, "becomes-root")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	for p, mode := range map[string]os.FileMode{path: 0o755 | os.ModeSetuid, dir: 0o755} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// The command leaves a process that hasp may not kill. As long as the lock is held hasp
// waits for it. When the lock is lost after that, hasp gives up and says the truth.
func TestLossAfterWhatIsLeftWasKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user; what it is for is tested by CI, which is root")
	}
	t.Setenv(rootVar, "1")
	key := lockPath(t)
	if err := os.Chmod(filepath.Dir(key), 0o777); err != nil {
		t.Fatal(err)
	}
	p := asNobody(t, "run", "--timeout", "3s", "--grace", "100ms", key, "--", "sh", "-c", `"$0" & read x; exit 0`, becomesRoot(t))
	left := p.pid()
	if left == 0 {
		t.Skip("files that change the user do not do so here")
	}
	t.Cleanup(func() { _ = syscall.Kill(left, syscall.SIGKILL) })
	p.in.Close()
	eventually(t, "it has tried to kill it", func() bool { return strings.Contains(p.errors(), "could not be killed") })
	if code, _, stderr := run(t, "break", key, "--token", strconv.FormatUint(status(t, key).Token, 10)); code != 0 {
		t.Fatalf("break: exit %d: %s", code, stderr)
	}
	if code := p.wait(); code != 76 || !alive(left) {
		t.Errorf("exit %d, want 76; what was left runs: %v", code, alive(left))
	}
	if s := p.errors(); !strings.Contains(s, "what the command had left running cannot be stopped, and still runs") || strings.Contains(s, "was stopped") {
		t.Errorf("it says %q", s)
	}
}
