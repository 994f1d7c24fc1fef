//go:build unix

package fsys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Who may write a directory can put something else in place of what has just been made
// there, before its mode is set. The other thing keeps its mode. This is a race that is
// run many times: a broken variant loses some of them.
func TestModeOfWhatWasPutInPlace(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for name, put := range map[string]func(private, dir string) error{
		"symbolic link": os.Symlink,
		"directory":     os.Rename,
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			private, dir, away := filepath.Join(top, "private"), filepath.Join(top, "dir"), filepath.Join(top, "away")
			if err := errors.Join(os.Mkdir(private, 0o700), os.WriteFile(private+"/secret", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(private)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var swaps int
			for range 200 {
				var stop atomic.Bool
				done := make(chan bool)
				go func() {
					for !stop.Load() {
						if unix.Rename(dir, away) == nil {
							done <- put(private, dir) == nil
							return
						}
					}
					done <- false
				}()
				merr := OS{}.MakeDir(dir, 0o777)
				stop.Store(true)
				swapped := <-done
				if i, err := f.Stat(); err != nil || i.Mode() != 0o700|fs.ModeDir {
					t.Fatalf("the other directory is %v, %v", i.Mode(), err)
				}
				if i, err := os.Lstat(dir); merr == nil && !swapped && (err != nil || i.Mode() != 0o777|fs.ModeDir) {
					t.Fatalf("the new directory is %v, %v", i, err)
				}
				if swapped {
					swaps++
					if name == "directory" {
						err = os.Rename(dir, private)
					} else {
						err = os.Remove(dir)
					}
					err = errors.Join(err, os.Remove(away))
				} else {
					err = os.Remove(dir)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d of 200 directories were replaced", swaps)
		})
	}
}

// The time is asked for by a file of a name that anybody can use.
func TestTouchLeavesModes(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "clock")
	if _, err := (OS{}).Touch(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(path); err != nil || i.Mode() != 0o666 {
		t.Errorf("the new file is %v, %v", i, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (OS{}).Touch(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(path); err != nil || i.Mode() != 0o600 {
		t.Errorf("the old file is %v, %v", i, err)
	}
}
