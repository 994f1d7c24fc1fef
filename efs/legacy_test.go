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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp"
)

const peerEnv = "HASP_EFS_PEER"

// soak is how long peers contend: HASP_SOAK, or a time fit for every run.
func soak(t *testing.T) time.Duration {
	if s := os.Getenv("HASP_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("HASP_SOAK: %v", err)
		}
		return d
	}
	return 10 * time.Second
}

func python(t *testing.T) string {
	t.Helper()
	py, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("python3 is needed for the processes of the lock-file protocol: install it (make test does)")
	}
	return py
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// goPeer is what a child process does: the same as testdata/legacy.py.
func goPeer(spec string) int {
	f := strings.SplitN(spec, "|", 5) // what, TTL, log, counter, path
	ttl, _ := time.ParseDuration(f[1])
	run := func() error {
		b, key, err := OpenPath(f[4], nil)
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

type section struct {
	who           string
	entered, left int64
}

func readSections(t *testing.T, who, log string) []section {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ss []section
	for sc := bufio.NewScanner(f); sc.Scan(); {
		s := section{who: who}
		if _, err := fmt.Sscan(sc.Text(), &s.entered, &s.left); err != nil {
			t.Fatalf("%s: %q: %v", log, sc.Text(), err)
		}
		ss = append(ss, s)
	}
	return ss
}

// Processes of both kinds add to one counter on one path: no update is lost, and no
// two are ever in the critical section.
func TestContendWithTheLockFileProtocol(t *testing.T) {
	for _, c := range []struct {
		name    string
		legacy  int
		reading string
		hasps   int
	}{
		{"four that take an unreadable file for held", 4, "held", 4},
		// Several of this kind break each other without anyone's help: they remove
		// the files that they have created and not written yet.
		{"one that removes an unreadable file", 1, "removed", 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, counter := filepath.Join(dir, "sweep", "lock"), filepath.Join(dir, "counter")
			d := soak(t)
			var cmds []*exec.Cmd
			var names []string
			for i := range c.legacy {
				name := fmt.Sprintf("legacy%d", i)
				cmds = append(cmds, legacyCmd(t, path, "--timeout=300", "--retry-interval=0.02", "--max-retries=1000000",
					"--first-sleep=0.01", "--reading="+c.reading, "--counter="+counter, "--log="+filepath.Join(dir, name),
					fmt.Sprintf("--seconds=%g", d.Seconds())))
				names = append(names, name)
			}
			for i := range c.hasps {
				name := fmt.Sprintf("hasp%d", i)
				cmds = append(cmds, goPeerCmd(d.String(), 300*time.Second, filepath.Join(dir, name), counter, path))
				names = append(names, name)
			}
			outs := make([]strings.Builder, len(cmds))
			for i, cmd := range cmds {
				cmd.Stdout, cmd.Stderr = &outs[i], &outs[i]
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
			}
			for i, cmd := range cmds {
				if err := cmd.Wait(); err != nil {
					t.Errorf("%s: %v: %s", names[i], err, outs[i].String())
				}
			}
			var all []section
			per := map[string]int{}
			for _, name := range names {
				ss := readSections(t, name, filepath.Join(dir, name))
				per[name[:4]] += len(ss)
				all = append(all, ss...)
			}
			slices.SortFunc(all, func(a, b section) int { return int(a.entered - b.entered) })
			for i := 1; i < len(all); i++ {
				if all[i].entered < all[i-1].left {
					t.Errorf("%s entered %v before %s left", all[i].who, time.Duration(all[i-1].left-all[i].entered), all[i-1].who)
				}
			}
			got, err := os.ReadFile(counter)
			if err != nil || string(got) != strconv.Itoa(len(all)) {
				t.Errorf("the counter says %s after %d rounds: updates were lost (%v)", got, len(all), err)
			}
			t.Logf("%d rounds in %v: %v", len(all), d, per)
			if per["lega"] == 0 || per["hasp"] == 0 {
				t.Errorf("one kind never had its turn: %v", per)
			}
			if got := contents(t, filepath.Join(dir, "sweep")); len(got) != 2 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

// A lock whose holder of either kind was killed is taken over by both kinds.
func TestTakeOverFromEitherKind(t *testing.T) {
	const ttl = 2 * time.Second
	dir := t.TempDir()
	holders := map[string]func(path string) *exec.Cmd{
		"hasp":   func(path string) *exec.Cmd { return goPeerCmd("hold", ttl, "", "", path) },
		"legacy": func(path string) *exec.Cmd { return legacyCmd(t, path, "--hold", "--first-sleep=0") },
	}
	takers := map[string]func(path string) *exec.Cmd{
		"hasp": func(path string) *exec.Cmd {
			return goPeerCmd("1ms", ttl, path+".log", path+".counter", path)
		},
		"legacy": func(path string) *exec.Cmd {
			return legacyCmd(t, path, "--timeout=2", "--retry-interval=0.02", "--max-retries=10000", "--first-sleep=0")
		},
	}
	for h, holder := range holders {
		for k, taker := range takers {
			t.Run(h+" to "+k, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(dir, h+k, "lock")
				hold := holder(path)
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
				start := time.Now()
				ctx, cancel := context.WithTimeout(ctxBG, 30*time.Second)
				defer cancel()
				take := taker(path)
				var takeOut strings.Builder
				take.Stdout, take.Stderr = &takeOut, &takeOut
				if err := take.Start(); err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- take.Wait() }()
				select {
				case err := <-done:
					if err != nil {
						t.Fatalf("%v: %s", err, takeOut.String())
					}
				case <-ctx.Done():
					_ = take.Process.Kill()
					t.Fatal("it was not taken over in 30 s")
				}
				took := time.Since(start)
				t.Logf("taken over %v after the kill", took)
				if took < ttl/2 {
					t.Errorf("taken over after %v: the holder's TTL is %v", took, ttl)
				}
			})
		}
	}
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
