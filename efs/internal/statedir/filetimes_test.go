//go:build unix

package statedir

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// times is a file system that gives other times than the one below it.
type times struct {
	fsys.FS
	dir, file func(time.Time) time.Time
}

func (s *times) Stat(path string, fresh bool) (fsys.Info, error) {
	i, err := s.FS.Stat(path, fresh)
	if i.Mode.IsDir() {
		i.Mtime = s.dir(i.Mtime)
	} else {
		i.Mtime = s.file(i.Mtime)
	}
	return i, err
}

func (s *times) List(dir string) ([]string, fsys.Info, error) {
	names, before, err := s.FS.List(dir)
	before.Mtime = s.dir(before.Mtime)
	return names, before, err
}

func (s *times) Touch(path string, mode fs.FileMode) (time.Time, error) {
	now, err := s.FS.Touch(path, mode)
	return s.file(now), err
}

func asIs(t time.Time) time.Time { return t }

func by(d time.Duration) func(time.Time) time.Time {
	return func(t time.Time) time.Time { return t.Add(d) }
}

func in(step time.Duration) func(time.Time) time.Time {
	return func(t time.Time) time.Time { return t.Truncate(step) }
}

func stale(t *testing.T, d *Dir) bool {
	t.Helper()
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

// robs has newcomers judge a holder that gives signs of life, and then one that has died.
// A newcomer knows nothing but what the file system says.
func robs(t *testing.T, ttl time.Duration, newcomer func(path string) *Dir) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lock")
	holder := newDir(t, fsys.OS{}, path)
	if err := holder.Make(); err != nil {
		t.Fatal(err)
	}
	h, err := holder.Take(context.Background(), claim("holder", ttl))
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 3*ttl; {
		if ok, err := h.Next(func(*Baton) {}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		beat := h.Beat
		for d := newcomer(path); time.Since(beat) < ttl/3; time.Sleep(ttl / 50) {
			if stale(t, d) && time.Since(beat) < ttl {
				t.Fatalf("stale %v after a sign of life, with a TTL of %v", time.Since(beat), ttl)
			}
		}
	}
	d, dead := newcomer(path), time.Now()
	for !stale(t, d) {
		if time.Since(dead) > 2*ttl+4*time.Second {
			t.Fatalf("not stale after %v, with a TTL of %v", time.Since(dead), ttl)
		}
		time.Sleep(ttl / 50)
	}
	if at := time.Since(h.Beat); at < ttl {
		t.Fatalf("stale %v after a sign of life, with a TTL of %v", at, ttl)
	}
}

// A file that is touched has this host's time, and directories have the server's.
func TestTouchedByAnotherClock(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, -10 * time.Second, 10 * time.Second} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			s := &times{FS: fsys.OS{}, dir: by(off), file: asIs}
			robs(t, 2*time.Second, func(path string) *Dir {
				d := New(s, &Clock{}, "lock", path)
				d.clock.Foreign()
				return d
			})
		})
	}
}

// remembers answers with what a state directory's time was when it was looked at first, and the
// names in it are those of now. If it does not answer all like that, a look that asks for it
// gets the time of now.
type remembers struct {
	times
	all bool
	old time.Time
}

func (s *remembers) time(path string, now time.Time) time.Time {
	if filepath.Ext(path) != ".hasp" {
		return now
	}
	if s.old.IsZero() {
		s.old = now
	}
	return s.old
}

func (s *remembers) Stat(path string, fresh bool) (fsys.Info, error) {
	i, err := s.FS.Stat(path, fresh)
	if s.all || !fresh {
		i.Mtime = s.time(path, i.Mtime)
	}
	return i, err
}

func (s *remembers) List(dir string) ([]string, fsys.Info, error) {
	names, before, err := s.FS.List(dir)
	before.Mtime = s.time(dir, before.Mtime)
	return names, before, err
}

func TestRememberedAttributes(t *testing.T) {
	for name, how := range map[string]func(*Clock){"relayed": (*Clock).Relayed, "foreign": (*Clock).Foreign} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &remembers{times: times{FS: fsys.OS{}, file: asIs}, all: name == "relayed"}
			robs(t, time.Second, func(path string) *Dir {
				d := New(s, &Clock{}, "lock", path)
				how(d.clock)
				return d
			})
		})
	}
}

// Directories' times are coarser than those of files, or all are coarse.
func TestCoarseTimes(t *testing.T) {
	for name, s := range map[string]*times{
		"directories 1s": {dir: in(time.Second), file: asIs},
		"all 1s":         {dir: in(time.Second), file: in(time.Second)},
		"files 1s":       {dir: asIs, file: in(time.Second)},
		"all 2s":         {dir: in(2 * time.Second), file: in(2 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.FS = fsys.OS{}
			robs(t, 1200*time.Millisecond, func(path string) *Dir { return newDir(t, s, path) })
		})
	}
}

// A TTL that is too short for the times there are is refused with the figure, and one that
// is not is accepted, whatever the first times were that were seen.
func TestShortestTTL(t *testing.T) {
	for _, c := range []struct {
		step, ttl time.Duration
		refused   string
	}{
		{time.Second, 1900 * time.Millisecond, "a TTL of 1.9s is too short: file times here advance in steps of 1s, and it takes two of them, 2s, at least"},
		{time.Second, 2 * time.Second, ""},
		{time.Second, 3900 * time.Millisecond, ""},
		{2 * time.Second, 3900 * time.Millisecond, "a TTL of 3.9s is too short: file times here advance in steps of 2s, and it takes two of them, 4s, at least"},
		{2 * time.Second, 4 * time.Second, ""},
		{time.Millisecond, time.Millisecond, ""},
	} {
		t.Run(c.step.String()+"/"+c.ttl.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "lock")
			d := newDir(t, &times{FS: fsys.OS{}, dir: in(c.step), file: in(c.step)}, path)
			if err := d.Make(); err != nil {
				t.Fatal(err)
			}
			// From an even second on, so that all times so far are of one.
			time.Sleep(time.Until(time.Now().Truncate(2 * time.Second).Add(2 * time.Second)))
			d = newDir(t, d.fs, path)
			if _, err := d.Now(); err != nil {
				t.Fatal(err)
			}
			h, err := d.Take(context.Background(), claim("a", c.ttl))
			switch {
			case c.refused != "" && (!errors.Is(err, backend.ErrUnsupported) || err.Error() != backend.ErrUnsupported.Error()+": "+c.refused):
				t.Errorf("got %v", err)
			case c.refused == "" && (err != nil || h == nil):
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// Directories' times never move. A holder that lives is not robbed, and one that has died
// is found out by standing still.
func TestTimesStand(t *testing.T) {
	t.Parallel()
	then := time.Now()
	s := &times{FS: fsys.OS{}, dir: func(time.Time) time.Time { return then }, file: asIs}
	c := &Clock{}
	if err := New(s, c, "lock", t.TempDir()+"/lock").ProveTimes(); !errors.Is(err, ErrTimesStand) {
		t.Errorf("proven: %v", err)
	}
	start := time.Now()
	if err := New(s, c, "lock", t.TempDir()+"/lock").ProveTimes(); !errors.Is(err, ErrTimesStand) || time.Since(start) > 2*time.Second {
		t.Errorf("again, for %v: %v", time.Since(start), err)
	}
	robs(t, time.Second, func(path string) *Dir { return New(s, c, "lock", path) })
}

// What is left of a lock begins with its TTL at most, falls all the time, and ends when it
// is stale, however coarse times are.
func TestRemaining(t *testing.T) {
	changed := time.Unix(1000, 0)
	for _, step := range []time.Duration{2 * time.Second, time.Nanosecond} {
		for _, ttl := range []time.Duration{2 * time.Second, 5 * time.Minute, 1<<63 - 1} {
			d := New(fsys.OS{}, &Clock{}, "lock", t.TempDir()+"/lock")
			d.clock.sawDir(changed.Add(step))
			b := Baton{Gen: 1, State: Held, TTL: ttl, Claim: "c", Nonce: "n"}
			end := add(ttl, d.clock.slack(ttl))
			last := ttl + 1
			if ttl == 1<<63-1 {
				last = ttl
			}
			for i := range 20 {
				age := end / 20 * time.Duration(i)
				r := d.Record(b, changed, changed.Add(age))
				if r.State != backend.Held || r.Remaining <= 0 || r.Remaining >= last && ttl != 1<<63-1 || r.Remaining > ttl {
					t.Errorf("step %v, TTL %v, %v old: %v, %v left, after %v", step, ttl, age, r.State, r.Remaining, last)
				}
				last = r.Remaining
			}
			if r := d.Record(b, changed, changed.Add(end)); ttl != 1<<63-1 && (r.State != backend.Stale || r.Remaining != 0) {
				t.Errorf("step %v, TTL %v, at the end: %+v", step, ttl, r)
			}
		}
	}
}

// removes has others remove the file that is touched, as many times as it says.
type removes struct {
	fsys.FS
	left int
}

func (s *removes) Touch(path string, mode fs.FileMode) (time.Time, error) {
	if s.left--; s.left >= 0 {
		return time.Time{}, &fs.PathError{Op: "touch", Path: path, Err: fs.ErrNotExist}
	}
	return s.FS.Touch(path, mode)
}

// Many read the clock at once, and each removes the file that it has touched.
func TestClockFileRemovedByOthers(t *testing.T) {
	d := newDir(t, &removes{fsys.OS{}, 10}, filepath.Join(t.TempDir(), "lock"))
	if now, err := d.Now(); err != nil || now.IsZero() {
		t.Errorf("got %v, %v", now, err)
	}
}
