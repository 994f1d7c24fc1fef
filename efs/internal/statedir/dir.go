//go:build unix

// Package statedir keeps the state of one lock in a directory: one file, the baton,
// whose name is changed by rename, which is a compare-and-swap. It knows whose the lock
// is and since when, and nothing of what stands at the lock's path.
package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

var (
	// ErrGone: there is no state directory at the path.
	ErrGone = errors.New("the state directory is gone")
	// ErrClockStands: file times do not advance.
	ErrClockStands = errors.New("file times do not advance on this file system")
)

// Corrupt says that something in the way is not what hasp, or a process of the EfsLock
// protocol, would have put there.
func Corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", backend.ErrCorrupt, fmt.Sprintf(format, args...))
}

// A Dir is a lock's state directory, and what this client remembers of it. One
// goroutine uses it at a time.
type Dir struct {
	Key string
	// Poll is the longest pause between two looks of a waiter.
	Poll time.Duration
	// Local: what was done is on disk when that was asked for, and not before.
	Local bool
	// Rested is what this client's guard was when it took it away last: most often it is the
	// one that it puts up next, and is known again by this.
	Rested fsys.Info

	fs    fsys.FS
	clock *Clock
	lock  string // the lock's path
	path  string // of the state directory
	above string // the directory that both are in: with a dot, for it may be a link
	mode  fs.FileMode

	rest   string        // the path that Rest returned last
	epoch  uint64        // and for which epoch
	last   string        // the baton's name when this client last let go of it; empty if unknown
	litter []func() bool // what could not be cleaned up, to be tried again
	seen   sighting
	listed listing
	turn   turn
	files  []fileSighting
	unsure map[string]string // claims that may have the lock: attempt.go
	value  valueHead         // of the value that was read or set last

	hasValues bool // the last listing showed a directory of values
}

// New is the state directory of the lock at path.
func New(f fsys.FS, clock *Clock, key, path string) *Dir {
	dir := filepath.Dir(path)
	return &Dir{Key: key, fs: f, clock: clock, lock: path, path: filepath.Join(dir, StateName(filepath.Base(path))), above: dir + "/."}
}

// StateName is the name of the state directory beside the lock called base. All names
// beside a lock are fixed by it, so that whoever cleans up after a crash need not list
// a directory that may be large.
func StateName(base string) string { return "." + base + ".hasp" }

// LongestSuffix bounds how long a lock's name may be.
const LongestSuffix = len(".") + len(".hasp") + len(".clock") + genDigits

// LockPath is where the lock's guard stands.
func (d *Dir) LockPath() string { return d.lock }

// Path is that of the state directory.
func (d *Dir) Path() string { return d.path }

// Above is the path of the directory that the lock is in.
func (d *Dir) Above() string { return d.above }

// FS is the file system that it is on.
func (d *Dir) FS() fsys.FS { return d.fs }

// RestName is the directory in which the guard of an epoch rests.
func RestName(epoch uint64) string { return "rest." + strconv.FormatUint(epoch, 10) }

// ParseRest is the opposite of RestName.
func ParseRest(name string) (epoch uint64, ok bool) {
	text, ok := strings.CutPrefix(name, "rest.")
	epoch, err := strconv.ParseUint(text, 10, 64)
	return epoch, ok && err == nil && RestName(epoch) == name
}

// Rest is RestName's path. It is asked for with each grant.
func (d *Dir) Rest(epoch uint64) string {
	if d.rest == "" || d.epoch != epoch {
		d.rest, d.epoch = d.path+"/"+RestName(epoch), epoch
	}
	return d.rest
}

// Forget drops what is remembered of the baton.
func (d *Dir) Forget() { d.last = "" }

// Mode is what everything that is made for the lock is allowed to those who share it:
// what the lock's directory is.
func (d *Dir) Mode() (fs.FileMode, error) {
	err := d.learnMode()
	return d.mode, err
}

func (d *Dir) learnMode() error {
	if d.mode != 0 {
		return nil
	}
	i, err := d.fs.Stat(d.above, false)
	if err != nil {
		return err
	}
	d.mode = i.Mode & (fs.ModePerm | fs.ModeSetgid | fs.ModeSticky)
	return nil
}

// Read lists the state directory anew and returns the baton, and the time of the
// directory's last change as the server knew it before the listing: the baton has had
// its name at least since then, or longer. The error matches ErrGone if there is none.
func (d *Dir) Read() (b Baton, changed time.Time, err error) {
	var names []string
	asked := false
	for i := range 12 {
		// A listing taken while the baton is renamed can show none, or two.
		time.Sleep(time.Duration(i) * time.Millisecond)
		start := time.Now()
		var before fsys.Info
		if names, before, err = d.fs.List(d.path); err != nil {
			if fsys.IsNoDir(err) && !asked {
				// The client may remember what was there. Now it is made to ask.
				asked = true
				if _, err = d.fs.Stat(d.above, true); err == nil {
					continue
				}
			}
			return b, changed, d.listError(err)
		}
		found, values := 0, false
		for _, n := range names {
			if x, ok := Parse(n); ok {
				b = x
				found++
			} else if n == valuesName {
				values = true
			} else if _, rest := ParseRest(n); !rest && !strings.HasPrefix(n, ".") { // file systems and desktops leave such
				return b, changed, Corrupt("%s has a file %q that hasp did not put there; remove it, or use a version of hasp that knows it", d.path, n)
			}
		}
		if found == 1 {
			d.hasValues = values
			d.saw(b, before.Mtime, start)
			return b, before.Mtime, nil
		}
	}
	// Nothing is said before a look by path: an open directory may be another's by now.
	if _, err := d.fs.Stat(d.path, true); err != nil {
		return b, changed, d.listError(err)
	}
	if len(names) == 0 {
		return b, changed, Corrupt("%s is empty: the file that stands for the lock was removed; if no process holds the lock, remove the directory, and it is made anew", d.path)
	}
	return b, changed, Corrupt("%s has no file, or more than one, that stands for the lock (%s); if no process holds the lock, remove the directory, and it is made anew", d.path, strings.Join(names, ", "))
}

// ReadNow is Read for one who says that there is no state if there is none: that may be
// what the client remembers, and so it is made to ask first.
func (d *Dir) ReadNow() (b Baton, changed time.Time, err error) {
	if b, changed, err = d.Read(); errors.Is(err, ErrGone) {
		if _, serr := d.fs.Stat(d.above, true); serr == nil {
			b, changed, err = d.Read()
		}
	}
	return b, changed, err
}

func (d *Dir) listError(err error) error {
	switch {
	case fsys.IsGone(err):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case fsys.IsNoDir(err):
		return Corrupt("%s is not a directory; it is where hasp keeps the state of %s", d.path, d.lock)
	}
	return fmt.Errorf("read the lock's state in %s: %w", d.path, err)
}

// swap renames the baton from one name to the next, which is the compare-and-swap that
// everything rests on. Whatever rename answered, swapped is right if err is nil; if err
// is not nil, cur is unknown.
//
// An error is no answer: the request may have been carried out and its reply lost, in
// which case a repetition says that there is no such file. So a fresh listing decides.
func (d *Dir) swap(from, to Baton) (swapped bool, cur Baton, err error) {
	swapped, cur, _, err = d.trySwap(from, to)
	return swapped, cur, err
}

// trySwap is swap, and also says what rename answered.
func (d *Dir) trySwap(from, to Baton) (swapped bool, cur Baton, rerr, err error) {
	fromName, toName := from.Name(), to.Name()
	rerr = d.fs.Rename(d.path+"/"+fromName, d.path+"/"+toName)
	d.last = ""
	if rerr == nil {
		d.remember(to, toName)
		to.name = toName
		return true, to, nil, nil
	}
	cur, _, err = d.Read()
	if err != nil {
		if errors.Is(err, ErrGone) {
			return false, cur, rerr, err
		}
		return false, cur, rerr, backend.Unavailable(fmt.Errorf("%w, and then: %w", rerr, err))
	}
	switch cur.Name() {
	case toName:
		d.remember(to, toName)
		return true, cur, rerr, nil
	case fromName:
		// It was not carried out. After some errors it may be yet: the request can still
		// be on its way. And "no such file", although it is there, comes from a name that
		// the client remembers, or from an answer that was computed before.
		if fsys.IsGone(rerr) {
			return false, cur, rerr, backend.Unavailable(rerr)
		}
		return false, cur, rerr, fsys.Classify(rerr)
	}
	return false, cur, rerr, nil // somebody else's turn
}

// remember keeps a name that need not be listed next time. A held one's heartbeats
// rename it, so it is no use; and that one is sealed is not said from memory.
func (d *Dir) remember(b Baton, name string) {
	if b.State.isFree() {
		d.last = name
	}
}

// Discard removes a file that has no meaning any more. If that fails it is tried again
// later, so that nothing is left that grows.
func (d *Dir) Discard(path string) {
	err := d.fs.Remove(path)
	if err != nil && !fsys.IsMissing(err) {
		err = d.fs.Remove(path)
	}
	if err != nil && !fsys.IsMissing(err) {
		d.Later(func() bool {
			err := d.fs.Remove(path)
			return err == nil || fsys.IsMissing(err)
		})
	}
}

const maxLitter = 64

// Later has f called, which cleans up, until it returns true.
func (d *Dir) Later(f func() (done bool)) {
	if len(d.litter) < maxLitter {
		d.litter = append(d.litter, f)
	}
}

// Tidy cleans up what could not be cleaned up before.
func (d *Dir) Tidy() {
	old := d.litter
	d.litter = nil
	for _, f := range old {
		if !f() {
			d.Later(f)
		}
	}
}

// Untidy tells whether there is something left to clean up.
func (d *Dir) Untidy() bool { return len(d.litter) > 0 }
