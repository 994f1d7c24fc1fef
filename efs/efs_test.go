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
			err := Do(ctxBG, path, &hasp.Options{RetryInterval: 100 * time.Millisecond}, func(context.Context, *hasp.Lease) error {
				if n := in.Add(1); n != 1 {
					t.Errorf("%d are in", n)
				}
				runtime.Gosched()
				if r, err := os.Stat(path); err != nil || !r.IsDir() {
					t.Errorf("the guard is %v, %v", r, err)
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
	if got, err := leftovers(filepath.Dir(path)); err != nil || len(got) != 0 {
		t.Errorf("left behind: %q, %v", got, err)
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
		"state and guard removed": func(d string) error {
			return errors.Join(os.RemoveAll(d+"/sweep/.lock.hasp"), os.RemoveAll(d+"/sweep/lock"))
		},
		"state directory replaced": func(d string) error {
			return errors.Join(os.RemoveAll(d+"/sweep/.lock.hasp"), os.MkdirAll(d+"/sweep/.lock.hasp", 0o755), os.WriteFile(d+"/sweep/.lock.hasp/"+batonName(1), nil, 0o644))
		},
		"root moved and made anew": func(d string) error {
			return errors.Join(os.Rename(d, d+".old"), os.Mkdir(d, 0o755))
		},
		"root moved": func(d string) error { return os.Rename(d, d+".old") },
	} {
		for _, kind := range []LockFile{Directory, File, NoLockFile} {
			for _, beat := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%d/heartbeat=%v", name, kind, beat), func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "root")
					if err := os.MkdirAll(dir+"/sweep", 0o755); err != nil {
						t.Fatal(err)
					}
					a, b := open(t, dir, &Options{LockFile: kind}), open(t, dir, &Options{LockFile: kind})
					if name == "root moved" {
						a.opts.Create, b.opts.Create = true, true // as of OpenPath
					}
					g, err := a.Acquire(ctxBG, "sweep/lock", testClaim("a", time.Minute))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := b.Acquire(ctxBG, "sweep/lock", testClaim("b", time.Minute)); !errors.Is(err, backend.ErrHeld) {
						t.Fatal(err)
					}
					if err := do(dir); err != nil {
						t.Fatal(err)
					}
					replaced := strings.Contains(name, "replaced")
					// What stands at the path without its state may be anybody's who lives.
					fileStays := strings.HasPrefix(name, "state directory") && kind != NoLockFile
					g2, err := b.Acquire(ctxBG, "sweep/lock", testClaim("b", time.Minute))
					if fileStays {
						if !errors.Is(err, backend.ErrHeld) {
							t.Errorf("lock file there: %v", err)
						}
					} else if err != nil || g2.Token <= g.Token && !replaced {
						t.Errorf("token %d after %d, %v", g2.Token, g.Token, err)
					}
					if beat {
						if _, err := a.Renew(ctxBG, g); !errors.Is(err, backend.ErrLost) {
							t.Errorf("heartbeat: %v", err)
						}
					}
					if err := a.Release(ctxBG, g); !errors.Is(err, backend.ErrLost) || strings.HasSuffix(err.Error(), "; ") {
						t.Errorf("release: %v", err)
					}
					if !fileStays {
						if _, err := b.Renew(ctxBG, g2); err != nil {
							t.Errorf("the successor's heartbeat: %v", err)
						}
						if err := b.Release(ctxBG, g2); err != nil {
							t.Errorf("the successor's release: %v", err)
						}
					}
				})
			}
		}
	}
}

// A lock whose guard was removed, or replaced, says so, with and without a heartbeat in
// between.
func TestGuardRemovedOrReplaced(t *testing.T) {
	legacy := func(d string) error {
		return errors.Join(os.RemoveAll(d+"/lock"), os.WriteFile(d+"/lock", []byte(fmt.Sprintf("%d.5\n4711\nother-host\nLinux\n", time.Now().Unix())), 0o644))
	}
	for name, do := range map[string]func(d string) error{
		"removed":               func(d string) error { return os.RemoveAll(d + "/lock") },
		"replaced by a file":    legacy,
		"replaced by directory": func(d string) error { return errors.Join(os.RemoveAll(d+"/lock"), os.Mkdir(d+"/lock", 0o755)) },
	} {
		for _, kind := range []LockFile{Directory, File} {
			for _, beat := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%d/heartbeat=%v", name, kind, beat), func(t *testing.T) {
					dir := t.TempDir()
					b := open(t, dir, &Options{LockFile: kind})
					g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
					if err != nil {
						t.Fatal(err)
					}
					if err := do(dir); err != nil {
						t.Fatal(err)
					}
					if beat {
						_, err := b.Renew(ctxBG, g)
						if lost := errors.Is(err, backend.ErrLost); lost != (name != "removed") || !lost && err != nil {
							t.Errorf("heartbeat: %v", err)
						}
					}
					err = b.Release(ctxBG, g)
					if !errors.Is(err, backend.ErrLost) || strings.HasSuffix(err.Error(), "; ") {
						t.Errorf("release: %v", err)
					}
					t.Log(err)
					switch name {
					case "replaced by a file":
						if f, err := os.ReadFile(dir + "/lock"); err != nil || !strings.Contains(string(f), "other-host") {
							t.Errorf("the other's file is %q, %v", f, err)
						}
						if r, err := b.Inspect(ctxBG, "lock"); err != nil || r.Holder.Host != "other-host" {
							t.Errorf("inspect: %+v, %v", r, err)
						}
					case "removed":
						g, err := b.Acquire(ctxBG, "lock", testClaim("b", time.Minute))
						if err != nil {
							t.Fatal(err)
						}
						if err := b.Release(ctxBG, g); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
	}
}

// More locks than are remembered, and no descriptor for any.
func TestManyLocksNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	var gs []backend.Grant
	const n = 2 * maxIdle
	for i := range n {
		g, err := b.Acquire(ctxBG, fmt.Sprintf("d%d/lock", i), testClaim("a", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		gs = append(gs, g)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err == nil && len(fds) > 50 {
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

func TestStickyDirectory(t *testing.T) {
	sticky := t.TempDir()
	if err := os.Chmod(sticky, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if ws := open(t, sticky, nil).Warnings(); len(ws) != 1 || !strings.Contains(ws[0], "sticky") {
		t.Errorf("warnings: %q", ws)
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
