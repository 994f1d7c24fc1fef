//go:build unix

package efs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// pathed makes renames by a function that sees their paths.
type pathed struct {
	fsys.FS
	rename func(from, to string) error
	list   func(dir string) error
}

func (f *pathed) Rename(from, to string) error {
	if f.rename != nil {
		return f.rename(from, to)
	}
	return f.FS.Rename(from, to)
}

func (f *pathed) List(dir string) ([]string, fsys.Info, error) {
	if f.list != nil {
		if err := f.list(dir); err != nil {
			return nil, fsys.Info{}, err
		}
	}
	return f.FS.List(dir)
}

// A claim that asks again settles the guard anew. Its first attempt, which had no answer,
// may have moved a live lock file aside since, and then the way up is free although an
// EfsLock process is in.
func TestAskingAgainSettlesAnew(t *testing.T) {
	dir := t.TempDir()
	f := &pathed{FS: fsys.OS{}}
	b, err := openOn(f, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	path := filepath.Join(dir, "lock")
	if err := b.Release(ctxBG, acquired(t, b, "lock", "before", time.Minute)); err != nil {
		t.Fatal(err)
	}
	putLegacy(t, path, time.Hour)
	aside := ""
	f.rename = func(from, to string) error { // the move aside, and all that follows, has no answer
		if from == path && strings.Contains(to, "/old.") {
			aside = to
		}
		if aside != "" {
			return syscall.EIO
		}
		return f.FS.Rename(from, to)
	}
	f.list = func(string) error {
		if aside != "" {
			return syscall.EIO
		}
		return nil
	}
	c := testClaim("again", time.Minute)
	if _, err := b.Acquire(ctxBG, "lock", c); !errors.Is(err, backend.ErrUnavailable) || aside == "" {
		t.Fatalf("the first attempt: %v", err)
	}
	f.rename, f.list = nil, nil
	// An EfsLock process removes the stale file and is in, and then the move is carried out.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	putLegacy(t, path, 0)
	if err := os.Rename(path, aside); err != nil {
		t.Fatal(err)
	}
	var held *backend.HeldError
	if _, err := b.Acquire(ctxBG, "lock", c); !errors.As(err, &held) || held.Record.Holder.PID != 4711 {
		t.Errorf("the second attempt, while an EfsLock process is in: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || !strings.Contains(string(content), "other-host") {
		t.Errorf("its file: %q, %v", content, err)
	}
}
