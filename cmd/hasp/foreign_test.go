//go:build unix

package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// everything is what is below dir, with inodes, times and contents.
func everything(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := os.Lstat(p)
		if err != nil {
			return err
		}
		fmt.Fprint(&s, p, " ", i.Sys().(*syscall.Stat_t).Ino, " ", i.Mode())
		if !i.IsDir() {
			fmt.Fprint(&s, " ", i.ModTime())
		}
		if i.Mode().IsRegular() {
			content, err := os.ReadFile(p)
			fmt.Fprintf(&s, " %q %v", content, err)
		}
		fmt.Fprintln(&s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

func writing(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o644) }
}

// A KEY that is somebody's data is refused, whatever its age, and nothing is changed or
// left behind.
func TestKeysThatAreNoLocks(t *testing.T) {
	old := time.Now().Add(-24 * time.Hour)
	for name, put := range map[string]func(path string) error{
		"data.db":     writing("SQLite format 3\x00\x00\x00"),
		"config.yaml": writing("method: bayes\n"),
		"train.py":    writing("import wandb\n"),
		"model.bin":   writing("\x00\xff\x00\xff"),
		"notes":       writing("no line end"),
		"app.pid":     writing("4123\n"),
		"loss.csv":    writing("0.5\n0.25\n0.125\n"),
		"empty":       func(p string) error { return os.Mkdir(p, 0o755) },
		"SOMEDIR":     func(p string) error { return errors.Join(os.Mkdir(p, 0o755), writing("mine")(p+"/data")) },
		"link":        func(p string) error { return os.Symlink("data.db", p) },
		"pipe":        func(p string) error { return syscall.Mkfifo(p, 0o644) },
	} {
		for guard, args := range map[string][]string{"": {}, "file": {"--on", "?lockfile=file"}, "none": {"--no-lockfile"}} {
			if guard == "none" && (name == "empty" || name == "SOMEDIR") {
				continue // which may have other locks in them
			}
			t.Run(name+"/"+guard, func(t *testing.T) {
				t.Parallel()
				dir := tempDir(t)
				key := filepath.Join(dir, name)
				if err := put(key); err != nil {
					t.Fatal(err)
				}
				if name != "link" {
					if err := os.Chtimes(key, old, old); err != nil {
						t.Fatal(err)
					}
				}
				before := everything(t, dir)
				if guard == "file" {
					args, key = []string{"--on", "efs://" + dir + "?lockfile=file"}, name
				}
				for _, c := range [][]string{
					{"run", "--try"},
					{"run", "--timeout", "5s", "--max-wait", "1s", "--retry-interval", "100ms"},
					{"once", "--unless", filepath.Join(dir, "lock")},
				} {
					c = append(append(c, args...), key, "--", "touch", filepath.Join(dir, "ran"))
					if code, _, stderr := run(t, c...); code != 65 || !strings.Contains(stderr, filepath.Join(dir, name)) {
						t.Errorf("hasp %s: exit %d, want 65: %s", c[0], code, stderr)
					}
				}
				if after := everything(t, dir); after != before {
					t.Errorf("it was\n%sand is\n%s", before, after)
				}
			})
		}
	}
}

// hasp once with its arguments the wrong way around does no harm.
func TestOnceWithArgumentsSwapped(t *testing.T) {
	dir := tempDir(t)
	config, lock := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "lock")
	old := time.Now().Add(-24 * time.Hour)
	if err := errors.Join(writing("method: bayes\n")(config), os.Chtimes(config, old, old)); err != nil {
		t.Fatal(err)
	}
	before := everything(t, dir)
	if code, _, stderr := run(t, "once", config, "--unless", lock, "--", "touch", lock); code != 65 || !strings.Contains(stderr, "is not a lock file") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if after := everything(t, dir); after != before {
		t.Errorf("it was\n%sand is\n%s", before, after)
	}
}

// putEfsLock puts the file of an EfsLock process that took the lock that long ago.
func putEfsLock(t *testing.T, path string, age time.Duration) {
	t.Helper()
	at := time.Now().Add(-age)
	content := fmt.Sprintf("%d.5\n4711\nother-host\nLinux\n", at.Unix())
	if err := errors.Join(writing(content)(path), os.Chtimes(path, at, at)); err != nil {
		t.Fatal(err)
	}
}

// The TTL of who wants a lock says nothing of how long an EfsLock process may hold it.
func TestLegacyTimeout(t *testing.T) {
	for _, c := range []struct {
		age   time.Duration
		flags []string
		want  int
	}{
		{6 * time.Second, []string{"--timeout", "5s"}, 75},
		{290 * time.Second, []string{"--timeout", "1s"}, 75},
		{310 * time.Second, []string{"--timeout", "1h"}, 0},
		{6 * time.Second, []string{"--legacy-timeout", "5s"}, 0},
		{310 * time.Second, []string{"--legacy-timeout", "10m"}, 75},
		{6 * time.Second, []string{"--timeout", "5s", "--on", "?legacy_timeout=1h"}, 75},
		{6 * time.Second, []string{"--legacy-timeout", "5s", "--on", "?legacy_timeout=1h"}, 0}, // the flag says more
	} {
		t.Run(fmt.Sprint(c.age, c.flags), func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			path := filepath.Join(dir, "lock")
			putEfsLock(t, path, c.age)
			key, flags := path, append([]string{}, c.flags...)
			if last := flags[len(flags)-1]; last[0] == '?' {
				key, flags[len(flags)-1] = "lock", "efs://"+dir+last
			}
			code, _, stderr := run(t, append(append([]string{"run", "--try"}, flags...), key, "--", "true")...)
			if code != c.want || c.want == 75 && !strings.Contains(stderr, "pid 4711") {
				t.Errorf("exit %d, want %d: %s", code, c.want, stderr)
			}
			if _, err := os.Stat(path); (err == nil) != (c.want == 75) {
				t.Errorf("its file: %v", err)
			}
		})
	}
}

// An EfsLock process that is in, behind a baton that a hasp process holds, is told of by
// status and list, and broken with token 0.
func TestEfsLockBehindAHolder(t *testing.T) {
	dir := tempDir(t)
	key := filepath.Join(dir, "lock")
	p := holding(t, key)
	if err := os.RemoveAll(key); err != nil {
		t.Fatal(err)
	}
	putEfsLock(t, key, 6*time.Second)
	for _, args := range [][]string{{"status", key}, {"list", dir}} {
		if code, out, stderr := run(t, args...); code != 0 || !strings.Contains(out, "other-host") || !strings.Contains(out, "where hasp's holder is") {
			t.Errorf("hasp %s: exit %d: %s%s", args[0], code, out, stderr)
		}
	}
	if code, out, stderr := run(t, "break", key, "--token", "0"); code != 0 || !strings.Contains(out, "broken") {
		t.Errorf("break: exit %d: %s%s", code, out, stderr)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("its file is still there")
	}
	p.in.Close()
	if code := p.wait(); code != 76 {
		t.Errorf("the holder: exit %d, want 76: %s", code, p.errors())
	}
}

// TTLs of any size are taken, and those that are none are refused, with nothing made.
func TestTimeoutsOfAnySize(t *testing.T) {
	dir := tempDir(t)
	for _, f := range []string{"--timeout=1ns", "--timeout=999us", "--legacy-timeout=0", "--legacy-timeout=-1s"} {
		for _, on := range []string{"", "mem:"} {
			if on != "" && strings.HasPrefix(f, "--legacy") {
				continue
			}
			args := []string{"run", f, filepath.Join(dir, "new", "lock"), "--", "true"}
			if on != "" {
				args = append([]string{"run", "--on", on}, args[1:]...)
			}
			flag, _, _ := strings.Cut(f, "=")
			if code, _, stderr := run(t, args...); code != 64 || !strings.Contains(stderr, flag) || strings.Contains(stderr, "goroutine") {
				t.Errorf("%q: exit %d, want 64: %s", args, code, stderr)
			}
		}
	}
	if made := everything(t, dir); strings.Count(made, "\n") != 1 {
		t.Errorf("made: %s", made)
	}
	key := filepath.Join(dir, "lock")
	for range 2 {
		if code, _, stderr := run(t, "run", "--timeout", "2562047h47m16.854775807s", key, "--", "true"); code != 0 || stderr != "" {
			t.Errorf("the longest: exit %d: %s", code, stderr)
		}
		if l := status(t, key); l.State != "free" {
			t.Errorf("then: %+v", l)
		}
	}
}

// What cannot be read is an entry, and an exit status of its own.
func TestListOfWhatCannotBeRead(t *testing.T) {
	dir := tempDir(t)
	p := holding(t, filepath.Join(dir, "held"))
	if code, out, stderr := run(t, "list", dir); code != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, ".empty.hasp"), 0o755), os.Mkdir(filepath.Join(dir, ".foreign.hasp"), 0o755),
		writing("mine")(filepath.Join(dir, ".foreign.hasp", "notes"))); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list", dir}, {"list", "--on", "efs://" + dir}} {
		code, out, stderr := run(t, args...)
		for _, want := range []string{"empty ", "unknown", "is empty", "foreign ", `"notes"`, "held"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in %s", want, out)
			}
		}
		if code != 1 || stderr != "" || strings.Count(out, "\n") != 4 {
			t.Errorf("exit %d, want 1: %s%s", code, out, stderr)
		}
		code, out, stderr = run(t, append(args, "-o", "json")...)
		var locks []struct {
			Key, State, Note string
			Holder           *struct{ PID int }
		}
		if err := json.Unmarshal([]byte(out), &locks); err != nil || len(locks) != 3 || code != 1 || stderr != "" {
			t.Fatalf("exit %d, want 1: %v: %s%s", code, err, out, stderr)
		}
		for i, state := range []string{"unknown", "unknown", "held"} {
			if l := locks[i]; l.State != state || (l.Note == "") != (state == "held") || (l.Holder != nil) != (state == "held") {
				t.Errorf("%+v, want %s", l, state)
			}
		}
	}
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, p.errors())
	}
}

// Directories that have to be made are not told of, if it is one, and are in one line
// otherwise: it may be that a file system is not mounted.
func TestParentsThatAreMade(t *testing.T) {
	dir := tempDir(t)
	for path, warned := range map[string]bool{"one/lock": false, "two/levels/lock": true} {
		for _, again := range []bool{false, true} {
			code, _, stderr := run(t, "run", filepath.Join(dir, path), "--", "true")
			if code != 0 {
				t.Errorf("%s: exit %d: %s", path, code, stderr)
			}
			if want := warned && !again; strings.Count(stderr, "\n") != map[bool]int{true: 1}[want] || want && (!strings.Contains(stderr, filepath.Dir(path)) || !strings.Contains(stderr, "mounted")) {
				t.Errorf("%s, again %v: %q", path, again, stderr)
			}
		}
	}
}

// --mounted refuses what is on no network, whatever the URL says, and makes nothing.
func TestMounted(t *testing.T) {
	dir := tempDir(t)
	for _, args := range [][]string{
		{"run", "--mounted", filepath.Join(dir, "lock")},
		{"run", "--mounted", filepath.Join(dir, "a", "b", "lock")},
		{"run", "--on", "efs://" + dir + "?mount=required", "lock"},
		{"run", "--on", "efs://" + dir + "?mount=any", "--mounted", "lock"},
		{"run", "--on", "efs://" + dir + "/new?mount=required&create=true", "lock"},
	} {
		code, _, stderr := run(t, append(args, "--", "true")...)
		if code != 64 || !strings.Contains(stderr, "not on a network") || !strings.Contains(stderr, "not mounted") || !strings.Contains(stderr, dir) {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	if made := everything(t, dir); strings.Count(made, "\n") != 1 {
		t.Errorf("made: %s", made)
	}
}

// A holder that was robbed while its command ran exits with 76 and says how, also if no
// heartbeat came in between.
func TestRobbedWhileTheCommandRan(t *testing.T) {
	for name, rob := range map[string]func(dir string) error{
		"guard removed": func(d string) error { return os.RemoveAll(d + "/lock") },
		"guard replaced": func(d string) error {
			return errors.Join(os.RemoveAll(d+"/lock"), writing("1763862345.5\n1\nh\nLinux\n")(d+"/lock"))
		},
		"directory moved":    func(d string) error { return os.Rename(d, d+".old") },
		"directory removed":  func(d string) error { return os.RemoveAll(d) },
		"directory replaced": func(d string) error { return errors.Join(os.Rename(d, d+".old"), os.Mkdir(d, 0o755)) },
	} {
		for _, format := range []string{"text", "json"} {
			t.Run(name+"/"+format, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(tempDir(t), "sweep")
				p := holding(t, filepath.Join(dir, "lock"), "-o", format)
				if err := rob(dir); err != nil {
					t.Fatal(err)
				}
				if name == "directory replaced" {
					if code, _, stderr := run(t, "run", "--try", filepath.Join(dir, "lock"), "--", "true"); code != 0 {
						t.Errorf("another: exit %d: %s", code, stderr)
					}
				}
				p.in.Close()
				code, said := p.wait(), strings.TrimSpace(p.errors())
				if format == "json" {
					var res struct {
						Error string
						Exit  int
						Ran   bool
					}
					if err := json.Unmarshal([]byte(said), &res); err != nil || res.Exit != 76 || !res.Ran {
						t.Errorf("%v: %s", err, said)
					}
					said = res.Error
				}
				if code != 76 || !strings.Contains(said, "lock was lost: ") || strings.HasSuffix(said, ";") || !strings.Contains(said, dir) {
					t.Errorf("exit %d, want 76: %q", code, said)
				}
			})
		}
	}
}
