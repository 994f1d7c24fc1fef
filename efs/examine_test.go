//go:build unix

package efs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// findings are what an examiner found.
type findings []backend.Finding

func (fs findings) String() string {
	var b strings.Builder
	for _, f := range fs {
		fmt.Fprintf(&b, "\n%s %s %s: %s [%s]", f.Level, f.ID, f.Subject, f.Seen, f.Advice)
	}
	return b.String()
}

// has tells whether there is one with these words in what was seen or advised.
func (fs findings) has(level backend.Level, id string, words ...string) bool {
	for _, f := range fs {
		ok := f.Level == level && f.ID == id
		for _, w := range words {
			ok = ok && strings.Contains(f.Seen+" "+f.Advice, w)
		}
		if ok {
			return true
		}
	}
	return false
}

func (fs findings) problems() (ps findings) {
	for _, f := range fs {
		if f.Level == backend.LevelProblem {
			ps = append(ps, f)
		}
	}
	return ps
}

func mustFind(t *testing.T, fs findings, level backend.Level, id string, words ...string) {
	t.Helper()
	if !fs.has(level, id, words...) {
		t.Errorf("no %s of %q with %q:%v", level, id, words, fs)
	}
	for _, f := range fs {
		if f.Level != backend.LevelOK && f.Advice == "" {
			t.Errorf("it is not said what to do about %s: %s", f.ID, f.Seen)
		}
	}
}

// examined is what is found of dir through f; change may change the examiner before.
func examined(t *testing.T, f fsys.FS, dir string, opts *Options, change func(*examiner)) (found findings) {
	t.Helper()
	x, err := newExaminer(f, dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(x)
	}
	if err := x.Examine(ctxBG, func(f backend.Finding) { found = append(found, f) }); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return found
}

// full is a directory that is not empty.
func full(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/sweep", 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A good directory has no problem, with each guard, and nothing is left in it.
func TestExamineGood(t *testing.T) {
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		dir := full(t)
		got := examined(t, fsys.OS{}, dir, &Options{LockFile: kind}, nil)
		if ps := got.problems(); ps != nil {
			t.Errorf("guard %d:%v", kind, ps)
		}
		for _, id := range []string{"mounted", "mount", "writers", "space", "rename", "mkdir", "listing", "times", "clock"} {
			mustFind(t, got, backend.LevelOK, id)
		}
		if got.has(backend.LevelOK, "guard") != (kind != NoLockFile) {
			t.Errorf("guard %d:%v", kind, got)
		}
		if left := contents(t, dir); fmt.Sprint(left) != "[sweep]" {
			t.Errorf("left behind: %v", left)
		}
	}
}

// Locks can be tried in a directory of their own, which goes away again.
func TestExamineScratch(t *testing.T) {
	dir := full(t)
	x, err := backend.OpenExaminer(ctxBG, "efs://"+dir+"?lockfile=file")
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Examine(ctxBG, func(backend.Finding) {}); err != nil {
		t.Fatal(err)
	}
	b, remove, err := x.Scratch(ctxBG)
	if err != nil {
		t.Fatal(err)
	}
	g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
	if err != nil || g.Token == 0 {
		t.Fatal(err)
	}
	if err := remove(ctxBG); err != nil {
		t.Error(err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if left := contents(t, dir); fmt.Sprint(left) != "[sweep]" {
		t.Errorf("left behind: %v", left)
	}
}

// An examination that is cut short, at each finding, leaves nothing.
func TestExamineCutShort(t *testing.T) {
	dir := full(t)
	for n := 1; ; n++ {
		x, err := newExaminer(fsys.OS{}, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctxBG)
		seen := 0
		err = x.Examine(ctx, func(backend.Finding) {
			if seen++; seen == n {
				cancel()
			}
		})
		cancel()
		if left := contents(t, dir); fmt.Sprint(left) != "[sweep]" {
			t.Fatalf("after %d findings: left behind: %v, error %v", n, left, err)
		}
		if seen < n {
			if n < 8 {
				t.Errorf("%d findings only", seen)
			}
			return
		}
	}
}

// What is wrong with the directory itself is said, with what to do.
func TestExamineDirectory(t *testing.T) {
	dir := full(t)
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mustFind(t, examined(t, fsys.OS{}, dir+"/nowhere", nil, nil), backend.LevelProblem, "directory", "does not exist", "mount")
	mustFind(t, examined(t, fsys.OS{}, dir+"/file", nil, nil), backend.LevelProblem, "directory", "not a directory")
	if err := os.Chmod(dir+"/sweep", 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	mustFind(t, examined(t, fsys.OS{}, dir+"/sweep", nil, nil), backend.LevelWarning, "sticky", "another's", "chmod -t")
	if got := examined(t, fsys.OS{}, dir+"/sweep", &Options{LockFile: NoLockFile}, nil); got.has(backend.LevelWarning, "sticky") {
		t.Errorf("without a lock file:%v", got)
	}
}

// A path on which something is to be mounted, and is not, is told: what fstab has, for the
// directory or one above it, there or not; what mount=required says; an empty directory.
func TestExamineUnmounted(t *testing.T) {
	if _, known := fsys.MountOf("/"); !known {
		t.Skip("this system does not tell what is mounted")
	}
	dir := full(t)
	table := filepath.Join(t.TempDir(), "fstab")
	text := "# comment " + dir + "\nproc /proc proc defaults 0 0\nserver:/sweeps " + dir + " nfs4 noauto,hard 0 0\n\nbad\n/dev/sdx none swap sw 0 0\n"
	if err := os.WriteFile(table, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	withTable := func(x *examiner) { x.fstab = table }
	for _, d := range []string{dir, dir + "/sweep", dir + "/nowhere/at/all"} {
		mustFind(t, examined(t, fsys.OS{}, d, nil, withTable), backend.LevelProblem, "mounted", "server:/sweeps", "nfs4", "not mounted", "mount "+dir, "mount=required")
	}
	for _, d := range []string{filepath.Dir(dir), dir + "x"} {
		if got := examined(t, fsys.OS{}, d, nil, withTable); got.has(backend.LevelProblem, "mounted") {
			t.Errorf("%s, where nothing is to be mounted:%v", d, got)
		}
	}
	mustFind(t, examined(t, fsys.OS{}, dir, &Options{Mounted: true}, nil), backend.LevelProblem, "mounted", "not on a network", "mount it")
	if got := examined(t, fsys.OS{}, dir, nil, nil); !got.has(backend.LevelOK, "mounted") {
		t.Errorf("a directory that is not empty:%v", got)
	}
	if m, _ := fsys.MountOf(dir); m.Point == "/" {
		mustFind(t, examined(t, fsys.OS{}, dir+"/sweep", nil, nil), backend.LevelWarning, "mounted", "empty", "mount it")
	}
}

func TestExamineSpace(t *testing.T) {
	for _, c := range []struct {
		s     fsys.Space
		level backend.Level
	}{
		{fsys.Space{Bytes: 1 << 40, FreeBytes: 1 << 39, Files: 1 << 20, FreeFiles: 1 << 19}, backend.LevelOK},
		{fsys.Space{Bytes: 1 << 40, FreeBytes: 1 << 39}, backend.LevelOK}, // no fixed number of files
		{fsys.Space{}, backend.LevelOK}, // it does not tell
		{fsys.Space{Bytes: 16 << 20, FreeBytes: 14 << 20, Files: 4096, FreeFiles: 4000}, backend.LevelOK},
		{fsys.Space{Bytes: 1 << 40, FreeBytes: 1 << 20, Files: 1 << 20, FreeFiles: 1 << 19}, backend.LevelWarning},
		{fsys.Space{Bytes: 1 << 40, FreeBytes: 1 << 39, Files: 1 << 20, FreeFiles: 10}, backend.LevelWarning},
		{fsys.Space{Bytes: 1 << 40, FreeBytes: 1 << 39, Files: 1 << 20, FreeFiles: 0}, backend.LevelProblem},
		{fsys.Space{Bytes: 1 << 40, FreeBytes: 0, Files: 1 << 20, FreeFiles: 1 << 19}, backend.LevelProblem},
	} {
		var got findings
		describeSpace(func(f backend.Finding) { got = append(got, f) }, c.s)
		if !got.has(c.level, "space") {
			t.Errorf("%+v, want %s:%v", c.s, c.level, got)
		}
	}
}

// The file systems below each lack one thing that the protocol asks for.

// copies is one whose rename is a copy and a deletion, as on a store of objects.
type copies struct{ fsys.OS }

func (c copies) Rename(from, to string) error {
	i, err := c.OS.Stat(from, true)
	if err != nil || i.Mode.IsDir() {
		return c.OS.Rename(from, to)
	}
	time.Sleep(time.Millisecond) // what it takes, so that the other does the same
	err = c.OS.Create(to, nil, 0o600)
	_ = c.OS.Remove(from) // the other may have been faster
	return err
}

// generous makes a directory that exists without complaint.
type generous struct{ fsys.OS }

func (g generous) MakeDir(path string, mode fs.FileMode) error {
	if err := g.OS.MakeDir(path, mode); !fsys.IsTaken(err) {
		return err
	}
	return nil
}

// sweeping removes a directory with all that is in it.
type sweeping struct{ fsys.OS }

func (sweeping) RemoveDir(path string) error { return os.RemoveAll(path) }

// crossing moves no directories.
type crossing struct{ fsys.OS }

func (c crossing) Rename(from, to string) error {
	if i, err := c.OS.Stat(from, true); err == nil && i.Mode.IsDir() && !strings.Contains(to, "/old/") {
		return &fs.PathError{Op: "rename", Path: from, Err: fmt.Errorf("it moves no directories")}
	}
	return c.OS.Rename(from, to)
}

// reviving makes the directories that something is moved into.
type reviving struct{ fsys.OS }

func (r reviving) Rename(from, to string) error {
	_ = os.Mkdir(filepath.Dir(to), 0o700)
	return r.OS.Rename(from, to)
}

// forgetful lists no more than so many names.
type forgetful struct{ fsys.OS }

func (f forgetful) List(dir string) ([]string, fsys.Info, error) {
	names, i, err := f.OS.List(dir)
	return names[:min(len(names), 64)], i, err
}

// standing has times that stand still.
type standing struct{ fsys.OS }

func (s standing) Stat(path string, fresh bool) (fsys.Info, error) {
	i, err := s.OS.Stat(path, fresh)
	i.Mtime = time.Unix(1e9, 0)
	return i, err
}

// ahead has a clock of its own.
type ahead struct {
	fsys.OS
	by time.Duration
}

func (a ahead) Touch(path string, mode fs.FileMode) (time.Time, error) {
	now, err := a.OS.Touch(path, mode)
	return now.Add(a.by), err
}

func TestExamineWhatIsLacking(t *testing.T) {
	for name, c := range map[string]struct {
		fs    fsys.FS
		level backend.Level
		id    string
		words []string
	}{
		"rename":        {copies{}, backend.LevelProblem, "rename", []string{"no compare-and-swap"}},
		"mkdir":         {generous{}, backend.LevelProblem, "mkdir", []string{"both succeeded"}},
		"guard":         {sweeping{}, backend.LevelProblem, "guard", []string{"removed as a directory"}},
		"moves":         {crossing{}, backend.LevelProblem, "guard", []string{"cannot be moved", "lockfile=false"}},
		"fence":         {reviving{}, backend.LevelProblem, "fence", []string{"had been removed"}},
		"listing":       {forgetful{}, backend.LevelProblem, "listing", []string{"shows 64 names"}},
		"times":         {standing{}, backend.LevelProblem, "times", []string{"does not move", "anymount=true"}},
		"clock ahead":   {ahead{by: time.Hour}, backend.LevelWarning, "clock", []string{"ahead", "NTP", "1h"}},
		"clock behind":  {ahead{by: -4 * time.Second}, backend.LevelWarning, "clock", []string{"behind", "NTP"}},
		"clock, little": {ahead{by: time.Second}, backend.LevelOK, "clock", []string{"ahead", "TTLs below"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := full(t)
			mustFind(t, examined(t, c.fs, dir, nil, nil), c.level, c.id, c.words...)
			if left := contents(t, dir); fmt.Sprint(left) != "[sweep]" {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// peered is what is found of dir through another view of it.
func peered(t *testing.T, f fsys.FS, dir, peer string) (found findings) {
	t.Helper()
	x, err := newExaminer(f, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Examine(ctxBG, func(backend.Finding) {}); err != nil {
		t.Fatal(err)
	}
	if err := x.ExaminePeer(ctxBG, peer, func(f backend.Finding) { found = append(found, f) }); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if left := contents(t, dir); fmt.Sprint(left) != "[sweep]" {
		t.Errorf("left behind: %v", left)
	}
	return found
}

// late shows under a path what was there some time ago.
type late struct {
	fsys.OS
	under string
	by    time.Duration
	seen  map[string]memory
}

type memory struct {
	names []string
	at    time.Time
}

func (l late) List(dir string) ([]string, fsys.Info, error) {
	names, i, err := l.OS.List(dir)
	if err != nil || !strings.HasPrefix(dir, l.under) {
		return names, i, err
	}
	if m, ok := l.seen[dir]; ok && time.Since(m.at) < l.by {
		return m.names, i, nil
	}
	l.seen[dir] = memory{names, time.Now()}
	return names, i, nil
}

func TestExaminePeer(t *testing.T) {
	dir := full(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	t.Run("good", func(t *testing.T) {
		got := peered(t, fsys.OS{}, dir, link)
		if ps := got.problems(); ps != nil {
			t.Errorf("problems:%v", ps)
		}
		for _, id := range []string{"peer-sight", "peer-rename", "peer-locks"} {
			mustFind(t, got, backend.LevelOK, id)
		}
		if _, known := fsys.MountOf(dir); known {
			mustFind(t, got, backend.LevelWarning, "peer", "same mount", "nosharecache")
		}
	})
	t.Run("another directory", func(t *testing.T) {
		mustFind(t, peered(t, fsys.OS{}, dir, t.TempDir()), backend.LevelProblem, "peer", "not another view")
	})
	t.Run("another scheme", func(t *testing.T) {
		mustFind(t, peered(t, fsys.OS{}, dir, "redis://u:tresor@h"), backend.LevelProblem, "peer", "of scheme efs")
		if got := peered(t, fsys.OS{}, dir, "redis://u:tresor@h"); strings.Contains(got.String(), "tresor") {
			t.Errorf("a password is shown:%v", got)
		}
	})
	t.Run("late", func(t *testing.T) {
		f := late{under: link, by: 50 * time.Millisecond, seen: map[string]memory{}}
		mustFind(t, peered(t, f, dir, "efs://"+link), backend.LevelWarning, "peer-sight", "late", "cache of names")
	})
	t.Run("no exclusion", func(t *testing.T) {
		mustFind(t, peered(t, copies{}, dir, link), backend.LevelProblem, "peer-rename", "no compare-and-swap")
	})
}
