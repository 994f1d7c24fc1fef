//go:build unix

package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

func open(t testing.TB, dir string, opts *Options) *Backend {
	t.Helper()
	b, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// snapshot is every file below dir with its content, to see that nothing is lost;
// what is below skip is left out.
func snapshot(t *testing.T, dir, skip string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == skip {
			return fs.SkipDir
		}
		fmt.Fprintln(&s, p, d.Type())
		if d.Type().IsRegular() {
			c, err := os.ReadFile(p)
			fmt.Fprintf(&s, "%q %v\n", c, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

func batonName(gen uint64) string { return statedir.Baton{Gen: gen, State: statedir.Dirty}.Name() }

func TestBadKeys(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	before := snapshot(t, dir, "")
	for _, c := range []struct{ key, says string }{
		{"", "empty"},
		{"..", `".."`},
		{"../out", `".."`},
		{"a/../../out", `".."`},
		{"./a", `"."`},
		{"/abs", "empty path component"},
		{"a//b", "empty path component"},
		{"a/", "empty path component"},
		{"a\x00b", "U+0000"},
		{"a\nb", "U+000A"},
		{strings.Repeat("x", 300), "300 bytes"},
		{"d/" + strings.Repeat("x", 230), "230 bytes"},
		{strings.Repeat("x", 300) + "/lock", "300 bytes"},
		{strings.Repeat("x/", 600) + "x", "1201 bytes"},
		{"\xff", "UTF-8"},
		{".lock.hasp", "kept for hasp"},
		{".lock.hasp/x", "kept for hasp"},
	} {
		_, err := b.Acquire(ctxBG, c.key, testClaim("x", time.Second))
		if !errors.Is(err, backend.ErrInvalidKey) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("key %.20q: got %v, want ErrInvalidKey and %s", c.key, err, c.says)
		}
		if _, err := b.Inspect(ctxBG, c.key); !errors.Is(err, backend.ErrInvalidKey) {
			t.Errorf("inspect of key %.20q: %v", c.key, err)
		}
	}
	if after := snapshot(t, dir, ""); after != before {
		t.Errorf("the directory changed:\n%s", after)
	}
}

// What stands where the lock file or the state directory goes, and is not what
// belongs there, gives a clear error and is left as it is.
func TestThingsInTheWay(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name, says string
		put        func(dir string) error
		held       bool // it counts as a holder, not as corrupt
	}{
		{name: "an empty directory", says: "lock is an empty directory", put: func(d string) error { return os.Mkdir(d+"/lock", 0o755) }},
		{name: "a directory of somebody's", says: "lock is a directory", put: func(d string) error {
			return errors.Join(os.Mkdir(d+"/lock", 0o755), os.WriteFile(d+"/lock/data", []byte("mine"), 0o644))
		}},
		{name: "a dangling link for a lock file", says: "symbolic link", put: func(d string) error { return os.Symlink("nowhere", d+"/lock") }},
		{name: "a link for a lock file", says: "symbolic link", put: func(d string) error {
			return errors.Join(os.WriteFile(d+"/real", []byte("x"), 0o644), os.Symlink("real", d+"/lock"))
		}},
		{name: "a pipe for a lock file", says: "not a regular file", put: func(d string) error { return unix.Mkfifo(d+"/lock", 0o644) }},
		{name: "garbage", says: "is not a lock file (9 bytes", put: func(d string) error { return os.WriteFile(d+"/lock", []byte("\x00garbage\xff"), 0o644) }},
		{name: "a database", says: "is not a lock file", put: func(d string) error { return os.WriteFile(d+"/lock", []byte("SQLite format 3\x00"), 0o644) }},
		{name: "a configuration", says: "is not a lock file", put: func(d string) error { return os.WriteFile(d+"/lock", []byte("method: bayes\n"), 0o644) }},
		{name: "an empty lock file", says: "a lock file that is empty", held: true, put: func(d string) error { return os.WriteFile(d+"/lock", nil, 0o644) }},
		{name: "a file for a state directory", says: ".lock.hasp is not a directory", put: func(d string) error { return os.WriteFile(d+"/.lock.hasp", []byte("x"), 0o644) }},
		{name: "a link for a state directory", says: ".lock.hasp is not a directory", put: func(d string) error {
			return errors.Join(os.Mkdir(d+"/other", 0o755), os.Symlink("other", d+"/.lock.hasp"))
		}},
		{name: "two batons", says: "more than one", put: func(d string) error {
			return errors.Join(os.Mkdir(d+"/.lock.hasp", 0o755),
				os.WriteFile(d+"/.lock.hasp/"+batonName(7), nil, 0o644), os.WriteFile(d+"/.lock.hasp/"+batonName(8), nil, 0o644))
		}},
		{name: "no baton", says: "is empty", put: func(d string) error { return os.Mkdir(d+"/.lock.hasp", 0o755) }},
		{name: "a foreign file in the state directory", says: `"notes.txt"`, put: func(d string) error {
			return errors.Join(os.Mkdir(d+"/.lock.hasp", 0o755),
				os.WriteFile(d+"/.lock.hasp/"+batonName(7), nil, 0o644), os.WriteFile(d+"/.lock.hasp/notes.txt", []byte("mine"), 0o644))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := c.put(dir); err != nil {
				t.Fatal(err)
			}
			if !c.held { // whatever its age
				_ = os.Chtimes(dir+"/lock", old, old)
			}
			// something that is neither hasp's nor in the way must survive too
			if err := os.WriteFile(dir+"/config.yaml", []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
			made := "" // the state directory, if an attempt will make it
			if _, err := os.Lstat(dir + "/.lock.hasp"); err != nil && c.held {
				made = dir + "/.lock.hasp"
			}
			before := snapshot(t, dir, made)
			l := hasp.New(open(t, dir, nil), &hasp.Options{RetryInterval: 10 * time.Millisecond, MaxRetries: 2})
			t.Cleanup(func() { l.Close() }) // what a waiter has left in the directory goes in the background
			_, err := l.Acquire(ctxBG, "lock")
			want := hasp.ErrHeld
			if !c.held {
				want = backend.ErrCorrupt
			}
			if !errors.Is(err, want) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), `acquire "lock"`) {
				t.Errorf("got %v, want %v and %q", err, want, c.says)
			}
			if after := snapshot(t, dir, made); after != before {
				t.Errorf("the directory changed from\n%s\nto\n%s", before, after)
			}
			if c.held { // until its age says otherwise
				b := open(t, dir, nil)
				i, err := b.fs.Stat(dir+"/lock", true)
				if err != nil {
					t.Fatal(err)
				}
				b.fs = inTheMaking{b.fs, i.ID, dir + "/lock", old, old}
				l := hasp.New(b, &hasp.Options{MaxRetries: 2})
				t.Cleanup(func() { l.Close() })
				le, err := l.Acquire(ctxBG, "lock")
				if err != nil {
					t.Fatalf("an empty file of an hour ago: %v", err)
				}
				if err := le.Release(ctxBG); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Names that file systems and desktops leave in directories are not in the way.
func TestHiddenFilesInTheStateDirectory(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{".nfs0000000001", ".DS_Store", ".snapshot"} {
		if err := os.WriteFile(filepath.Join(dir, ".lock.hasp", n), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, dir, nil).Acquire(ctxBG, "lock", testClaim("b", time.Minute)); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("got %v, want held", err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
}

func TestBadURLs(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ url, says string }{
		{"efs://" + dir + "?lockfile=maybe", "it is dir, file or false"},
		{"efs://" + dir + "?mount=maybe", "it is required"},
		{"efs://" + dir + "?legacy_timeout=-1s", "not negative"},
		{"efs://" + dir + "?poll=-1s", "not negative"},
		{"efs://" + dir + "?poll=soon", "duration"},
		{"efs://" + dir + "?lockfiles=false", `unknown option "lockfiles": known are anymount, create, legacy_timeout, lockfile, mount, poll`},
		{"efs://host" + dir, "three slashes"},
		{"efs://" + dir + "/missing", "no such file"},
		{"nfs://" + dir, `no backend for scheme "nfs"; this program has efs`},
		{"", "empty"},
	} {
		_, err := hasp.Open(ctxBG, c.url, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v, want %q", c.url, err, c.says)
		}
	}
	if _, err := os.Stat(dir + "/missing"); err == nil {
		t.Error("Open made a directory")
	}
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir+"/file", nil); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file as the root: %v", err)
	}
	for path, says := range map[string]string{"": "empty", dir + "/": "names a directory", "/..": `".."`} {
		if _, _, err := OpenPath(path, nil); !errors.Is(err, backend.ErrInvalidKey) || !strings.Contains(err.Error(), says) {
			t.Errorf("path %q: %v", path, err)
		}
	}
	l, err := hasp.Open(ctxBG, dir, nil)
	if err != nil {
		t.Fatalf("a bare path: %v", err)
	}
	l.Close()
}

// A symbolic link out of the root is not followed; one inside it is.
func TestSymbolicLinksOfDirectories(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Symlink(outside, dir+"/out"), os.Mkdir(dir+"/in", 0o755), os.Symlink("in", dir+"/alias")); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, nil)
	if _, err := b.Acquire(ctxBG, "out/lock", testClaim("a", time.Minute)); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("out of the root: %v", err)
	}
	if got := contents(t, outside); len(got) != 0 {
		t.Errorf("something was made outside: %q", got)
	}
	if _, err := b.Acquire(ctxBG, "in/lock", testClaim("a", time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Acquire(ctxBG, "alias/lock", testClaim("b", time.Minute)); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("the same lock by another name: %v", err)
	}
}

// tmpfs mounts a small file system, which needs root.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "hasp-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small file system is not permitted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func TestFullFileSystem(t *testing.T) {
	dir := tmpfs(t, "size=64k,nr_inodes=200")
	b := open(t, dir, nil)
	defer b.Close()
	g, err := b.Acquire(ctxBG, "made/before", testClaim("a", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(dir + "/ballast")
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	fb := open(t, dir, &Options{LockFile: File})
	defer fb.Close()
	_, err = fb.Acquire(ctxBG, "made/before", testClaim("b", time.Minute))
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("with the lock file: %v", err)
	}
	t.Log(err)
	r, err := b.Inspect(ctxBG, "made/before")
	if err != nil || r.State != backend.Free {
		t.Errorf("half held: %+v, %v", r, err)
	}
	if got, err := leftovers(dir + "/made"); err != nil || len(got) != 0 {
		t.Errorf("left behind: %q, %v", got, err)
	}
	// Without it no space is needed where the state directory exists and is settled.
	nb := open(t, dir, &Options{LockFile: NoLockFile})
	defer nb.Close()
	if g, err = nb.Acquire(ctxBG, "made/before", testClaim("c", time.Minute)); err != nil {
		t.Errorf("without the lock file: %v", err)
	} else if err := nb.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
	// And when there is space again, so is the lock.
	if err := os.Remove(dir + "/ballast"); err != nil {
		t.Fatal(err)
	}
	if g, err = b.Acquire(ctxBG, "made/before", testClaim("d", time.Minute)); err != nil {
		t.Error(err)
	} else if err := b.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	dir := tmpfs(t, "size=1m")
	if out, err := exec.Command("mount", "-o", "remount,ro", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := Open(dir, nil)
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("got %v", err)
	}
	t.Log(err)
}

func TestReadOnlyLater(t *testing.T) {
	dir := tmpfs(t, "size=1m")
	b := open(t, dir, nil)
	defer b.Close()
	g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "remount,ro", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err = b.Acquire(ctxBG, "lock", testClaim("b", time.Minute))
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	t.Log(err)
}

// A user who may not write the directory gets told so.
func TestNoPermission(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	logs := t.TempDir()
	if err := os.Chmod(logs, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := goPeerCmd("1ms", time.Minute, logs+"/log", logs+"/counter", dir+"/lock")
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "peer")
	if err := os.WriteFile(bin, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Path = bin
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "permission denied") || !strings.Contains(string(out), `acquire "lock"`) || !strings.Contains(string(out), dir) {
		t.Errorf("got %v: %s", err, out)
	}
	t.Logf("%s", out)
}

// Users who may write the directory share its locks, whatever their umask.
func TestTwoUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shared := filepath.Join(dir, "shared")
	if err := errors.Join(os.Mkdir(shared, 0o777), os.Chmod(shared, 0o777)); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	b := open(t, shared, nil)
	g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "peer")
	if err := errors.Join(os.WriteFile(bin, exe, 0o755), os.Chmod(bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := goPeerCmd("1ms", time.Minute, shared+"/log", shared+"/counter", shared+"/lock")
	cmd.Path, cmd.Dir = bin, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if g, err = b.Acquire(ctxBG, "lock", testClaim("b", time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Error(err)
	}
}
