//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// One call, for a path, as the programs that come from the lock-file protocol want.
func TestDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sweeps", "foo", "lock")
	// atomic: what orders these is a lock in a file system, which the race
	// detector does not know
	var in, rounds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := Do(ctxBG, path, &hasp.Options{RetryInterval: 100 * time.Millisecond}, func(_ context.Context, lease *hasp.Lease) error {
				if n := in.Add(1); n != 1 {
					t.Errorf("%d are in", n)
				}
				runtime.Gosched()
				if f, err := os.ReadFile(path); err != nil || parseLockFile(f).gen != lease.Token() {
					t.Errorf("the lock file is %q, %v", f, err)
				}
				in.Add(-1)
				rounds.Add(1)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := rounds.Load(); n != 8 {
		t.Errorf("%d of 8 rounds", n)
	}
	if got := contents(t, filepath.Dir(path)); len(got) != 2 {
		t.Errorf("left behind: %q", got)
	}
}

// A holder whose directory was moved away, or whose state was removed, is told at
// the next heartbeat, and the path is another lock from then on, with a token that
// is greater all the same.
func TestDirectoryMovedOrRemoved(t *testing.T) {
	for name, do := range map[string]func(dir string) error{
		"directory moved":         func(d string) error { return os.Rename(d+"/sweep", d+"/sweep.old") },
		"directory removed":       func(d string) error { return os.RemoveAll(d + "/sweep") },
		"state directory moved":   func(d string) error { return os.Rename(d+"/sweep/.lock.hasp", d+"/elsewhere") },
		"state directory removed": func(d string) error { return os.RemoveAll(d + "/sweep/.lock.hasp") },
		"state and file removed": func(d string) error {
			return errors.Join(os.RemoveAll(d+"/sweep/.lock.hasp"), os.Remove(d+"/sweep/lock"))
		},
		"state directory replaced": func(d string) error {
			return errors.Join(os.RemoveAll(d+"/sweep/.lock.hasp"), os.MkdirAll(d+"/sweep/.lock.hasp", 0o755), os.WriteFile(d+"/sweep/.lock.hasp/00000000000000000001.free", nil, 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, noFile := range []bool{false, true} {
				if noFile && strings.Contains(name, "file") {
					continue
				}
				dir := t.TempDir()
				a, b := open(t, dir, &Options{NoLockFile: noFile}), open(t, dir, &Options{NoLockFile: noFile})
				g, err := a.Acquire(ctxBG, "sweep/lock", testClaim("a", time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				if err := do(dir); err != nil {
					t.Fatal(err)
				}
				replaced := strings.Contains(name, "replaced")
				fileStays := strings.HasPrefix(name, "state directory") && !noFile
				g2, err := b.Acquire(ctxBG, "sweep/lock", testClaim("b", time.Minute))
				if fileStays {
					// The lock file still says that somebody has it, and keeps the path shut.
					if !errors.Is(err, backend.ErrHeld) {
						t.Errorf("lock file there: %v", err)
					}
				} else if err != nil || g2.Token <= g.Token && !replaced {
					t.Errorf("lockfile=%v: token %d after %d, %v", !noFile, g2.Token, g.Token, err)
				}
				if _, err := a.Renew(ctxBG, g); !errors.Is(err, backend.ErrLost) {
					t.Errorf("lockfile=%v: heartbeat: %v", !noFile, err)
				}
				if err := a.Release(ctxBG, g); !errors.Is(err, backend.ErrLost) {
					t.Errorf("lockfile=%v: release: %v", !noFile, err)
				}
				if !fileStays {
					if _, err := b.Renew(ctxBG, g2); err != nil {
						t.Errorf("lockfile=%v: the successor's heartbeat: %v", !noFile, err)
					}
				}
			}
		})
	}
}

// More locks than are kept open: each is opened again when it is needed.
func TestManyLocksFewDescriptors(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	var gs []backend.Grant
	const n = 3 * maxIdle
	for i := range n {
		g, err := b.Acquire(ctxBG, fmt.Sprintf("d%d/lock", i%7*1000+i), testClaim("a", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		gs = append(gs, g)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err == nil && len(fds) > 2*maxIdle+50 {
		t.Errorf("%d descriptors for %d locks", len(fds), n)
	}
	for _, g := range gs {
		g, err := b.Renew(ctxBG, g)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Release(ctxBG, g); err != nil {
			t.Fatal(err)
		}
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	for _, k := range []string{"b", "a/z", "a/lock", "a.b", "c/d/e/f", ".hidden"} {
		if _, err := b.Acquire(ctxBG, k, testClaim("x", time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	g, err := b.Acquire(ctxBG, "a/free", testClaim("y", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]string{
		"": ".hidden a.b a/lock a/z b c/d/e/f", "a": "a.b a/lock a/z", "a/": "a/lock a/z", "a/l": "a/lock",
		"c/d/": "c/d/e/f", "nothing/": "", "zz": "",
	} {
		rs, err := b.List(ctxBG, prefix)
		if err != nil {
			t.Errorf("prefix %q: %v", prefix, err)
		}
		var keys []string
		for _, r := range rs {
			keys = append(keys, r.Key)
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("prefix %q: %q, want %q", prefix, got, want)
		}
	}
}

// The warnings and refusals of mounts, by what the system says of them.
func TestMounts(t *testing.T) {
	for _, c := range []struct {
		m              mount
		refused, warns string
	}{
		{mount{"ext4", []string{"rw"}}, "", ""},
		{mount{"nfs4", []string{"rw", "vers=4.1", "hard"}}, "", ""},
		{mount{"nfs4", []string{"rw", "vers=4.1", "soft"}}, "", "soft"},
		{mount{"nfs4", []string{"rw", "vers=4.0", "hard"}}, "", "4.0"},
		{mount{"nfs4", []string{"rw", "vers=4.1", "nocto"}}, "nocto", ""},
		{mount{"nfs", []string{"rw", "vers=3"}}, "version 3", ""},
		{mount{"fuse.s3fs", []string{"rw"}}, "not atomic", "fuse.s3fs"},
		{mount{"cifs", []string{"rw"}}, "", "cifs"},
	} {
		if why := c.m.refusal(); (why == "") != (c.refused == "") || !strings.Contains(why, c.refused) {
			t.Errorf("%v: refused for %q, want %q", c.m, why, c.refused)
		}
		if ws := strings.Join(c.m.warnings(), "; "); (ws == "") != (c.warns == "") || !strings.Contains(ws, c.warns) {
			t.Errorf("%v: warnings %q, want %q", c.m, ws, c.warns)
		}
	}
	if runtime.GOOS == "linux" {
		f, err := os.Open("/proc")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if m, ok := mountOf(f); !ok || m.fstype != "proc" {
			t.Errorf("/proc is on %+v, %v", m, ok)
		}
	}
	sticky := t.TempDir()
	if err := os.Chmod(sticky, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if ws := open(t, sticky, nil).Warnings(); len(ws) != 1 || !strings.Contains(ws[0], "sticky") {
		t.Errorf("warnings: %q", ws)
	}
}

// A clock that is carried on is never ahead of the one that it was read from.
func TestServerClockLags(t *testing.T) {
	var c serverClock
	if _, ok := c.last(time.Hour); ok {
		t.Error("a clock that was never read tells the time")
	}
	read := time.Unix(1000, 0)
	c.set(read, time.Now().Add(-10*time.Second))
	got, ok := c.last(time.Minute)
	if d := got.Sub(read); !ok || d > 10*time.Second+500*time.Millisecond || d < 9900*time.Millisecond {
		t.Errorf("10 s later it says %v, %v", d, ok)
	}
	if _, ok := c.last(9 * time.Second); ok {
		t.Error("older than asked for")
	}
}

func ExampleDo() {
	dir, err := os.MkdirTemp("", "sweeps")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	err = Do(context.Background(), dir+"/foo/lock", nil, func(ctx context.Context, lease *hasp.Lease) error {
		fmt.Println("creating the sweep, alone")
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: creating the sweep, alone
}
