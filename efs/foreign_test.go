//go:build unix

package efs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp/backend"
)

// foreign are things of somebody's that are no lock files.
var foreign = map[string]func(path string) error{
	"database":          text("SQLite format 3\x00" + strings.Repeat("\x00\x01row", 4000)),
	"yaml":              text("method: bayes\nmetric: {name: loss}\n"),
	"python":            text("#!/usr/bin/env python3\nimport time\nprint(time.time())\n"),
	"json":              text(`{"time": 1763862345.5}`),
	"binary":            text("\x7fELF\x02\x01\x01\x00\x00\xff\xfe"),
	"blank lines":       text("\n\n1763862345.5\n"),
	"pid file":          text("4123\n"),
	"column of numbers": text("0.25\n0.5\n0.75\n1.0\n1.25\n"),
	"log with times":    text(strings.Repeat("1763862345.5\n", 1000)),
	"directory":         func(p string) error { return os.Mkdir(p, 0o755) },
	"directory of data": func(p string) error { return errors.Join(os.Mkdir(p, 0o755), text("mine")(p+"/data")) },
	"link to a file":    func(p string) error { return errors.Join(text("mine")(p+".real"), os.Symlink(p+".real", p)) },
	"link to nothing":   func(p string) error { return os.Symlink("nowhere", p) },
	"link to a lock": func(p string) error {
		return errors.Join(text("1763862345.5\n1\nh\nLinux\n")(p+".real"), os.Symlink(p+".real", p))
	},
	"named pipe":         func(p string) error { return unix.Mkfifo(p, 0o644) },
	"socket":             func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o644, 0) },
	"file of an old age": text("1.5 seconds\n"),
}

func text(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o644) }
}

// identity tells whether something is the same, and where it was.
func identity(t *testing.T, path string) string {
	t.Helper()
	i, err := os.Lstat(path)
	if err != nil {
		t.Errorf("it was moved or removed: %v", err)
		return ""
	}
	st := i.Sys().(*syscall.Stat_t)
	s := fmt.Sprint(st.Ino, i.Mode(), i.Size(), i.ModTime())
	switch {
	case i.Mode().IsRegular():
		content, err := os.ReadFile(path)
		s += fmt.Sprintf(" %q %v", bytes.Clone(content), err)
	case i.IsDir():
		es, err := os.ReadDir(path)
		s += fmt.Sprint(es, err)
	case i.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(path)
		s += fmt.Sprint(to, err)
	}
	return s
}

// What is no lock file is neither taken for one, nor moved, nor removed, whatever its
// age, and in whatever state the lock is.
func TestForeignFiles(t *testing.T) {
	states := map[string]func(t *testing.T, b *Backend){
		"new lock": func(*testing.T, *Backend) {},
		"free lock": func(t *testing.T, b *Backend) {
			g, err := b.Acquire(t.Context(), crashKey, testClaim("holder", time.Minute)) // it must not run out
			if err == nil {
				err = b.Release(t.Context(), g)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"dirty lock": func(t *testing.T, b *Backend) {
			if _, err := dirty(b); err != nil {
				t.Fatal(err)
			}
		},
		"dead holder": func(t *testing.T, b *Backend) {
			if _, err := abandon(b); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(b.path(crashKey)); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, put := range foreign {
		for state, prepare := range states {
			for _, kind := range []LockFile{Directory, File, NoLockFile} {
				if name == "directory" && state != "new lock" {
					continue // the guard is moved onto an empty one
				}
				t.Run(fmt.Sprintf("%s/%s/%d", name, state, kind), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					path := filepath.Join(dir, crashKey)
					b := open(t, dir, &Options{LockFile: kind})
					prepare(t, b)
					if err := put(path); err != nil {
						t.Fatal(err)
					}
					old := []unix.Timeval{{Sec: 1}, {Sec: 1}}
					if err := unix.Lutimes(path, old); err != nil {
						t.Fatal(err)
					}
					before, made := identity(t, path), contents(t, dir)
					_, err := b.Acquire(ctxBG, crashKey, testClaim("a", time.Minute))
					refused := kind != NoLockFile || state == "new lock" && !strings.HasPrefix(name, "directory")
					if refused != errors.Is(err, backend.ErrCorrupt) || refused && !strings.Contains(err.Error(), path) || !refused && err != nil {
						t.Errorf("refused is %v, and should be %v", err, refused)
					}
					_, ierr := b.Inspect(ctxBG, crashKey)
					if kind != NoLockFile && !errors.Is(ierr, backend.ErrCorrupt) {
						t.Errorf("inspect: %v", ierr)
					}
					_ = b.Break(ctxBG, crashKey, 0)
					if _, err := b.Clear(ctxBG, "", true); err != nil {
						t.Errorf("clear: %v", err)
					}
					if after := identity(t, path); after != before {
						t.Errorf("it was\n%s\nand is\n%s", before, after)
					}
					if now := contents(t, dir); refused && state == "new lock" && len(now) != len(made) {
						t.Errorf("left behind: %q", now)
					}
				})
			}
		}
	}
}

// A lock in a lock's guard would move with it. Nothing is made there, at any depth.
func TestLockInAGuard(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	g, err := b.Acquire(ctxBG, "a", testClaim("x", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	for _, key := range []string{"a/b", "a/b/c", "a/b/c/d"} {
		if _, err := b.Acquire(ctxBG, key, testClaim("y", time.Minute)); !errors.Is(err, backend.ErrInvalidKey) {
			t.Errorf("key %q: %v", key, err)
		}
		if _, _, err := OpenPath(filepath.Join(dir, key, "lock"), nil); !errors.Is(err, backend.ErrInvalidKey) {
			t.Errorf("path %q: %v", key, err)
		}
	}
	if now := contents(t, dir); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("it was\n%q\nand is\n%q", before, now)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
}
