//go:build unix

package efs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

const (
	userEnv   = "HASP_EFS_USER"
	alice     = 65501
	bob       = 65502
	shareTeam = 65503
	userTTL   = time.Second
)

// userChild is what a process of another user does, whose umask hides all it makes.
func userChild(spec string) int {
	f := strings.SplitN(spec, "|", 4) // what, guard, root, key
	unix.Umask(0o077)
	kind, _ := strconv.Atoi(f[1])
	run := func() error {
		b, err := Open(f[2], &Options{LockFile: LockFile(kind), LegacyTimeout: userTTL})
		if err != nil {
			return err
		}
		l := hasp.New(b, &hasp.Options{TTL: userTTL, RetryInterval: 20 * time.Millisecond, MaxRetries: hasp.Unlimited})
		defer l.Close()
		switch f[0] {
		case "hold":
			if _, err := l.Acquire(ctxBG, f[3]); err != nil {
				return err
			}
			fmt.Println("held")
			_, _ = io.Copy(io.Discard, os.Stdin) // or until it is killed
		case "file":
			content := fmt.Sprintf("%d.5\n4711\nother-host\nLinux\n", time.Now().Unix())
			return os.WriteFile(filepath.Join(f[2], f[3]), []byte(content), 0o600)
		case "look":
			r, err := b.Inspect(ctxBG, f[3])
			fmt.Println(r.State, r.Holder.PID, r.Note, err)
			rs, err := b.List(ctxBG, "")
			for _, r := range rs {
				fmt.Println(r.Key, r.State, r.Note)
			}
			return err
		case "try":
			_, err := b.Acquire(ctxBG, f[3], testClaim("try", userTTL))
			fmt.Println(err)
		case "take":
			if _, err := b.Acquire(ctxBG, f[3], testClaim("try", userTTL)); !errors.Is(err, backend.ErrHeld) {
				return fmt.Errorf("it is not held: %w", err)
			}
			fmt.Println("waiting")
			lease, err := l.Acquire(ctxBG, f[3])
			if err != nil {
				return err
			}
			fmt.Println("taken")
			return lease.Release(ctxBG)
		}
		return nil
	}
	if err := run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// users makes directories, and this program, accessible to other users.
type users struct {
	t        *testing.T
	bin, dir string
}

func newUsers(t *testing.T) users {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	u := users{t: t, dir: t.TempDir()}
	for d := u.dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	u.bin = filepath.Join(u.dir, "user")
	if err := errors.Join(os.WriteFile(u.bin, exe, 0o755), os.Chmod(u.bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	return u
}

// shared makes a directory that users share.
func (u users) shared(name string, mode fs.FileMode) string {
	u.t.Helper()
	dir := filepath.Join(u.dir, name)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 0, shareTeam), os.Chmod(dir, mode)); err != nil {
		u.t.Fatal(err)
	}
	return dir
}

func (u users) cmd(uid uint32, what string, kind LockFile, root, key string) *exec.Cmd {
	cmd := exec.Command(u.bin)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d|%s|%s", userEnv, what, kind, root, key))
	cmd.Dir = u.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{shareTeam}}}
	return cmd
}

func (u users) run(t *testing.T, uid uint32, what string, kind LockFile, root, key string) string {
	t.Helper()
	out, err := u.cmd(uid, what, kind, root, key).CombinedOutput()
	if err != nil {
		t.Errorf("%s by user %d: %v: %s", what, uid, err, out)
	}
	return string(out)
}

// started starts a process and returns when it has said this.
func (u users) started(t *testing.T, uid uint32, what, says string, kind LockFile, root, key string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := u.cmd(uid, what, kind, root, key)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != says+"\n" {
		t.Fatalf("%s by user %d: %q, %v", what, uid, line, err)
	}
	return cmd, lines
}

// Users who may write a directory share its locks, whatever their umask: they see who
// holds them, wait, and take over from the dead, and so back.
func TestUsersShareLocks(t *testing.T) {
	u := newUsers(t)
	for name, mode := range map[string]fs.FileMode{"all": 0o777, "group": 0o770 | fs.ModeSetgid} {
		for _, kind := range []LockFile{Directory, File, NoLockFile} {
			for _, key := range []string{"lock", "made/by/alice/lock"} {
				t.Run(fmt.Sprintf("%s/%d/%s", name, kind, filepath.Dir(key)), func(t *testing.T) {
					t.Parallel()
					root := u.shared(strings.ReplaceAll(t.Name(), "/", "-"), mode)
					pair := []uint32{alice, bob}
					for i := range 3 { // the second and the third find what the others made
						holder, taker := pair[i%2], pair[1-i%2]
						hold, _ := u.started(t, holder, "hold", "held", kind, root, key)
						out := u.run(t, taker, "look", kind, root, key)
						if want := fmt.Sprintf("held %d ", hold.Process.Pid); !strings.HasPrefix(out, want) || !strings.Contains(out, "\n"+key+" held") {
							t.Errorf("user %d sees %q, want %q", taker, out, want)
						}
						take, lines := u.started(t, taker, "take", "waiting", kind, root, key)
						_ = hold.Process.Kill()
						if line, err := lines.ReadString('\n'); line != "taken\n" {
							t.Fatalf("user %d takes over from %d: %q, %v", taker, holder, line, err)
						}
						if err := take.Wait(); err != nil {
							t.Errorf("release: %v", err)
						}
					}
				})
			}
		}
	}
}

// A file that this user may not read is a lock file by its age, and no lock file if it is
// too long for one.
func TestUnreadableLockFile(t *testing.T) {
	u := newUsers(t)
	old := time.Now().Add(-time.Hour)
	for _, kind := range []LockFile{Directory, File} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			root := u.shared(strings.ReplaceAll(t.Name(), "/", "-"), 0o777)
			path := filepath.Join(root, "lock")
			u.run(t, alice, "file", kind, root, "lock")
			// another's clock says nothing of it
			now := time.Now().Add(time.Hour)
			if err := os.Chtimes(path, now, now); err != nil {
				t.Fatal(err)
			}
			for _, what := range []string{"try", "try", "look"} {
				out := u.run(t, bob, what, kind, root, "lock")
				if !strings.Contains(out, "held") || !strings.Contains(out, fmt.Sprintf("a lock file of user %d that this user may not read", alice)) {
					t.Errorf("%s: %q", what, out)
				}
			}
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
			if out := u.run(t, bob, "look", kind, root, "lock"); !strings.Contains(out, "stale") {
				t.Errorf("an hour later: %q", out)
			}
			u.started(t, bob, "hold", "held", kind, root, "lock")

			big := filepath.Join(root, "data")
			if err := errors.Join(os.WriteFile(big, make([]byte, 5000), 0o600), os.Chown(big, alice, alice), os.Chtimes(big, old, old)); err != nil {
				t.Fatal(err)
			}
			before := identity(t, big)
			if out := u.run(t, bob, "try", kind, root, "data"); !strings.Contains(out, "is not a lock file") {
				t.Errorf("another's private data: %q", out)
			}
			if after := identity(t, big); after != before {
				t.Errorf("it was %.200s and is %.200s", before, after)
			}
		})
	}
}

// A mode is set of nothing but what was made for it: a name may lead elsewhere by then, in
// a directory that others may write.
func TestModesOfOthersFilesAreLeft(t *testing.T) {
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		for name, put := range map[string]func(dir, secret, clock string) error{
			"symbolic link":   func(_, secret, clock string) error { return os.Symlink(secret, clock) },
			"hard link":       func(_, secret, clock string) error { return os.Link(secret, clock) },
			"the file itself": func(_, secret, clock string) error { return os.Rename(secret, clock) },
		} {
			t.Run(fmt.Sprintf("%s/%d", name, kind), func(t *testing.T) {
				old := unix.Umask(0o077)
				defer unix.Umask(old)
				dir := t.TempDir()
				secret := filepath.Join(dir, "secret")
				if err := errors.Join(os.Chmod(dir, 0o777), os.WriteFile(secret, []byte("secret"), 0o600)); err != nil {
					t.Fatal(err)
				}
				f, err := os.Open(secret)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := put(dir, secret, filepath.Join(dir, ".lock.hasp.clock")); err != nil {
					t.Fatal(err)
				}
				b := open(t, dir, &Options{LockFile: kind})
				g, err := b.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Release(ctxBG, g); err != nil {
					t.Error(err)
				}
				if i, err := f.Stat(); err != nil || i.Mode() != 0o600 || i.Size() != 6 {
					t.Errorf("the secret is %v, %v", i.Mode(), err)
				}
			})
		}
	}
}

// What is made for a lock has its directory's mode, and is sticky where that is.
func TestModesAreThoseOfTheDirectory(t *testing.T) {
	const bits = fs.ModePerm | fs.ModeSetgid | fs.ModeSticky
	for _, mode := range []fs.FileMode{0o777 | fs.ModeSticky, 0o777, 0o770 | fs.ModeSetgid, 0o755, 0o700} {
		for _, kind := range []LockFile{Directory, File, NoLockFile} {
			t.Run(fmt.Sprintf("%v/%d", mode, kind), func(t *testing.T) {
				old := unix.Umask(0o077)
				defer unix.Umask(old)
				dir := t.TempDir()
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
				b := open(t, dir, &Options{LockFile: kind})
				g, err := b.Acquire(ctxBG, "sub/lock", testClaim("a", time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				for _, rel := range contents(t, dir) {
					i, err := os.Lstat(filepath.Join(dir, rel))
					if err != nil {
						t.Fatal(err)
					}
					if want := mode & bits; i.IsDir() && i.Mode()&bits != want || !i.IsDir() && rel == "sub/lock" && i.Mode()&0o444 != 0o444 {
						t.Errorf("%s is %v, want %v", rel, i.Mode(), want)
					}
				}
				if err := b.Release(ctxBG, g); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
