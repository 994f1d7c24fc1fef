//go:build unix

package efs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

const peerEnv = "HASP_EFS_PEER"

func python(t *testing.T) string {
	t.Helper()
	py, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is needed for the processes of the lock-file protocol: install it (make test does)")
	}
	return py
}

// goPeer is what a child process does: it holds the lock until it is killed, or adds
// to a counter under it for a while.
func goPeer(spec string) int {
	f := strings.SplitN(spec, "|", 5) // what, TTL, log, counter, path
	ttl, _ := time.ParseDuration(f[1])
	run := func() error {
		b, key, err := OpenPath(f[4], &Options{LegacyTimeout: ttl})
		if err != nil {
			return err
		}
		l := hasp.New(b, &hasp.Options{TTL: ttl, RetryInterval: 20 * time.Millisecond, MaxRetries: hasp.Unlimited})
		defer l.Close()
		if f[0] == "hold" {
			if _, err := l.Acquire(ctxBG, key); err != nil {
				return err
			}
			fmt.Println("held")
			time.Sleep(time.Hour)
		}
		d, err := time.ParseDuration(f[0])
		if err != nil {
			return err
		}
		log, err := os.OpenFile(f[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer log.Close()
		end, rounds := time.Now().Add(d), 0
		for time.Now().Before(end) {
			lease, err := l.Acquire(ctxBG, key)
			if err != nil {
				return err
			}
			entered := monotonic()
			n := 0
			if c, err := os.ReadFile(f[3]); err == nil {
				if n, err = strconv.Atoi(string(c)); err != nil {
					return err
				}
			}
			if err := os.WriteFile(f[3], []byte(strconv.Itoa(n+1)), 0o644); err != nil {
				return err
			}
			left := monotonic()
			if err := lease.Release(ctxBG); err != nil {
				return err
			}
			rounds++
			fmt.Fprintf(log, "%d %d\n", entered, left)
			// The lock file's protocol has no queue: who comes back at once, always wins.
			time.Sleep(time.Millisecond)
		}
		fmt.Printf("rounds %d\n", rounds)
		return nil
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func goPeerCmd(what string, ttl time.Duration, log, counter, path string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%s|%s", peerEnv, what, ttl, log, counter, path))
	return cmd
}

func legacyCmd(t *testing.T, path string, args ...string) *exec.Cmd {
	return exec.Command(python(t), append([]string{"testdata/legacy.py", path}, args...)...)
}

// A lock whose holder was killed is taken over by hasp processes, whichever kind it was,
// and from a hasp process by no other: EfsLock processes wait in vain, until hasp clear.
func TestTakeOverFromEitherKind(t *testing.T) {
	const ttl = 2 * time.Second
	dir := t.TempDir()
	holders := map[string]func(path string) *exec.Cmd{
		"hasp":   func(path string) *exec.Cmd { return goPeerCmd("hold", ttl, "", "", path) },
		"legacy": func(path string) *exec.Cmd { return legacyCmd(t, path, "--hold", "--first-sleep=0") },
	}
	killed := func(t *testing.T, path string, hold *exec.Cmd) {
		t.Helper()
		out, err := hold.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		hold.Stderr = os.Stderr
		if err := hold.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_ = hold.Process.Kill()
		_ = hold.Wait()
	}
	for h, holder := range holders {
		t.Run(h+" to hasp", func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, h, "lock")
			killed(t, path, holder(path))
			start := time.Now()
			ctx, cancel := context.WithTimeout(ctxBG, 30*time.Second)
			defer cancel()
			cmd := goPeerCmd("1ms", ttl, path+".log", path+".counter", path)
			take := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
			take.Env = cmd.Env
			if out, err := take.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			took := time.Since(start)
			t.Logf("taken over %v after the kill", took)
			if took < ttl/2 {
				t.Errorf("taken over after %v: the holder's TTL is %v", took, ttl)
			}
		})
	}
	t.Run("hasp to legacy", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(dir, "clear", "lock")
		killed(t, path, holders["hasp"](path))
		for _, reading := range []string{"held", "removed"} {
			for _, skew := range []string{"0", "31536000"} {
				out, err := legacyCmd(t, path, "--timeout=0.01", "--retry-interval=0.01", "--max-retries=20", "--first-sleep=0", "--reading="+reading, "--skew="+skew).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "TimeoutError") {
					t.Fatalf("a process of the lock-file protocol got past the guard: %s", out)
				}
			}
		}
		b := open(t, filepath.Dir(path), nil)
		if rs, err := b.Clear(ctxBG, "", false); err != nil || len(rs) != 0 {
			t.Errorf("clear, of what nobody holds: %v, %v", rs, err)
		}
		if rs, err := b.Clear(ctxBG, "other/", true); err != nil || len(rs) != 0 {
			t.Errorf("clear of another directory: %v, %v", rs, err)
		}
		for deadline := time.Now().Add(30 * time.Second); ; {
			rs, err := b.Clear(ctxBG, "", true)
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("clear: %v, %v", rs, err)
			}
			if len(rs) == 1 && rs[0].State == backend.Stale && rs[0].Key == "lock" {
				break
			}
		}
		if out, err := legacyCmd(t, path, "--retry-interval=0.01", "--max-retries=20", "--first-sleep=0").CombinedOutput(); err != nil {
			t.Errorf("after clear: %v: %s", err, out)
		}
	})
}

// While a live holder of either kind has the lock, the other kind says who it is.
func TestTheOtherKindIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	hold := legacyCmd(t, path, "--hold", "--first-sleep=0")
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hold.Process.Kill(); _ = hold.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	b, key, err := OpenPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for range 3 { // the first attempt moves the baton, later ones look first
		_, err = b.Acquire(ctxBG, key, testClaim("me", time.Minute))
		if !errors.Is(err, hasp.ErrHeld) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", hold.Process.Pid)) {
			t.Fatalf("got %v, want the holder's pid %d", err, hold.Process.Pid)
		}
	}
	r, err := b.Inspect(ctxBG, key)
	if err != nil || r.Holder.PID != hold.Process.Pid || r.State != "held" {
		t.Errorf("inspect: %+v, %v", r, err)
	}
	var held *hasp.HeldError
	if err := b.Break(ctxBG, key, 12345); err == nil {
		t.Error("break with a token that is nobody's did something")
	}
	if err := b.Break(ctxBG, key, 0); err != nil {
		t.Errorf("break of a lock file: %v", err)
	}
	g, err := b.Acquire(ctxBG, key, testClaim("me", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Break(ctxBG, key, 0); !errors.As(err, &held) {
		t.Errorf("break of hasp's own lock file with token 0: %v", err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
	peer := goPeerCmd("hold", time.Minute, "", "", path)
	pout, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Process.Kill(); _ = peer.Wait() }()
	if line, err := bufio.NewReader(pout).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	msg, err := legacyCmd(t, path, "--max-retries=3", "--retry-interval=0.01", "--first-sleep=0").CombinedOutput()
	if err == nil || !strings.Contains(string(msg), "TimeoutError") {
		t.Errorf("a process of the lock-file protocol got past a live holder: %s", msg)
	}
}

// The processes that tests contend with do what the real ones do to what is at the
// path: whatever cannot be opened or read is removed, and a directory cannot be.
func TestPeersBehaveAsEfsLock(t *testing.T) {
	old := "1.5\n1\nhost\nLinux\n"
	put := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o644) }
	}
	directory := func(path string) error {
		return errors.Join(os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "entry"), nil, 0o644))
	}
	for name, c := range map[string]struct {
		prepare func(path string) error
		flags   string
		waits   bool
	}{
		"nothing":                           {func(string) error { return nil }, "", false},
		"a name that opens as no such file": {func(path string) error { return os.Symlink("nowhere", path) }, "--reading=held", false},
		"a stale file":                      {put(old), "--reading=held", false},
		"a stale file, after a pause":       {put(old), "--reading=held --pause=0,0.05", false},
		"a live file":                       {put(fmt.Sprintf("%d.5\n1\n", time.Now().Unix())), "--reading=removed", true},
		"a live file, clock ahead":          {put(fmt.Sprintf("%d.5\n1\n", time.Now().Unix())), "--reading=held --skew=301", false},
		"an empty file, awaited":            {put(""), "--reading=held", true},
		"an empty file, removed":            {put(""), "--reading=removed", false},
		"garbage, awaited":                  {put("\xff\xfe\nx"), "--reading=held", true},
		"garbage, removed":                  {put("\xff\xfe\nx"), "--reading=removed", false},
		"a directory":                       {directory, "--reading=removed --skew=31536000", true},
		"a directory, awaited":              {directory, "--reading=held", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "lock")
			if err := c.prepare(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			args := append(strings.Fields(c.flags), "--max-retries=3", "--retry-interval=0.01", "--first-sleep=0")
			out, err := legacyCmd(t, path, args...).CombinedOutput()
			after, _ := os.Lstat(path)
			if c.waits {
				if err == nil || !strings.Contains(string(out), "TimeoutError") || after == nil || !os.SameFile(before, after) {
					t.Errorf("it has to wait, and to leave what is there: %v, %s", err, out)
				}
			} else if err != nil || after != nil {
				t.Errorf("it has to take the lock and release it: %v, %s", err, out)
			}
		})
	}
}
