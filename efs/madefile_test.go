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
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// inTheMaking shows a file as NFS does that was made exclusively, while its maker's next
// request has not come: its mtime is no time. Where it was not moved, its ctime is as given.
type inTheMaking struct {
	fsys.FS
	id    fsys.ID
	path  string
	mtime time.Time
	ctime time.Time
}

func (f inTheMaking) show(path string, i fsys.Info) fsys.Info {
	if i.ID == f.id && i.Size == 0 {
		i.Mtime = f.mtime
		if path == f.path {
			i.Ctime = f.ctime
		}
	}
	return i
}

func (f inTheMaking) Stat(path string, fresh bool) (fsys.Info, error) {
	i, err := f.FS.Stat(path, fresh)
	return f.show(path, i), err
}

func (f inTheMaking) Read(path string, most int) ([]byte, fsys.Info, error) {
	content, i, err := f.FS.Read(path, most)
	return content, f.show(path, i), err
}

// make puts an empty file at path and has b see it so.
func (f *inTheMaking) make(t *testing.T, b *Backend, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	i, err := b.fs.Stat(path, true)
	if err != nil {
		t.Fatal(err)
	}
	f.FS, f.id, f.path = b.fs, i.ID, path
	b.fs = f
}

// An EfsLock process is in as soon as its file is there, whatever time that shows until
// its maker's next request; if that never comes, it is stale after the timeout.
func TestFileInTheMaking(t *testing.T) {
	now := time.Now()
	for name, mtime := range map[string]time.Time{
		"1970": time.Unix(1<<20, 0), "an hour ago": now.Add(-time.Hour), "2038": time.Unix(1<<31-1<<16, 0),
	} {
		for _, age := range []time.Duration{0, 250 * time.Second, 310 * time.Second} {
			for _, lockfile := range []string{"dir", "file"} {
				t.Run(fmt.Sprintf("%s/made %v ago/%s", name, age, lockfile), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					bb, err := backend.Open(ctxBG, "efs://"+dir+"?lockfile="+lockfile)
					if err != nil {
						t.Fatal(err)
					}
					defer bb.Close()
					b := bb.(*Backend)
					path := filepath.Join(dir, "lock")
					(&inTheMaking{mtime: mtime, ctime: now.Add(-age)}).make(t, b, path)
					live := age < 300*time.Second
					for range 2 { // the second time the waiter knows of it
						_, err = b.Acquire(ctxBG, "lock", testClaim("a", time.Hour))
						var held *backend.HeldError
						if live != errors.As(err, &held) {
							t.Fatalf("got %v, want held: %v", err, live)
						}
						if !live {
							break
						}
					}
					if !live && err != nil {
						t.Error(err)
					}
					if i, err := os.Lstat(path); live && (err != nil || !i.Mode().IsRegular()) {
						t.Errorf("its file is gone: %v, %v", i, err)
					}
				})
			}
		}
	}
}

// Another file with the number and the time of one that was seen before is not that one.
func TestFileInTheMakingIsAnother(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	shown := &inTheMaking{mtime: time.Unix(1<<20, 0)}
	shown.make(t, b, filepath.Join(dir, "lock"))
	for _, c := range []struct{ age, left time.Duration }{{250 * time.Second, 50 * time.Second}, {0, 300 * time.Second}} {
		shown.ctime = time.Now().Add(-c.age)
		_, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Hour))
		var held *backend.HeldError
		if !errors.As(err, &held) {
			t.Fatal(err)
		}
		if r := held.Record; r.Remaining < c.left-10*time.Second || r.Remaining > c.left+10*time.Second {
			t.Errorf("of a file that was made %v ago: %v", c.age, r)
		}
	}
}
