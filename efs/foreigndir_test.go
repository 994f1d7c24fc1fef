//go:build unix

package efs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// An empty directory of somebody's at the lock's path is not replaced by a guard, whether
// the lock was ever held or not, and is told of.
func TestEmptyDirectoryIsSpared(t *testing.T) {
	for name, prepare := range map[string]func(*Backend) (backend.Grant, error){"new": nothing, "free": holdAndRelease, "dirty": dirty, "dead": abandon} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir, nil)
			if !b.local {
				t.Skip("no rename here spares what exists")
			}
			if _, err := prepare(b); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, crashKey)
			if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o711)); err != nil {
				t.Fatal(err)
			}
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.Acquire(ctxBG, crashKey, testClaim("next", time.Minute))
			for errors.Is(err, backend.ErrHeld) {
				_, err = b.Acquire(ctxBG, crashKey, testClaim("next", time.Minute))
			}
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("acquire: %v", err)
			}
			if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("the directory: %v, %v", after, err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			g := acquired(t, b, crashKey, "after", time.Minute)
			if err := b.Release(ctxBG, g); err != nil {
				t.Error(err)
			}
		})
	}
}
