//go:build unix

package efs

import (
	"os"
	"sync"
	"time"
)

// A serverClock is the file server's clock as one client knows it: read now and
// then from the mtime of a file touched for that, and carried on by this host's
// monotonic clock in between. No host's wall clock is used. What it says is never
// ahead of the server.
type serverClock struct {
	mu   sync.Mutex
	read time.Time // the server's time …
	at   time.Time // … at this moment of the monotonic clock, or earlier
}

const (
	// maxClockAge is for judging staleness: what 60 s of drift can be is small
	// beside the margins.
	maxClockAge = time.Minute
	// maxTokenAge is for tokens, where the time is only a convenience as long as
	// it is not ahead of the server's.
	maxTokenAge = time.Hour
	// driftShare bounds how much faster than the server's this host's clock runs:
	// one part in 1000 is twice what NTP allows itself.
	driftShare = 1000
)

// last returns the server's time if it was read within maxAge.
func (c *serverClock) last(maxAge time.Duration) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	passed := time.Since(c.at)
	if c.at.IsZero() || passed > maxAge {
		return time.Time{}, false
	}
	return c.read.Add(passed - passed/driftShare), true
}

func (c *serverClock) set(read, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.at = read, at
}

// now returns the server's time, asking it in p's directory if what is known is
// older than maxAge.
func (p *place) now(maxAge time.Duration) (time.Time, error) {
	if t, ok := p.b.clock.last(maxAge); ok {
		return t, nil
	}
	return p.readClock()
}

// readClock asks the server for its time.
func (p *place) readClock() (time.Time, error) {
	name := clockName(p.base)
	var t time.Time
	var err error
	for range 3 {
		if t, err = p.b.sys.touch(p.parentDir, name); err == nil {
			break
		}
		// another waiter removed it just now, or it is another user's
		_ = p.b.sys.unlink(p.parentDir, name)
	}
	if err != nil {
		return t, err
	}
	p.b.clock.set(t, time.Now())
	p.discard(name)
	return t, nil
}

// afterTick returns the server's time once it is greater than at the call: file
// times advance in ticks of some milliseconds, and a token taken from one must
// exceed all those that were given out during the same tick.
func (p *place) afterTick() (time.Time, error) {
	first, err := p.readClock()
	for start := time.Now(); err == nil; {
		var t time.Time
		if t, err = p.readClock(); err == nil && t.After(first) {
			return t, nil
		}
		if time.Since(start) > 5*time.Second {
			return t, errClockStands
		}
		time.Sleep(time.Millisecond)
	}
	return first, err
}

// parentMode is what the state directory's mode follows: those who may write the
// parent directory take part.
func parentMode(d *os.File) (os.FileMode, error) {
	fi, err := d.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Mode() & (os.ModePerm | os.ModeSetgid), nil
}
