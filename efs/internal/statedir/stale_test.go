//go:build unix

package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

func newDir(t *testing.T, f fsys.FS, path string) *Dir {
	t.Helper()
	d := New(f, &Clock{}, "lock", path)
	d.clock.Trust()
	return d
}

func claim(id string, ttl time.Duration) backend.Claim {
	return backend.Claim{ID: id, TTL: ttl, Holder: backend.Holder{Owner: id}}
}

// Raising the token of a lock, again and again, makes a dead holder neither live longer
// nor die earlier, for one who has watched all the time and for one who comes new.
func TestRaiseIsNoSignOfLife(t *testing.T) {
	const ttl = time.Second
	path := filepath.Join(t.TempDir(), "lock")
	holder, watcher, raiser := newDir(t, fsys.OS{}, path), newDir(t, fsys.OS{}, path), newDir(t, fsys.OS{}, path)
	if err := holder.Make(); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	h, err := holder.Take(context.Background(), claim("holder", ttl))
	if err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	for i := uint64(1); ; i++ {
		if err := raiser.Raise(h.Baton.Gen + i*10); err != nil {
			t.Fatal(err)
		}
		for name, d := range map[string]*Dir{"watcher": watcher, "newcomer": newDir(t, fsys.OS{}, path)} {
			b, changed, err := d.Read()
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			var held *backend.HeldError
			if err := d.Judge(b, changed); err != nil && !errors.As(err, &held) {
				t.Fatal(err)
			}
			switch late := start.Sub(before) > 2*ttl; {
			case held == nil && time.Since(after) < ttl:
				t.Fatalf("%s: stale after %v, with a TTL of %v: %s", name, time.Since(after), ttl, b.Name())
			case held != nil && late:
				t.Fatalf("%s: held after %v, with a TTL of %v: %v", name, time.Since(before), ttl, held)
			case held == nil && name == "watcher":
				t.Logf("stale after %v and %d raises", time.Since(before), i)
				return
			}
		}
	}
}

// The longest TTL there is does no harm.
func TestLongestTTL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	d := newDir(t, fsys.OS{}, path)
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	h, err := d.Take(context.Background(), claim("a", 1<<63-1))
	if err != nil {
		t.Fatal(err)
	}
	b, changed, err := newDir(t, fsys.OS{}, path).Read()
	if err != nil || b.TTL != 1<<63-1 {
		t.Fatalf("%+v, %v", b, err)
	}
	var held *backend.HeldError
	if err := d.Judge(b, changed); !errors.As(err, &held) || held.RetryAfter < 1<<62 {
		t.Errorf("judged %v", err)
	}
	if ok, err := h.Free(true); !ok || err != nil {
		t.Errorf("free: %v, %v", ok, err)
	}
}

// Who looks at several files in turn knows of each since when it stands.
func TestFilesSeenInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDir(t, fsys.OS{}, "/lock")
		for range 10 {
			d.Stood("a")
			d.Stood("b")
			time.Sleep(time.Second)
		}
		if a, b := d.Stood("a"), d.Stood("b"); a != 10*time.Second || b != 10*time.Second {
			t.Errorf("stood for %v and %v, want 10s", a, b)
		}
		for i := range 100 {
			time.Sleep(time.Nanosecond)
			d.Stood(fmt.Sprint(i))
			d.Stood("a")
		}
		if a, n := d.Stood("a"), len(d.files); a < 10*time.Second || n > maxFiles {
			t.Errorf("stood for %v among %d files", a, n)
		}
	})
}

// server is a file server whose clock can be set: times that were given before stay.
type server struct {
	fsys.FS
	off     time.Duration
	offsets map[string]time.Duration // by the names in state directories
}

func (s *server) Touch(path string, mode fs.FileMode) (time.Time, error) {
	now, err := s.FS.Touch(path, mode)
	return now.Add(s.off), err
}

func (s *server) Rename(from, to string) error {
	s.offsets[filepath.Base(to)] = s.off
	return s.FS.Rename(from, to)
}

func (s *server) List(dir string) ([]string, fsys.Info, error) {
	names, before, err := s.FS.List(dir)
	for _, n := range names {
		before.Mtime = before.Mtime.Add(s.offsets[n])
	}
	return names, before, err
}

// Whatever is done to the server's clock, a live holder is not robbed, and a dead one's
// lock is free within two TTLs.
func TestServerClockIsSet(t *testing.T) {
	const ttl = 400 * time.Millisecond
	for _, c := range []struct {
		name          string
		before, after time.Duration
	}{
		{"back", 0, -10 * time.Minute}, {"forward", 0, 10 * time.Minute},
		{"always ahead", time.Hour, time.Hour}, {"always behind", -time.Hour, -time.Hour},
		{"back and forward", -10 * time.Minute, 10 * time.Minute},
	} {
		for _, fresh := range []bool{false, true} {
			for _, beats := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/fresh=%v/beats after=%v", c.name, fresh, beats), func(t *testing.T) {
					t.Parallel()
					s := &server{FS: fsys.OS{}, off: c.before, offsets: map[string]time.Duration{}}
					path := filepath.Join(t.TempDir(), "lock")
					holder, watcher := newDir(t, s, path), newDir(t, s, path)
					if err := holder.Make(); err != nil {
						t.Fatal(err)
					}
					h, err := holder.Take(context.Background(), claim("holder", ttl))
					if err != nil {
						t.Fatal(err)
					}
					judge := func(d *Dir) bool {
						b, changed, err := d.Read()
						if err != nil {
							t.Fatal(err)
						}
						var held *backend.HeldError
						if err := d.Judge(b, changed); err != nil && !errors.As(err, &held) {
							t.Fatal(err)
						}
						return held == nil
					}
					judge(watcher)
					s.off = c.after
					if beats {
						if ok, err := h.Next(func(*Baton) {}); !ok || err != nil {
							t.Fatal(ok, err)
						}
					}
					last, set := h.Beat, time.Now()
					if fresh {
						watcher = newDir(t, s, path)
					}
					for late := 0; ; time.Sleep(5 * time.Millisecond) {
						stale := judge(watcher)
						if at := time.Since(last); stale && at < ttl {
							t.Fatalf("stale %v after a sign of life, with a TTL of %v", at, ttl)
						}
						if stale {
							t.Logf("stale after %v", time.Since(last))
							return
						}
						// On a busy machine one look may take that long, and more than one is needed.
						if time.Since(set) > 2*ttl+time.Second {
							late++
						}
						if late > 20 {
							t.Fatalf("not stale after %v, with a TTL of %v", time.Since(set), ttl)
						}
					}
				})
			}
		}
	}
}
