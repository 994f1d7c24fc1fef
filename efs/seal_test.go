//go:build unix

package efs

import (
	"errors"
	"fmt"
	"math"
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
	"github.com/hasplock/hasp/efs/internal/statedir"
)

const sealedTo = "redis://user:hunter2@cache:6379/0"

// isSealed checks that nobody gets key, whatever is tried, and that it says where it has
// moved, without a secret.
func isSealed(t testing.TB, dir, key string) {
	t.Helper()
	for _, kind := range kinds {
		b := open(t, dir, &Options{LockFile: kind})
		check := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, backend.ErrMoved) || errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "cache:6379") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, %s: %v", kind, what, err)
			}
		}
		_, err := b.Acquire(ctxBG, key, testClaim("x", time.Millisecond))
		check("acquire", err)
		r, err := b.Inspect(ctxBG, key)
		if err != nil || r.State != backend.Sealed || !strings.Contains(r.String(), "sealed") || !strings.Contains(r.String(), "moved to redis://user:xxxxx@cache:6379/0") {
			t.Errorf("%v: %v, %v", kind, r, err)
		}
		check("break", b.Break(ctxBG, key, r.Token))
		if rs, err := b.Clear(ctxBG, key, true); err != nil || len(rs) > 0 {
			t.Errorf("%v, clear: %v, %v", kind, rs, err)
		}
		if err := b.RaiseToken(ctxBG, key, r.Token+1); err != nil {
			t.Errorf("%v, raise: %v", kind, err)
		}
		wake, stop, err := b.Watch(ctxBG, key, testClaim("waiter", time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		<-wake // so that it learns of it
		if err := stop(ctxBG, false); err != nil {
			t.Error(err)
		}
		_, err = b.Acquire(ctxBG, key, testClaim("y", math.MaxInt64))
		check("acquire after all that", err)
	}
	if names, err := os.ReadDir(filepath.Join(dir, key)); err != nil || len(names) != 1 || names[0].Name() != guard.Entry {
		t.Errorf("the guard: %v, %v", names, err)
	}
}

func TestSeal(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	for _, key := range []string{"new/lock", "used"} {
		var v backend.Value
		if key == "used" {
			g := acquired(t, b, key, "first", time.Minute)
			v = backend.Value{Token: g.Token, Seq: 1, Data: []byte("decided")}
			g, err := b.SetValue(ctxBG, g, v)
			if err != nil {
				t.Fatal(err)
			}
			var held *backend.HeldError
			if err := b.Seal(ctxBG, key, sealedTo); !errors.As(err, &held) || held.Record.ID != "first" {
				t.Errorf("seal of a lock that is held: %v", err)
			}
			if err := b.Release(ctxBG, g); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Unseal(ctxBG, key); !errors.Is(err, backend.ErrNotHeld) {
			t.Errorf("unseal before the seal: %v", err)
		}
		// Sealing again changes where to, also by one that did not seal it.
		for _, to := range []string{"redis://elsewhere:1", sealedTo, sealedTo} {
			if err := open(t, dir, nil).Seal(ctxBG, key, to); err != nil {
				t.Fatal(err)
			}
		}
		isSealed(t, dir, key)
		if got := valueOf(t, dir, key); !equal(got, v) {
			t.Errorf("the value is %+v", got)
		}
		// The guard that a person has removed is put back.
		if err := os.RemoveAll(filepath.Join(dir, key)); err != nil {
			t.Fatal(err)
		}
		if r, err := b.Inspect(ctxBG, key); err != nil || r.State != backend.Sealed || !strings.Contains(r.Note, "its guard was removed") {
			t.Errorf("without its guard: %v, %v", r, err)
		}
		if err := b.Seal(ctxBG, key, sealedTo); err != nil {
			t.Fatal(err)
		}
		isSealed(t, dir, key)
		rs, err := b.List(ctxBG, key)
		if err != nil || len(rs) != 1 || rs[0].State != backend.Sealed {
			t.Errorf("list: %v, %v", rs, err)
		}
		c := open(t, dir, nil) // has seen it sealed
		if _, err := c.Acquire(ctxBG, key, testClaim("early", time.Minute)); !errors.Is(err, backend.ErrMoved) {
			t.Error(err)
		}
		if err := b.Unseal(ctxBG, key); err != nil {
			t.Fatal(err)
		}
		if left, err := leftovers(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
		g := acquired(t, c, key, "after", time.Minute)
		if g.Token <= rs[0].Token {
			t.Errorf("token %d after %d", g.Token, rs[0].Token)
		}
		if got := valueOf(t, dir, key); !equal(got, v) {
			t.Errorf("the value is %+v", got)
		}
		if err := errors.Join(c.Release(ctxBG, g)); err != nil {
			t.Error(err)
		}
	}
}

// A lock file that lives is a holder, and one that is stale is not.
func TestSealBesideEfsLock(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	path := filepath.Join(dir, "lock")
	lockFileOf(t, path, time.Now())
	var held *backend.HeldError
	if err := b.Seal(ctxBG, "lock", sealedTo); !errors.As(err, &held) || held.Record.Holder.Host != "elsewhere" {
		t.Errorf("beside a live one: %v", err)
	}
	lockFileOf(t, path, time.Now().Add(-time.Hour))
	if err := b.Seal(ctxBG, "lock", sealedTo); err != nil {
		t.Fatal(err)
	}
	isSealed(t, dir, "lock")
	// One that comes in when a person has removed the guard is told of.
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	lockFileOf(t, path, time.Now())
	if r, err := b.Inspect(ctxBG, "lock"); err != nil || r.State != backend.Sealed || !strings.Contains(r.Note, "put a lock file there") {
		t.Errorf("%v, %v", r, err)
	}
	if err := b.Seal(ctxBG, "lock", sealedTo); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("seal beside it: %v", err)
	}
}

func lockFileOf(t *testing.T, path string, when time.Time) {
	t.Helper()
	err := os.WriteFile(path, fmt.Appendf(nil, "%d.5\n1\nelsewhere\nLinux\n", when.Unix()), 0o644)
	if err := errors.Join(err, os.Chtimes(path, when, when)); err != nil {
		t.Fatal(err)
	}
}

// Below a prefix what is a lock is sealed, and what is not is left alone.
func TestSealAll(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	for _, d := range []string{"sweeps/a", "sweeps/b", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"sweeps/a/lock", "other/lock"} {
		if err := b.Release(ctxBG, acquired(t, b, key, "x", time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	lockFileOf(t, dir+"/sweeps/b/stale", time.Now().Add(-time.Hour))
	lockFileOf(t, dir+"/sweeps/b/live", time.Now())
	held := acquired(t, b, "sweeps/held", "x", time.Minute)
	data := map[string]string{
		"sweeps/a/config.yaml": "a: 1\n", "sweeps/a/time": "1700000000.5\n", "sweeps/a/empty": "", "sweeps/a/pid": "4711\n",
		"sweeps/a/numbers": "1700000000\n1\n2\n3\n", "sweeps/a/blob": strings.Repeat("x", 1<<16),
	}
	for name, content := range data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	describe := func(all []backend.Sealing, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, x := range all {
			what := "done"
			if errors.Is(x.Err, backend.ErrHeld) {
				what = "held"
			} else if x.Err != nil {
				what = x.Err.Error()
			}
			s = append(s, x.Key+" "+what)
		}
		return strings.Join(s, ", ")
	}
	for range 2 { // it can be repeated
		if got, want := describe(b.SealAll(ctxBG, "sweeps/", sealedTo, nil)), "sweeps/a/lock done, sweeps/b/live held, sweeps/b/stale done, sweeps/held held"; got != want {
			t.Errorf("sealed: %s, want %s", got, want)
		}
	}
	isSealed(t, dir, "sweeps/b/stale")
	if err := b.Release(ctxBG, held); err != nil {
		t.Error(err)
	}
	if err := b.Release(ctxBG, acquired(t, b, "other/lock", "y", time.Minute)); err != nil {
		t.Error(err)
	}
	if got, want := describe(b.UnsealAll(ctxBG, "sweeps/")), "sweeps/a/lock done, sweeps/b/stale done"; got != want {
		t.Errorf("unsealed: %s, want %s", got, want)
	}
	if got := describe(b.UnsealAll(ctxBG, "")); got != "" {
		t.Errorf("unsealed again: %s", got)
	}
	for name, content := range data {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// The other guards cannot seal, and say what to do.
func TestSealWithOtherGuards(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []LockFile{File, NoLockFile} {
		b := open(t, dir, &Options{LockFile: kind})
		_, aerr := b.SealAll(ctxBG, "", sealedTo, nil)
		_, uerr := b.UnsealAll(ctxBG, "")
		for _, err := range []error{b.Seal(ctxBG, "lock", sealedTo), b.Unseal(ctxBG, "lock"), aerr, uerr} {
			if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "lockfile=dir") {
				t.Errorf("%v: %v", kind, err)
			}
		}
	}
	if names := contents(t, dir); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

// Versions that know no seals take the name for no baton, and leave it: what they can
// read is free, dirty or held.
func TestSealedIsNoBatonOfOldVersions(t *testing.T) {
	name := statedir.Baton{Gen: 7, State: statedir.Sealed, Moved: sealedTo}.Name()
	if !strings.HasPrefix(name, "00000000000000000007.sealed.e0.") {
		t.Error(name)
	}
}

// Processes of the EfsLock protocol of every reading, with any clock, end with their
// TimeoutError and never have a sealed lock; when it is unsealed they have.
func TestEfsLockBeforeASeal(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	path := filepath.Join(dir, "lock")
	if err := b.Seal(ctxBG, "lock", sealedTo); err != nil {
		t.Fatal(err)
	}
	const year = "--skew=31536000"
	peers := [][]string{
		{"--reading=held"}, {"--reading=removed"}, {"--reading=held", year}, {"--reading=removed", year},
		{"--reading=removed", "--skew=-31536000"}, {"--reading=removed", "--timeout=0", "--pause=0,0.05"}, {"--reading=removed", year, "--pause=0,0.05"},
	}
	all := func(check func(args []string, out string, err error)) {
		var wg sync.WaitGroup
		for _, args := range peers {
			cmd := legacyCmd(t, path, append(args, "--first-sleep=0", "--retry-interval=0.01,0.03", "--max-retries=20")...)
			wg.Go(func() {
				out, err := cmd.CombinedOutput()
				check(args, string(out), err)
			})
		}
		wg.Wait()
	}
	all(func(args []string, out string, err error) {
		if err == nil || !strings.Contains(out, "TimeoutError") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	})
	isSealed(t, dir, "lock")
	if err := b.Unseal(ctxBG, "lock"); err != nil {
		t.Fatal(err)
	}
	for _, args := range peers { // one at a time: they rob each other
		cmd := legacyCmd(t, path, append(args, "--first-sleep=0", "--retry-interval=0.01,0.03", "--max-retries=20")...)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "rounds 1") {
			t.Errorf("%v after it was unsealed: %v: %s", args, err, out)
		}
	}
}

// A request to unseal that is carried out when the lock has been sealed again finds nothing.
func TestLateUnseal(t *testing.T) {
	dir := t.TempDir()
	f := &pathed{FS: fsys.OS{}}
	b, err := openOn(f, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Seal(ctxBG, "lock", sealedTo); err != nil {
		t.Fatal(err)
	}
	var late func() error
	f.rename = func(from, to string) error {
		late = func() error { return f.FS.Rename(from, to) }
		return syscall.EIO
	}
	if err := b.Unseal(ctxBG, "lock"); !errors.Is(err, backend.ErrUnavailable) {
		t.Fatal(err)
	}
	f.rename = nil
	if err := b.Seal(ctxBG, "lock", sealedTo); err != nil {
		t.Fatal(err)
	}
	if err := late(); err == nil {
		t.Error("it had an effect")
	}
	isSealed(t, dir, "lock")
}
