//go:build unix

package efs

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/guard"
)

// staleHandles is a client of a server that knows its handles of some directories no
// more: moves of the guard fail until each of them was looked up anew.
type staleHandles struct {
	fsys.FS
	mu    sync.Mutex
	stale map[string]bool
	met   int
}

func (f *staleHandles) Stat(path string, fresh bool) (fsys.Info, error) {
	if fresh {
		f.mu.Lock()
		delete(f.stale, filepath.Clean(path))
		f.mu.Unlock()
	}
	return f.FS.Stat(path, fresh)
}

func (f *staleHandles) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.stale) > 0 && (strings.HasSuffix(from, "/guard") || strings.HasSuffix(to, "/guard")) {
		f.met++
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.ESTALE}
	}
	return f.FS.Rename(from, to)
}

// A client whose handles have gone stale looks the directories up anew, and goes on.
func TestStaleHandles(t *testing.T) {
	dir := t.TempDir()
	f := &staleHandles{FS: fsys.OS{}}
	b, err := openOn(f, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.local, b.guard = false, guard.Directory{Options: guard.Options{Timeout: b.opts.LegacyTimeout, Network: true}}
	acquire := func(id string) backend.Grant {
		t.Helper()
		var g backend.Grant
		var err error
		for try := range 10 { // what came of a request without an answer is another attempt's to find out
			if g, err = b.Acquire(t.Context(), "k", testClaim(id+string(rune('0'+try)), time.Minute)); err == nil {
				return g
			}
			if err := b.Release(t.Context(), backend.Grant{Key: "k", ID: id + string(rune('0'+try))}); err != nil {
				t.Logf("withdraw: %v", err)
			}
		}
		t.Fatalf("after %d moves that found a stale handle: %v", f.met, err)
		return g
	}
	if err := b.Release(t.Context(), acquire("first")); err != nil {
		t.Fatal(err)
	}
	goStale := func(names []string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.met, f.stale = 0, map[string]bool{}
		for _, name := range names {
			f.stale[filepath.Join(dir, name)] = true
		}
	}
	// The last is of a guard that other hosts have moved, and that this client remembers elsewhere.
	for i, stale := range [][]string{{"."}, {".k.hasp"}, {".", ".k.hasp"}, {"guard"}} {
		if stale[0] == "guard" {
			// the short way: on the long one it is looked up anew before it is moved
			if err := b.Release(t.Context(), acquire("clean")); err != nil {
				t.Fatal(err)
			}
			rests, err := filepath.Glob(filepath.Join(dir, ".k.hasp/rest.*/guard"))
			if err != nil || len(rests) != 1 {
				t.Fatal(rests, err)
			}
			if stale[0], err = filepath.Rel(dir, rests[0]); err != nil {
				t.Fatal(err)
			}
		}
		goStale(stale)
		g := acquire(string(rune('a' + i)))
		if f.met == 0 {
			t.Errorf("%q: nothing was stale", stale)
		}
		if stale[0] != "." && stale[0] != ".k.hasp" {
			stale = nil // it was looked up
		}
		goStale(stale)
		for try := range 10 {
			if err = b.Release(t.Context(), g); err == nil {
				break
			}
			t.Logf("release %d: %v", try, err)
		}
		if err != nil {
			t.Fatalf("%q: after %d moves that found a stale handle: %v", stale, f.met, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "k")); err == nil {
			t.Errorf("%q: released, and the guard is left at the path", stale)
		}
	}
}
