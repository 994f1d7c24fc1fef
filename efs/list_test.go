//go:build unix

package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A state that cannot be read is one entry, with its error, and hides no other.
func TestListOfWhatCannotBeRead(t *testing.T) {
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir, &Options{LockFile: kind})
			state := func(in, name string) string { return filepath.Join(dir, in, "."+name+".hasp") }
			baton := func(gen uint64) string { return "/" + batonName(gen) }
			mkdir := func(p string) error { return os.MkdirAll(p, 0o755) }
			if err := errors.Join(
				mkdir(state("", "empty")), mkdir(state("below/it", "empty")),
				mkdir(state("", "foreign")), text("mine")(state("", "foreign")+"/notes.txt"),
				mkdir(state("", "two")), text("")(state("", "two")+baton(7)), text("")(state("", "two")+baton(8)),
				text("mine")(state("", "file")), os.Symlink("nowhere", state("", "link")),
				mkdir(state("", "data")), text("")(state("", "data")+baton(9)), text("SQLite format 3\x00")(dir+"/data"),
				mkdir(dir+"/...hasp"), mkdir(dir+"/....hasp"), mkdir(dir+"/..hasp"), // of no key
			); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"a", "below/it/held", "zz"} {
				if _, err := b.Acquire(ctxBG, key, testClaim("x", time.Minute)); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{
				"a held", "below/it/empty unknown is empty", "below/it/held held", "data unknown is not a lock file",
				"empty unknown is empty", "file unknown is not a directory", `foreign unknown "notes.txt"`,
				"link unknown is not a directory", "two unknown more than one", "zz held",
			}
			if kind == NoLockFile { // which looks at nothing but states
				want = slices.Delete(want, 3, 4)
			}
			for prefix, want := range map[string][]string{"": want, "below/": want[1:3], "t": want[len(want)-2 : len(want)-1]} {
				rs, err := b.List(ctxBG, prefix)
				if err != nil || len(rs) != len(want) {
					t.Errorf("prefix %q: %v, %v; want %q", prefix, rs, err, want)
					continue
				}
				for i, r := range rs {
					f := strings.SplitN(want[i]+"  ", " ", 3)
					if r.Key != f[0] || string(r.State) != f[1] || !strings.Contains(r.Note, strings.TrimSpace(f[2])) || (r.State == backend.Unknown) != (r.Note != "") {
						t.Errorf("prefix %q: %+v, want %q", prefix, r, want[i])
					}
				}
			}
		})
	}
}

// So is what another user has closed.
func TestListOfWhatAnotherHasClosed(t *testing.T) {
	u := newUsers(t)
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			root := u.shared(strings.ReplaceAll(t.Name(), "/", "-"), 0o777)
			for _, key := range []string{"mine", "hers", "closed/lock"} {
				u.started(t, alice, "hold", "held", kind, root, key)
			}
			for _, name := range []string{".hers.hasp", "closed"} {
				if err := os.Chmod(filepath.Join(root, name), fs.ModeDir|0o700); err != nil {
					t.Fatal(err)
				}
			}
			out := u.run(t, bob, "look", kind, root, "mine")
			for _, want := range []string{"\nmine held", "\nhers unknown", "\nclosed/ unknown there may be locks in it"} {
				if !strings.Contains(out, want) {
					t.Errorf("%q, want %q", out, want)
				}
			}
			if n := strings.Count(out, "permission denied"); n != 2 {
				t.Errorf("%d entries say why: %q", n, out)
			}
		})
	}
}

// A guard that has made room for a lock file since the directory was listed is not a
// directory that cannot be read.
func TestWalkMeetsAFileInAGuardsPlace(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	for _, err := range []error{os.WriteFile(filepath.Join(dir, "a"), nil, 0o644), os.Mkdir(filepath.Join(dir, "b"), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	changed := false
	isLock := func(_ fs.FS, name string) bool { // between the listing and the look into what it shows
		if name == "a" {
			changed = true
			if err := errors.Join(os.Remove(filepath.Join(dir, "b")), os.WriteFile(filepath.Join(dir, "b"), nil, 0o644)); err != nil {
				t.Error(err)
			}
		}
		return false
	}
	err := b.walkFiles(ctxBG, "", isLock, func(string) error { return nil }, func(dir string, err error) error {
		t.Errorf("%s cannot be read: %v", dir, err)
		return nil
	})
	if err != nil || !changed {
		t.Errorf("changed %v: %v", changed, err)
	}
}
