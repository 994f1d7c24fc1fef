//go:build unix

package efs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// putLegacy puts the file of an EfsLock process that took the lock that long ago.
func putLegacy(t *testing.T, path string, age time.Duration) {
	t.Helper()
	at := time.Now().Add(-age)
	content := fmt.Sprintf("%d.5\n4711\nother-host\nLinux\n", at.Unix())
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, at, at)); err != nil {
		t.Fatal(err)
	}
}

// The file of an EfsLock process is stale after that protocol's timeout, whatever the TTL
// of who wants the lock.
func TestLegacyTimeout(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		option       string
		ttl, age     time.Duration
		live         bool
		leastToCome  time.Duration
		mostIfItLive time.Duration
	}{
		{"", 5 * second, 6 * second, true, 293 * second, 300 * second},
		{"", 2 * second, 250 * second, true, 49 * second, 60 * second},
		{"", 3600 * second, 290 * second, true, 9 * second, 20 * second},
		{"", 3600 * second, 320 * second, false, 0, 0},
		{"legacy_timeout=20s", 3600 * second, 22 * second, false, 0, 0},
		{"legacy_timeout=20s", 5 * second, 6 * second, true, 13 * second, 20 * second},
		{"legacy_timeout=1h", 5 * second, 3000 * second, true, 500 * second, 700 * second},
	} {
		for _, lockfile := range []string{"dir", "file"} {
			t.Run(fmt.Sprintf("%s/%s/ttl=%v/age=%v", lockfile, c.option, c.ttl, c.age), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				bb, err := backend.Open(ctxBG, "efs://"+dir+"?lockfile="+lockfile+"&"+c.option)
				if err != nil {
					t.Fatal(err)
				}
				defer bb.Close()
				b := bb.(*Backend)
				path := filepath.Join(dir, "lock")
				putLegacy(t, path, c.age)
				before := identity(t, path)
				for range 2 { // the second time the waiter knows of it
					_, err = b.Acquire(ctxBG, "lock", testClaim("a", c.ttl))
					var held *backend.HeldError
					if c.live != errors.As(err, &held) {
						t.Fatalf("got %v, want held: %v", err, c.live)
					}
					if !c.live {
						break
					}
					if r := held.Record; r.Holder.PID != 4711 || r.Remaining < c.leastToCome || r.Remaining > c.mostIfItLive {
						t.Errorf("held by %+v", r)
					}
				}
				if c.live {
					if after := identity(t, path); after != before {
						t.Errorf("its file was %s, and is %s", before, after)
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
	if o, err := (*Options)(nil).resolve(); err != nil || o.LegacyTimeout != 300*second {
		t.Errorf("the default is %v, %v", o.LegacyTimeout, err)
	}
	if _, err := Open(t.TempDir(), &Options{LegacyTimeout: -1}); err == nil || !strings.Contains(err.Error(), "LegacyTimeout is -1ns") {
		t.Errorf("a negative one: %v", err)
	}
}

// An EfsLock process that is in is told of, whatever the baton says, and its file can be
// broken.
func TestLegacyHolderBehindABaton(t *testing.T) {
	batons := map[string]func(t *testing.T, b *Backend) backend.Grant{
		"held": func(t *testing.T, b *Backend) backend.Grant {
			g, err := b.Acquire(ctxBG, crashKey, testClaim("alive", time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			return g
		},
		"stale": func(t *testing.T, b *Backend) backend.Grant {
			g, err := abandon(b)
			if err != nil {
				t.Fatal(err)
			}
			return g
		},
		"dirty": func(t *testing.T, b *Backend) backend.Grant {
			if _, err := dirty(b); err != nil {
				t.Fatal(err)
			}
			return backend.Grant{}
		},
		"free": func(t *testing.T, b *Backend) backend.Grant {
			if _, err := holdAndRelease(b); err != nil {
				t.Fatal(err)
			}
			return backend.Grant{}
		},
		"not there": func(*testing.T, *Backend) backend.Grant { return backend.Grant{} },
	}
	for name, prepare := range batons {
		for _, kind := range []LockFile{Directory, File} {
			for _, age := range []time.Duration{6 * time.Second, time.Hour} {
				t.Run(fmt.Sprintf("%s/%d/%v", name, kind, age), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					b := open(t, dir, &Options{LockFile: kind})
					g := prepare(t, b)
					path := filepath.Join(dir, crashKey)
					if err := os.RemoveAll(path); err != nil {
						t.Fatal(err)
					}
					putLegacy(t, path, age)
					live := age < time.Minute
					want := backend.Held
					if !live && name != "held" {
						want = backend.Stale
					}
					fresh := open(t, dir, &Options{LockFile: kind})
					r, err := fresh.Inspect(ctxBG, crashKey)
					if ours := !live && (name == "held" || name == "stale"); err != nil || r.State != want || (r.Holder.PID == 4711) == ours {
						t.Errorf("status: %+v, %v", r, err)
					}
					rs, err := fresh.List(ctxBG, "")
					if name == "not there" { // nobody can tell that it is a lock
						if err != nil || len(rs) != 0 {
							t.Errorf("list: %+v, %v", rs, err)
						}
					} else if err != nil || len(rs) != 1 || rs[0].State != r.State || rs[0].Holder != r.Holder {
						t.Errorf("list: %+v, %v", rs, err)
					}
					if err := fresh.Break(ctxBG, crashKey, 12345); live && err == nil {
						t.Error("break with nobody's token did something")
					}
					if name == "held" && kind == File { // nobody moves anything at the path beside a live holder of the baton
						var held *backend.HeldError
						if err := fresh.Break(ctxBG, crashKey, 0); !errors.As(err, &held) || held.Record.Token != g.Token {
							t.Errorf("break beside a live holder: %v", err)
						}
						if _, err := os.Lstat(path); err != nil {
							t.Errorf("its file after that: %v", err)
						}
						if err := fresh.Break(ctxBG, crashKey, g.Token); err != nil {
							t.Errorf("break of hasp's: %v", err)
						}
						_, err := os.Lstat(path)
						if live && err != nil {
							t.Errorf("the break of hasp's took its file away: %v", err)
						}
						if !live { // a stale one is cleared by whoever takes the lock
							putLegacy(t, path, age)
						}
						g.Token = 0
					}
					if err := fresh.Break(ctxBG, crashKey, 0); err != nil {
						t.Errorf("break: %v", err)
					}
					if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("its file is there: %v", err)
					}
					if name == "held" && kind == Directory { // the baton's holder is still to be broken by its token
						if err := fresh.Break(ctxBG, crashKey, g.Token); err != nil {
							t.Errorf("break of hasp's: %v", err)
						}
					} else if g.Token != 0 {
						if err := fresh.Break(ctxBG, crashKey, g.Token); !errors.Is(err, backend.ErrNotHeld) {
							t.Errorf("break of hasp's, which is broken: %v", err)
						}
					}
					if r, err := fresh.Inspect(ctxBG, crashKey); err != nil || r.State != backend.Free {
						t.Errorf("then: %+v, %v", r, err)
					}
				})
			}
		}
	}
}
