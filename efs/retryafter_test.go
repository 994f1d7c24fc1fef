//go:build unix

package efs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Whoever finds the lock held is told when to come again at the latest, since no
// watch tells of a holder that falls silent: also where the server's clock cannot be
// read, and where a process of the lock-file protocol was faster with its file.
func TestRetryAfter(t *testing.T) {
	const ttl = time.Second
	legacy := fmt.Sprintf("%d.5\n4711\nother-host\nLinux\n", time.Now().Unix())
	refused := func(t *testing.T, b *Backend, least, most time.Duration) {
		t.Helper()
		_, err := b.Acquire(ctxBG, "lock", testClaim("b", ttl))
		var held *backend.HeldError
		if !errors.As(err, &held) {
			t.Fatalf("got %v", err)
		}
		t.Logf("%v; again after %v", err, held.RetryAfter)
		if held.RetryAfter < least || held.RetryAfter > most {
			t.Errorf("again after %v, want %v to %v", held.RetryAfter, least, most)
		}
	}
	t.Run("no clock", func(t *testing.T) {
		dir := t.TempDir()
		a := open(t, dir, nil)
		b, f := openFaulty(t, dir, Directory)
		if _, err := a.Acquire(ctxBG, "lock", testClaim("a", ttl)); err != nil {
			t.Fatal(err)
		}
		f.Around = func(op string, do func() error) error {
			if op == "touch" {
				return syscall.ENOSPC
			}
			return do()
		}
		refused(t, b, ttl, 2*ttl)
	})
	late := func(t *testing.T, again bool, least, most time.Duration) {
		dir := t.TempDir()
		path := filepath.Join(dir, "lock")
		write := func(changed time.Time) {
			if err := errors.Join(os.WriteFile(path, []byte(legacy), 0o644), os.Chtimes(path, changed, changed)); err != nil {
				t.Fatal(err)
			}
		}
		write(time.Now().Add(-time.Hour))
		b, f := openFaulty(t, dir, File)
		robbed := false
		f.Around = func(op string, do func() error) error {
			err := do()
			if err == nil && !robbed && (op == "rename-new" || op == "link") {
				robbed = true
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
				if again {
					write(time.Now())
				}
			}
			return err
		}
		refused(t, b, least, most)
		if !robbed {
			t.Error("the lock file was never put in place")
		}
	}
	t.Run("another's file", func(t *testing.T) { late(t, true, DefaultLegacyTimeout/2, 2*DefaultLegacyTimeout) })
	t.Run("another's file is to come", func(t *testing.T) { late(t, false, 1, ttl/2) })
}
