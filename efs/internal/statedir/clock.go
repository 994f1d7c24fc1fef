//go:build unix

package statedir

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hasplock/hasp/efs/internal/fsys"
)

// A Clock is the file server's clock as one client knows it: read now and then from
// the time of a file touched for that, and carried on by this host's monotonic clock
// in between. What it says is never ahead of the server, unless that was set.
type Clock struct {
	mu      sync.Mutex
	read    time.Time // the server's time …
	at      time.Time // … at this moment of the monotonic clock, or earlier
	files   step      // of the times that files get
	dirs    step      // of those that directories get, which may be coarser
	proven  bool      // directories' times move with each rename in them
	stands  bool      // they were seen not to
	known   bool      // the steps were looked at closely
	relayed bool      // by a program that may remember old answers
	foreign bool      // a file that is touched may get another clock's time than a directory
}

// A step is in what steps times have been seen to advance; 0 if none was seen.
type step time.Duration

// saw learns from a time that the server gave. One that is a whole multiple of a coarse
// step by chance is taken for coarse until the next.
func (s *step) saw(t time.Time) {
	g := time.Nanosecond
	for _, coarse := range []time.Duration{2 * time.Second, time.Second, 100 * time.Millisecond, 10 * time.Millisecond, time.Millisecond} {
		if t.UnixNano()%int64(coarse) == 0 {
			g = coarse
			break
		}
	}
	if *s == 0 || step(g) < *s {
		*s = step(g)
	}
}

const (
	// maxAge is how long it is carried on where records are made for people.
	maxAge = time.Minute
	// driftShare bounds how much faster than the server's this host's clock runs: one
	// part in 1000 is twice what NTP allows itself.
	driftShare = 1000
)

// last returns the server's time if it was read within maxAge.
func (c *Clock) last(maxAge time.Duration) (time.Time, bool) { return c.asOf(time.Now(), maxAge) }

// asOf is last as of now.
func (c *Clock) asOf(now time.Time, maxAge time.Duration) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	passed := now.Sub(c.at)
	if c.at.IsZero() || passed > maxAge {
		return time.Time{}, false
	}
	return c.read.Add(passed - passed/driftShare), true
}

func (c *Clock) set(read, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.at = read, at
	c.files.saw(read)
}

// sawDir learns from a directory's time.
func (c *Clock) sawDir(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirs.saw(t)
}

// Granule is the step in which times advance, as far as has been seen: the coarser of
// files' and directories', since an age is the difference of one and the other.
func (c *Clock) Granule() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(max(c.files, c.dirs))
}

// slack is how long after its TTL a lock is taken over: for the tick and the step of
// file times and for drift between two readings of the server's clock.
func (c *Clock) slack(ttl time.Duration) time.Duration {
	s := 12*time.Millisecond + min(ttl/100, 250*time.Millisecond)
	if g := c.Granule(); g > 2*time.Millisecond {
		s += g
	}
	return s
}

// MaxTolerance is the greatest tolerance there is, that of a TTL of 50 s or more.
const MaxTolerance = 2500 * time.Millisecond

// tolerance is by how much two clocks may differ and still be believed when a holder
// with this TTL is judged: half of the margin that its own deadline leaves.
func tolerance(ttl time.Duration) time.Duration { return min(ttl/20, MaxTolerance) }

func abs(d time.Duration) time.Duration { return max(d, -d) }

// add is a + b, at most the longest duration there is.
func add(a, b time.Duration) time.Duration {
	if s := a + b; s >= a {
		return s
	}
	return 1<<63 - 1
}

// readClock asks the server for its time.
func (d *Dir) readClock() (time.Time, error) {
	name := d.path + ".clock"
	var t time.Time
	var err error
	for i := range 20 {
		if t, err = d.fs.Touch(name, d.mode&0o666); err == nil {
			break
		}
		// Another removed it just now, which some FUSE programs say of a file that is open;
		// there may be many. Or it is another user's.
		if !fsys.IsGone(err) {
			if i >= 2 {
				break
			}
			_ = d.fs.Remove(name)
		}
	}
	if err != nil {
		return t, err
	}
	d.clock.set(t, time.Now())
	d.Discard(name)
	return t, nil
}

// Now returns the server's time, asking for it if what is known is older than a minute.
func (d *Dir) Now() (time.Time, error) {
	if t, ok := d.clock.last(maxAge); ok {
		return t, nil
	}
	if err := d.learnMode(); err != nil {
		return time.Time{}, err
	}
	return d.readClock()
}

// afterTick returns the server's time once it is greater than at the call: file times
// advance in ticks, and a token taken from one must exceed all those that were given
// out during the same tick.
func (d *Dir) afterTick() (time.Time, error) {
	first, err := d.readClock()
	for start := time.Now(); err == nil; {
		var t time.Time
		if t, err = d.readClock(); err == nil && t.After(first) {
			return t, nil
		}
		if time.Since(start) > 5*time.Second {
			return t, ErrClockStands
		}
		time.Sleep(time.Millisecond)
	}
	return first, err
}

// reading returns what was read last, and when by the monotonic clock.
func (c *Clock) reading() (read, at time.Time, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read, c.at, !c.at.IsZero()
}

// moves tells whether a directory's time is known to move with each rename in it.
func (c *Clock) moves() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proven
}

// Trust says that directories' times are known to move with each rename in them.
func (c *Clock) Trust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proven = true
}

// Relayed says that a program stands between this host and where the files are. What it
// answers may be what it remembers, and a time that it sets may be this host's: sshfs
// does both. So nobody is believed dead by the clock.
func (c *Clock) Relayed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.relayed = true
}

// Foreign says that it is not known by whose clock a touched file gets its time.
func (c *Clock) Foreign() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.foreign = true
}

func (c *Clock) isRelayed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.relayed
}

func (c *Clock) isForeign() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foreign
}

func (c *Clock) measured() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

func (c *Clock) setMeasured() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = true
}

// ErrTimesStand: the whole reckoning of who is alive rests on what this file system
// does not do.
var ErrTimesStand = errors.New("a directory's time does not move when a name in it changes, so a holder's signs of life cannot be seen")

// ProveTimes finds out by trying whether directories' times move here, in a directory
// beside the lock that is removed again, and how fine they are. That they do not is found out
// once: it takes seconds.
func (d *Dir) ProveTimes() error {
	if d.clock.stood() {
		return ErrTimesStand
	}
	if err := d.learnMode(); err != nil {
		return err
	}
	begun := time.Now()
	dir, err := d.makeTrial()
	if err != nil {
		return fmt.Errorf("try out file times: %w", err)
	}
	names := trialNames(dir)
	defer d.removeTrial(dir)
	if err := d.fs.Create(names[0], nil, 0o600); err != nil {
		return fmt.Errorf("try out file times: %w", err)
	}
	first, err := d.fs.Stat(dir, true)
	if err != nil {
		return fmt.Errorf("try out file times: %w", err)
	}
	d.clock.sawDir(first.Mtime)
	// Steps of 2 s are the coarsest there are.
	for start, i := time.Now(), 0; time.Since(start) < 4500*time.Millisecond; i++ {
		if err := d.fs.Rename(names[i%2], names[1-i%2]); err != nil {
			return fmt.Errorf("try out file times: %w", err)
		}
		now, err := d.fs.Stat(dir, true)
		if err != nil {
			return fmt.Errorf("try out file times: %w", err)
		}
		if time.Since(begun) > trialAge/2 { // another may have removed what it found there
			return errors.New("try out file times: it took too long")
		}
		d.clock.sawDir(now.Mtime)
		if now.Mtime.After(first.Mtime) {
			d.clock.Trust()
			return nil
		}
		time.Sleep(min(time.Duration(i+1)*time.Millisecond, 50*time.Millisecond))
	}
	d.clock.mu.Lock()
	d.clock.stands = true
	d.clock.mu.Unlock()
	return ErrTimesStand
}

// Steps finds out in what steps the times of files and directories advance: from several of
// both, since one may be whole by chance.
func (d *Dir) Steps() (files, dirs time.Duration, err error) {
	for range 2 {
		if err := d.ProveTimes(); err != nil {
			return 0, 0, err
		}
		if _, err := d.afterTick(); err != nil {
			return 0, 0, err
		}
	}
	d.clock.mu.Lock()
	defer d.clock.mu.Unlock()
	return time.Duration(d.clock.files), time.Duration(d.clock.dirs), nil
}

// Offset returns by how much the file server's clock is ahead of this host's, beyond what
// reading it took.
func (d *Dir) Offset() (time.Duration, error) {
	ask := d.readClock
	if d.clock.isForeign() {
		ask = d.dirClock
	}
	start := time.Now()
	t, err := ask()
	if err != nil {
		return 0, err
	}
	// File times are cut off to their step.
	return outside(t, start.Add(-max(d.clock.Granule(), 15*time.Millisecond)), time.Now()), nil
}

func (c *Clock) stood() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stands
}

// dirClock returns the server's time as directories get it: that of one that is made for
// this.
func (d *Dir) dirClock() (time.Time, error) {
	if err := d.learnMode(); err != nil {
		return time.Time{}, err
	}
	dir, err := d.makeTrial()
	if err != nil {
		return time.Time{}, err
	}
	defer d.removeTrial(dir)
	i, err := d.fs.Stat(dir, true)
	if err == nil {
		d.clock.sawDir(i.Mtime)
	}
	return i.Mtime, err
}
