//go:build unix

package efs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys/fsystest"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

var kinds = []LockFile{Directory, File, NoLockFile}

func acquired(t *testing.T, b *Backend, key, id string, ttl time.Duration) backend.Grant {
	t.Helper()
	g, err := b.Acquire(ctxBG, key, testClaim(id, ttl))
	for range 20 { // a short one may be over on a busy machine
		if !errors.Is(err, backend.ErrUnavailable) {
			break
		}
		g, err = b.Acquire(ctxBG, key, testClaim(id, ttl))
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// valueOf reads key's value with a Backend that has never looked before.
func valueOf(t *testing.T, dir, key string) backend.Value {
	t.Helper()
	v, err := open(t, dir, nil).Value(ctxBG, key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func equal(v, w backend.Value) bool {
	return v.Compare(w) == 0 && v.Deleted == w.Deleted && bytes.Equal(v.Data, w.Data)
}

// valueFiles are the names in the directory of a key's values.
func valueFiles(t *testing.T, dir, key string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, filepath.Dir(key), "."+filepath.Base(key)+".hasp", ".values", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A value goes through every transition of the lock, and nothing but it is left.
func TestValueStays(t *testing.T) {
	for _, kind := range kinds {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir, &Options{LockFile: kind})
			const key = "sweeps/a/lock"
			if v := valueOf(t, dir, key); v.Token != 0 {
				t.Errorf("before all: %+v", v)
			}
			g := acquired(t, b, key, "first", time.Minute)
			if v := valueOf(t, dir, key); v.Token != 0 {
				t.Errorf("before it is set: %+v", v)
			}
			v := backend.Value{Token: g.Token, Seq: 1, Data: bytes.Repeat([]byte("\x00ä\n"), backend.MaxValueLen/4)}
			set := func(g backend.Grant, v backend.Value) backend.Grant {
				t.Helper()
				g, err := b.SetValue(ctxBG, g, v)
				if err != nil {
					t.Fatal(err)
				}
				return g
			}
			check := func(when string) {
				t.Helper()
				if got := valueOf(t, dir, key); !equal(got, v) {
					t.Errorf("%s: token %d, seq %d, deleted %v, %d bytes", when, got.Token, got.Seq, got.Deleted, len(got.Data))
				}
			}
			g = set(g, v)
			check("after it was set")
			g = set(g, v)
			check("after it was set again")
			if _, err := b.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: 1, Data: []byte("another")}); !errors.Is(err, backend.ErrOldValue) {
				t.Errorf("another of the same sequence: %v", err)
			}
			g, err := b.Renew(ctxBG, g)
			if err != nil {
				t.Fatal(err)
			}
			check("after a heartbeat")
			if err := b.RaiseToken(ctxBG, key, g.Token+10); err != nil {
				t.Fatal(err)
			}
			check("after its token was raised")
			v = backend.Value{Token: g.Token, Seq: 2, Data: []byte("second")}
			g = set(g, v)
			check("after the second")
			if err := b.Release(ctxBG, g); err != nil {
				t.Fatal(err)
			}
			check("after the release")
			if _, err := b.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: 3, Data: []byte("late")}); !errors.Is(err, backend.ErrLost) {
				t.Errorf("after the release: %v", err)
			}
			check("after one that was late")
			g = acquired(t, b, key, "second", time.Minute)
			check("after the next acquire")
			if err := b.Break(ctxBG, key, g.Token); err != nil {
				t.Fatal(err)
			}
			check("after a break")
			if _, err := b.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: 1, Data: []byte("broken")}); !errors.Is(err, backend.ErrLost) {
				t.Errorf("after a break: %v", err)
			}
			check("after one by a broken holder")
			old := acquired(t, b, key, "dead", 50*time.Millisecond)
			for {
				if g, err = b.Acquire(ctxBG, key, testClaim("taker", time.Minute)); err == nil {
					break
				}
			}
			check("after a takeover")
			if _, err := b.SetValue(ctxBG, old, backend.Value{Token: old.Token, Seq: 1, Data: []byte("overtaken")}); !errors.Is(err, backend.ErrLost) {
				t.Errorf("after a takeover: %v", err)
			}
			check("after one by a holder that was overtaken")
			if _, err := b.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1, Data: []byte("old")}); !errors.Is(err, backend.ErrOldValue) {
				t.Errorf("one of an older token: %v", err)
			}
			check("after an older one")
			v = backend.Value{Token: g.Token, Seq: 1, Deleted: true}
			g.State = nil // what is not known is found out
			g = set(g, v)
			check("after it was deleted")
			kvs, err := b.ListValues(ctxBG, "sweeps/")
			if err != nil || len(kvs) != 1 || kvs[0].Key != key || !equal(kvs[0].Value, v) {
				t.Errorf("listed: %+v, %v", kvs, err)
			}
			if err := b.Release(ctxBG, g); err != nil {
				t.Fatal(err)
			}
			if left, err := leftovers(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}

// Values are as readable as the rest of the lock's state, whatever the umask.
func TestModeOfValues(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o775|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	b := open(t, dir, nil)
	g := acquired(t, b, "lock", "first", time.Minute)
	if _, err := b.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	values := filepath.Join(dir, ".lock.hasp", ".values")
	for path, want := range map[string]os.FileMode{values: 0o775, valueFiles(t, dir, "lock")[0]: 0o664} {
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, i.Mode(), err, want)
		}
	}
}

// A value that a person has removed, cut or changed is an error that says so, for readers
// and for who would set the next one, and nothing is changed.
func TestValueThatWasDamaged(t *testing.T) {
	damage := map[string]func(path string) error{
		"removed":   os.Remove,
		"cut":       func(p string) error { return os.Truncate(p, 150) },
		"emptied":   func(p string) error { return os.Truncate(p, 0) },
		"longer":    func(p string) error { return os.Truncate(p, 1<<20) },
		"changed":   func(p string) error { return edit(p, "chosen", "CHOSEN") },
		"its token": func(p string) error { return edit(p, "token=7", "token=8") },
		"of another name": func(p string) error {
			name := filepath.Base(p)
			return edit(p, name, strings.Repeat("A", len(name)))
		},
		"a directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) },
		"a link":      func(p string) error { return errors.Join(os.Rename(p, p+".old"), os.Symlink(p+".old", p)) },
		"all removed": func(p string) error { return os.RemoveAll(filepath.Dir(p)) },
	}
	for name, hurt := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir, nil)
			g := acquired(t, b, "lock", "first", time.Minute)
			g, err := b.SetValue(ctxBG, g, backend.Value{Token: 7, Seq: 1, Data: []byte("the id that was chosen")})
			if err != nil {
				t.Fatal(err)
			}
			path := valueFiles(t, dir, "lock")[0]
			if err := hurt(path); err != nil {
				t.Fatal(err)
			}
			c := open(t, dir, nil)
			v, err := c.Value(ctxBG, "lock")
			if !errors.Is(err, backend.ErrCorrupt) || v.Token != 0 || v.Data != nil || !strings.Contains(err.Error(), path) {
				t.Errorf("value: %+v, %v", v, err)
			}
			if kvs, err := c.ListValues(ctxBG, ""); !errors.Is(err, backend.ErrCorrupt) || !strings.Contains(err.Error(), `"lock"`) {
				t.Errorf("list: %v, %v", kvs, err)
			}
			g.State = nil // another Backend has not read it before
			if _, err := c.SetValue(ctxBG, g, backend.Value{Token: 9, Seq: 1}); !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("set: %v", err)
			}
			if err := c.Release(ctxBG, g); err != nil {
				t.Errorf("the lock is held all the same: %v", err)
			}
		})
	}
}

func edit(path, from, to string) error {
	content, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, bytes.Replace(content, []byte(from), []byte(to), 1), 0o644)
	}
	return err
}

// That nothing can be looked at does not mean that there is no value.
func TestValueOfWhatIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, nil)
	for _, key := range []string{"lock", "below/it/lock"} {
		if v, err := b.Value(ctxBG, key); err != nil || v.Token != 0 {
			t.Errorf("%s: %+v, %v", key, v, err)
		}
	}
	if _, err := b.Value(ctxBG, "a//b"); !errors.Is(err, backend.ErrInvalidKey) {
		t.Errorf("a bad key: %v", err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"lock", "below/it/lock"} {
		if v, err := b.Value(ctxBG, key); !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("%s without a root: %+v, %v", key, v, err)
		}
	}
	if kvs, err := b.ListValues(ctxBG, ""); err == nil {
		t.Errorf("list without a root: %v", kvs)
	}
}

// A reader that has listed the name of a value that is removed by then lists again.
func TestReaderMeetsASetter(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	g := acquired(t, b, "lock", "first", time.Minute)
	seq := uint64(0)
	next := func() {
		seq++
		var err error
		if g, err = b.SetValue(ctxBG, g, backend.Value{Token: g.Token, Seq: seq, Data: fmt.Append(nil, seq)}); err != nil {
			t.Fatal(err)
		}
	}
	next()
	r, f := openFaulty(t, dir, Directory)
	lists := 0
	f.Around = func(op string, do func() error) error {
		err := do()
		if op == "list" {
			if lists++; lists <= 5 {
				next()
			}
		}
		return err
	}
	v, err := r.Value(ctxBG, "lock")
	if err != nil || v.Seq != 6 || string(v.Data) != "6" {
		t.Errorf("%+v, %v", v, err)
	}
}

// What a holder writes who was overtaken meanwhile is not seen, and is removed; and he
// removes nothing of his successor's.
func TestOvertakenWhileSetting(t *testing.T) {
	for _, at := range []string{"stat", "list", "mkdir", "store", "sync", "rename"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			slow, f := openFaulty(t, dir, Directory)
			slow.local = true
			b := open(t, dir, nil)
			g := acquired(t, slow, "lock", "slow", 50*time.Millisecond)
			want := backend.Value{Token: 5, Seq: 1, Data: []byte("the successor's")}
			late := backend.Value{Token: 9, Seq: 1, Data: []byte("late")}
			overtaken := false
			f.Around = func(op string, do func() error) error {
				if op != at || overtaken {
					return do()
				}
				overtaken = true
				for {
					h, err := b.Acquire(ctxBG, "lock", testClaim("fast", time.Minute))
					if err == nil {
						if _, err = b.SetValue(ctxBG, h, want); err != nil {
							t.Error(err)
						}
						return do()
					}
				}
			}
			_, err := slow.SetValue(ctxBG, g, late)
			f.Around = nil
			if !overtaken {
				t.Fatal("there is no such step")
			}
			if errors.Is(err, backend.ErrUnavailable) { // the other value could be a later one
				_, err = slow.SetValue(ctxBG, g, late)
			}
			if !errors.Is(err, backend.ErrLost) {
				t.Errorf("set by one who was overtaken: %v", err)
			}
			if v := valueOf(t, dir, "lock"); !equal(v, want) {
				t.Errorf("the value is %+v", v)
			}
			if n := valueFiles(t, dir, "lock"); len(n) != 1 {
				t.Errorf("files of values: %q", n)
			}
		})
	}
}

// A value that was published, and replaced by a successor's before its setter could look,
// may have been seen: that it was never set is not said.
func TestReplacedBeforeTheLook(t *testing.T) {
	dir := t.TempDir()
	slow, f := openFaulty(t, dir, Directory)
	b := open(t, dir, nil)
	g := acquired(t, slow, "lock", "slow", 50*time.Millisecond)
	f.Around = func(op string, do func() error) error {
		err := do()
		if op != "rename" {
			return err
		}
		f.Around = nil
		for {
			if h, err := b.Acquire(ctxBG, "lock", testClaim("fast", time.Minute)); err == nil {
				if _, err = b.SetValue(ctxBG, h, backend.Value{Token: h.Token, Seq: 1}); err != nil {
					t.Error(err)
				}
				return syscall.EIO
			}
		}
	}
	if _, err := slow.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1}); errors.Is(err, backend.ErrLost) || !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("set, and replaced: %v", err)
	}
	if _, err := slow.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1}); !errors.Is(err, backend.ErrLost) {
		t.Errorf("again: %v", err)
	}
	if n := valueFiles(t, dir, "lock"); len(n) != 1 {
		t.Errorf("files of values: %q", n)
	}
}

// Who is overtaken while he sweeps leaves alone what his successor is about to publish.
func TestOvertakenWhileSweeping(t *testing.T) {
	dir := t.TempDir()
	slow, f := openFaulty(t, dir, Directory)
	b := open(t, dir, nil)
	if _, err := b.SetValue(ctxBG, acquired(t, b, "lock", "dead", 50*time.Millisecond), backend.Value{Token: 1, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(dir, ".lock.hasp", ".values", "ABCDEFGHIJK234")
	taken, overtaken := false, false
	f.Around = func(op string, do func() error) error {
		if op == "list" && taken && !overtaken { // it has taken over, and lists the values
			overtaken = true
			for {
				if _, err := b.Acquire(ctxBG, "lock", testClaim("fast", time.Minute)); err == nil {
					break
				}
			}
			if err := os.WriteFile(next, nil, 0o644); err != nil {
				t.Error(err)
			}
		}
		err := do()
		taken = taken || op == "rename" && err == nil
		return err
	}
	for !overtaken {
		_, _ = slow.Acquire(ctxBG, "lock", testClaim("slow", 50*time.Millisecond))
	}
	if _, err := os.Stat(next); err != nil {
		t.Error(err)
	}
}

// A holder whose guard another has replaced sets nothing.
func TestValueWithoutItsGuard(t *testing.T) {
	for _, kind := range []LockFile{Directory, File} {
		dir := t.TempDir()
		b := open(t, dir, &Options{LockFile: kind})
		g := acquired(t, b, "lock", "first", time.Minute)
		path := filepath.Join(dir, "lock")
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, fmt.Appendf(nil, "%d.0\n1\nelsewhere\nLinux\n", time.Now().Unix()), 0o644)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1}); !errors.Is(err, backend.ErrLost) {
			t.Errorf("%v: %v", kind, err)
		}
		if v := valueOf(t, dir, "lock"); v.Token != 0 {
			t.Errorf("%v: the value is %+v", kind, v)
		}
	}
}

// An answer that was lost is not taken for a loss, nor for a success.
func TestLostAnswerOfAValue(t *testing.T) {
	for _, done := range []bool{true, false} {
		for _, next := range []string{"repeat", "release", "renew"} {
			t.Run(fmt.Sprintf("%v, %s", done, next), func(t *testing.T) {
				dir := t.TempDir()
				b, f := openFaulty(t, dir, Directory)
				g := acquired(t, b, "lock", "first", time.Minute)
				g, err := b.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1, Data: []byte("one")})
				if err != nil {
					t.Fatal(err)
				}
				two := backend.Value{Token: 1, Seq: 2, Data: []byte("two")}
				late := fail(f, "rename", done)
				if _, err := b.SetValue(ctxBG, g, two); !errors.Is(err, backend.ErrUnavailable) {
					t.Fatal(err)
				}
				f.Around = nil
				switch next {
				case "repeat":
					g, err = b.SetValue(ctxBG, g, two)
				case "renew":
					g, err = b.Renew(ctxBG, g)
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Release(ctxBG, g); err != nil {
					t.Fatal(err)
				}
				if err := late(); !done && err == nil {
					t.Error("a late request has had an effect")
				}
				want := uint64(1)
				if done || next == "repeat" {
					want = 2
				}
				if v := valueOf(t, dir, "lock"); v.Seq != want {
					t.Errorf("the value is %+v, want sequence %d", v, want)
				}
				if left, err := leftovers(dir); err != nil || len(left) > 0 {
					t.Errorf("left behind: %q, %v", left, err)
				}
			})
		}
	}
}

// fail makes the next request of a kind, and the look that follows it, have no answer. It
// returns what carries the request out late.
func fail(f *fsystest.Faulty, kind string, done bool) (late func() error) {
	left := 2
	var request func() error
	f.Around = func(op string, do func() error) error {
		if op == kind || left == 1 && op == "list" {
			if left--; left >= 0 {
				if op == kind {
					request = do
				}
				if done {
					_ = do()
				}
				return syscall.EIO
			}
		}
		return do()
	}
	return func() error { return request() }
}

// Another version's state, which knows no values, is what it was; and to such a version
// a state with a value is no baton at all, which it does not touch.
func TestBatonsWithoutAValue(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, ".lock.hasp")
	if err := errors.Join(os.Mkdir(state, 0o755), os.WriteFile(filepath.Join(state, batonName(7)), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, nil)
	if v := valueOf(t, dir, "lock"); v.Token != 0 {
		t.Errorf("%+v", v)
	}
	g := acquired(t, b, "lock", "first", time.Minute)
	if cur := g.State.(*grantState).hold.Baton; strings.Contains(cur.Name(), ".v") {
		t.Errorf("%s", cur.Name())
	}
	g, err := b.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	if cur, ok := statedir.Parse(g.State.(*grantState).hold.Baton.Name()); !ok || cur.Value == "" {
		t.Errorf("%s", cur.Name())
	}
}

// Setting a value is so many requests, with and without one before, and costs nobody else
// one.
func TestRequestsOfAValue(t *testing.T) {
	dir := t.TempDir()
	b, f := openFaulty(t, dir, Directory)
	b.local = false // as on a network
	counts := map[string]int{}
	f.Around = func(op string, do func() error) error {
		counts[op]++
		return do()
	}
	expect := func(what, want string) {
		t.Helper()
		if got := fmt.Sprint(counts); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		clear(counts)
	}
	g := acquired(t, b, "lock", "first", time.Minute)
	clear(counts)
	set := func(seq uint64) {
		t.Helper()
		var err error
		if g, err = b.SetValue(ctxBG, g, backend.Value{Token: 1, Seq: seq}); err != nil {
			t.Fatal(err)
		}
	}
	set(1)
	expect("the first value", "map[list:2 mkdir:1 rename:1 stat:1 store:1]")
	set(2)
	expect("the second", "map[list:1 remove:1 rename:1 stat:1 store:1]")
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	clear(counts)
	if _, err := b.Value(ctxBG, "lock"); err != nil {
		t.Fatal(err)
	}
	expect("a look", "map[list:1 read:1]")
	if err := b.Release(ctxBG, acquired(t, b, "lock", "next", time.Minute)); err != nil {
		t.Fatal(err)
	}
	clear(counts)
	if err := b.Release(ctxBG, acquired(t, b, "lock", "after", time.Minute)); err != nil {
		t.Fatal(err)
	}
	expect("acquire and release", "map[rename:3 rename-new:1 stat:1]") // the answer of rename-new is the look
}
