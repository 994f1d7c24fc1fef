//go:build linux

package efs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// overlay mounts one over directories of this file system.
func overlay(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	top := tmpfs(t, "size=1m")
	dir := filepath.Join(top, "merged")
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + top + "/lower,upperdir=" + top + "/upper,workdir=" + top + "/work"
	if out, err := exec.Command("mount", "-t", "overlay", "-o", options, "overlay", dir).CombinedOutput(); err != nil {
		t.Skipf("an overlay cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// What is required to be on a network is refused where it is not, with nothing made.
func TestMountRequired(t *testing.T) {
	for name, dir := range map[string]func(*testing.T) string{
		"the system's": func(t *testing.T) string { return t.TempDir() },
		"tmpfs":        func(t *testing.T) string { return tmpfs(t, "size=1m") },
		"overlay":      overlay,
	} {
		t.Run(name, func(t *testing.T) {
			dir := dir(t)
			before := contents(t, dir)
			for _, path := range []string{dir, dir + "/new", dir + "/new/and/deeper"} {
				_, err := Open(path, &Options{Mounted: true, Create: true})
				if err == nil || !strings.Contains(err.Error(), "is required") || !strings.Contains(err.Error(), "not on a network") || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s: %v", path, err)
				}
				if _, _, err := OpenPath(path+"/lock", &Options{Mounted: true}); err == nil {
					t.Errorf("%s/lock is opened", path)
				}
				_, err = backend.Open(ctxBG, "efs://"+path+"?mount=required&create=true")
				if err == nil || !strings.Contains(err.Error(), "not on a network") {
					t.Errorf("the URL of %s: %v", path, err)
				}
			}
			if now := contents(t, dir); len(now) != len(before) {
				t.Errorf("made: %q", now)
			}
		})
	}
}

// A root that was made more than one level deep is told of.
func TestMadeLevelsAreToldOf(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		path   string
		warned bool
	}{{"", false}, {"/one", false}, {"/two/deep", true}, {"/three/levels/deep", true}, {"/three/other", false}} {
		path := c.path
		for _, again := range []bool{false, true} {
			b := open(t, dir+path, &Options{Create: true})
			ws := b.Warnings()
			if c.warned && !again {
				if len(ws) != 1 || !strings.Contains(ws[0], dir+path) || !strings.Contains(ws[0], "mounted") || strings.Contains(ws[0], "\n") {
					t.Errorf("%s: %q", path, ws)
				}
			} else if len(ws) != 0 {
				t.Errorf("%s, again: %v: %q", path, again, ws)
			}
		}
	}
	if _, err := Open(dir+"/missing", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without Create: %v", err)
	}
}

// A root whose file system went away is not made again on the one below.
func TestRootIsNotMadeWhereItsMountWas(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "hasp-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting is not permitted here: %v: %s", err, out)
	}
	b := open(t, dir+"/root", &Options{Create: true})
	g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := b.Renew(ctxBG, g); !errors.Is(err, backend.ErrLost) {
		t.Errorf("heartbeat: %v", err)
	}
	for _, key := range []string{"lock", "other", "sub/lock"} {
		if _, err := b.Acquire(ctxBG, key, testClaim("b", time.Minute)); !errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), dir) {
			t.Errorf("acquire %q: %v", key, err)
		}
	}
	if made := contents(t, dir); len(made) != 0 {
		t.Errorf("made below the mount: %q", made)
	}
}
