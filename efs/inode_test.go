//go:build unix

package efs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys/fsystest"
)

// A file system may give the number of a file that was removed to the next one, and
// most do. So a file with the number of ours can be another's. Writing into the file
// makes one; to remove it and to create the other gives the same number only now and
// then.
func TestNumberUsedAgain(t *testing.T) {
	const ttl = time.Second
	others := map[string]string{
		"lock-file protocol": fmt.Sprintf("%d.5\n4711\nother-host\nLinux\n", time.Now().Unix()),
		"hasp":               fmt.Sprintf("%d.500000\n4711\nother-host\nLinux\nhasp token=%d claim=another ttl=1000\nowner=b\n", time.Now().Unix(), uint64(1<<60)),
	}
	for name, other := range others {
		start := func(t *testing.T) (*Backend, *fsystest.Faulty, string) {
			dir := t.TempDir()
			b, f := openFaulty(t, dir, File)
			return b, f, filepath.Join(dir, "lock")
		}
		put := func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(other), 0o644); err != nil {
				t.Error(err)
			}
		}
		spared := func(t *testing.T, path string) {
			t.Helper()
			if got, err := os.ReadFile(path); err != nil || string(got) != other {
				t.Errorf("the other's lock file: %q, %v; want %q", got, err, other)
			}
		}
		t.Run(name+", at release", func(t *testing.T) {
			b, _, path := start(t)
			g, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl))
			if err != nil {
				t.Fatal(err)
			}
			put(t, path)
			_ = b.Release(ctxBG, g) // frees the baton
			spared(t, path)
		})
		t.Run(name+", during release", func(t *testing.T) {
			b, f, path := start(t)
			g, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl))
			if err != nil {
				t.Fatal(err)
			}
			done := false
			f.Around = func(op string, do func() error) error {
				if op == "rename" && !done { // after the look at what is there
					done = true
					put(t, path)
				}
				return do()
			}
			_ = b.Release(ctxBG, g)
			spared(t, path)
		})
		t.Run(name+", at a heartbeat", func(t *testing.T) {
			b, _, path := start(t)
			g, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl))
			if err != nil {
				t.Fatal(err)
			}
			put(t, path)
			if _, err := b.Renew(ctxBG, g); !errors.Is(err, backend.ErrLost) {
				t.Errorf("renewed, with another's lock file in place: %v", err)
			}
			spared(t, path)
		})
		t.Run(name+", while a dead one's file is moved aside", func(t *testing.T) {
			b, f, path := start(t)
			hourAgo := time.Now().Add(-time.Hour)
			if err := errors.Join(os.WriteFile(path, []byte("1.5\n1\nold-host\nLinux\n"), 0o644), os.Chtimes(path, hourAgo, hourAgo)); err != nil {
				t.Fatal(err)
			}
			done := false
			f.Around = func(op string, do func() error) error {
				// the renames are the baton's, and then the dead file's
				if new, _ := filepath.Glob(filepath.Dir(path) + "/.lock.hasp/.new.*"); op == "rename" && len(new) > 0 && !done {
					done = true
					put(t, path)
				}
				return do()
			}
			g, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl))
			if !errors.Is(err, backend.ErrHeld) {
				t.Errorf("granted %v, %v, with another's live lock file in place", g, err)
			}
			if !done {
				t.Error("the dead file was never moved")
			}
			spared(t, path)
		})
		t.Run(name+", after a dead one's was moved aside", func(t *testing.T) {
			b, f, path := start(t)
			hourAgo := time.Now().Add(-time.Hour)
			if err := errors.Join(os.WriteFile(path, []byte("1.5\n1\nold-host\nLinux\n"), 0o644), os.Chtimes(path, hourAgo, hourAgo)); err != nil {
				t.Fatal(err)
			}
			f.Around = func(op string, do func() error) error {
				err := do()
				if err == nil && (op == "rename-new" || op == "link") {
					put(t, path)
				}
				return err
			}
			g, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl))
			if !errors.Is(err, backend.ErrHeld) {
				t.Errorf("granted %v, %v, with another's live lock file in place", g, err)
			}
			spared(t, path)
		})
	}
}

// Nor is what is no file at all taken away with ours.
func TestSparesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	b, f := openFaulty(t, dir, File)
	g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Second))
	if err != nil {
		t.Fatal(err)
	}
	done := false
	f.Around = func(op string, do func() error) error {
		if op == "rename" && !done { // after the look at what is there
			done = true
			if err := errors.Join(os.Remove(path), os.Symlink("elsewhere", path)); err != nil {
				t.Error(err)
			}
		}
		return do()
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(path); err != nil || to != "elsewhere" {
		t.Errorf("the symbolic link: %q, %v", to, err)
	}
}
