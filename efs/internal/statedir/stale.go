//go:build unix

package statedir

import (
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// When a holder's lock is stale is found out in two ways.
//
// By the server's clock: the state directory's time is that of the holder's last sign
// of life. A process that comes new to a lock can tell at once. But a clock that was set
// in between makes a live holder look dead.
//
// By standing still: the name has been the same for longer than the TTL by this host's
// monotonic clock. Nothing can be wrong with that, and it takes a TTL to find out.
//
// So the first is believed only as long as the clocks agree.

// A sighting is what this client has seen of the holder's signs of life.
type sighting struct {
	beat  string
	first time.Time // a listing that ended then showed this beat
	// name is the one that was seen last, and named when it was first: who raises the
	// token, or waits, changes the name and not the beat.
	name  string
	named time.Time
	// before: the beat was not there yet when a listing began that showed another one.
	// Zero if no other was ever seen.
	before time.Time
	began  time.Time // of the last listing that showed it
}

// A listing is what a waiter need not ask for again.
type listing struct {
	changed time.Time // the directory's time then
	since   time.Time // when that time was first seen
	began   time.Time
	state   State
}

func (d *Dir) saw(b Baton, changed, began time.Time) {
	s := &d.seen
	if beat := b.beat(); beat != s.beat || s.first.IsZero() {
		*s = sighting{beat: beat, first: time.Now(), before: s.began}
	}
	if b.name != s.name {
		s.name, s.named = b.name, time.Now()
	}
	s.began = began
	if !changed.Equal(d.listed.changed) {
		d.listed = listing{changed: changed, since: time.Now()}
	}
	d.listed.began, d.listed.state = began, b.State
	d.clock.sawDir(changed)
}

// stood is for how long nothing has been heard of the holder of the baton that was read
// last, at least: what was seen, or what another had seen who changed the name, and what
// has passed since.
func (d *Dir) stood(b Baton) time.Duration {
	return max(time.Since(d.seen.first), add(b.Spent, time.Since(d.seen.named)))
}

// age is how long ago b's holder gave its last sign of life if the server's time is now,
// as far as that agrees with what was seen.
func (d *Dir) age(b Baton, changed, now time.Time) time.Duration {
	age := add(max(0, now.Sub(changed)), b.Spent)
	if d.seen.beat == b.beat() {
		if !d.seen.before.IsZero() {
			age = min(age, time.Since(d.seen.before))
		}
		age = max(age, d.stood(b))
	}
	return age
}

// Record describes the baton. now is the server's time, zero if unknown.
func (d *Dir) Record(b Baton, changed, now time.Time) backend.Record {
	r := backend.Record{Key: d.Key, State: backend.Free, Token: b.Gen}
	if b.State == Sealed {
		r.State, r.Note = backend.Sealed, "moved to "+b.Moved
	}
	if b.State != Held {
		return r
	}
	r.State, r.ID, r.Holder, r.TTL = backend.Held, b.Claim, b.Holder, b.TTL
	if now.IsZero() {
		return r
	}
	age := d.age(b, changed, now)
	r.HeldFor = add(b.HeldFor, age)
	left := d.left(b, age)
	if left <= 0 {
		r.State = backend.Stale
		return r
	}
	// What people know of is the TTL, so the slack is spread over it.
	slack := d.clock.slack(b.TTL)
	r.Remaining = min(b.TTL, left-time.Duration(float64(slack)*float64(left)/float64(add(b.TTL, slack))))
	return r
}

// left is how long until b's holder is stale if nothing more is heard of it.
func (d *Dir) left(b Baton, age time.Duration) time.Duration {
	return add(b.TTL, d.clock.slack(b.TTL)) - age
}

// Judge returns nil if the baton is not held, or its holder is stale, so that it may be
// taken, an error that matches backend.ErrMoved if it is sealed, and else a
// *backend.HeldError.
func (d *Dir) Judge(b Baton, changed time.Time) error {
	if b.State == Sealed {
		return b.movedError()
	}
	if b.State != Held {
		return nil
	}
	wait := add(b.TTL, d.clock.slack(b.TTL))
	still := wait - d.stood(b)
	if still <= 0 {
		return nil
	}
	held := func(now time.Time, note string) error {
		r := d.Record(b, changed, now)
		after := still
		if left := d.left(b, d.age(b, changed, now)); r.Remaining > 0 && note == "" {
			after = min(max(left, r.Remaining), still)
		}
		if r.Remaining <= 0 || r.Remaining > after || note != "" {
			r.Remaining = after
		}
		r.State, r.Note = backend.Held, note
		return &backend.HeldError{Record: r, RetryAfter: after}
	}
	now, err := d.Now()
	if err != nil { // a full disk hides the clock, and the name still stands
		return held(time.Time{}, fmt.Sprintf("the file server's clock cannot be read: %v", err))
	}
	if d.age(b, changed, now) <= wait {
		return held(now, "")
	}
	// Not before a new look at the directory, whose time was read before its names, and at
	// the clocks, which may have been set meanwhile.
	if changed, err = d.changedBy(); err != nil {
		return held(time.Time{}, fmt.Sprintf("the time of its last sign of life cannot be read: %v", err))
	}
	now, doubt := d.believe(b.TTL)
	switch {
	case doubt != "":
		return held(now, doubt+"; it is taken over when nothing has been heard of it for its TTL from now on")
	case d.age(b, changed, now) <= wait:
		return held(now, "")
	case !d.still(changed):
		return held(now, "its state has just changed")
	}
	return nil
}

// still tells whether the directory's time is the one that came with a listing. A
// directory that has been opened need not have asked the server for that, except on the
// file systems of which it is known.
func (d *Dir) still(changed time.Time) bool {
	if !d.clock.isForeign() {
		return true
	}
	i, err := d.fs.Stat(d.path, true)
	return err == nil && i.Mtime.Equal(changed)
}

// believe reads the server's clock anew and says why it is not to be believed, or "".
func (d *Dir) believe(ttl time.Duration) (now time.Time, doubt string) {
	before, at, known := d.clock.reading()
	if d.clock.isRelayed() {
		now, _ = d.clock.last(maxAge)
		return now, "what this file system says of it may be old, or by another host's clock"
	}
	start := time.Now()
	ask := d.readClock
	if d.clock.isForeign() {
		ask = d.dirClock
	}
	now, err := ask()
	if err != nil {
		return time.Time{}, fmt.Sprintf("the file server's clock cannot be read: %v", err)
	}
	end := time.Now()
	near := 15*time.Millisecond + tolerance(ttl) + d.clock.Granule()
	if known { // what it should have said, had nobody set it
		drift := end.Sub(at) / (driftShare / 2)
		if off := outside(now, before.Add(start.Sub(at)), before.Add(end.Sub(at))); abs(off) > near+drift {
			return now, fmt.Sprintf("the file server's clock was set by %v", backend.Round(off))
		}
	}
	if off := outside(now, start, end); abs(off) > near {
		return now, fmt.Sprintf("the file server's clock and this host's differ by %v", backend.Round(off))
	}
	if !d.clock.moves() {
		if err := d.ProveTimes(); err != nil {
			return now, err.Error()
		}
	}
	return now, ""
}

// outside is by how much t is later than to, or (negative) earlier than from. It compares
// walls: t comes from another clock.
func outside(t, from, to time.Time) time.Duration {
	from, to = from.Round(0), to.Round(0)
	switch {
	case t.Before(from):
		return t.Sub(from)
	case t.After(to):
		return t.Sub(to)
	}
	return 0
}

// spent is for how long nothing has been heard of b's holder, at least: what another
// who changes the name has to write into it, so that the change is no sign of life.
func (d *Dir) spent(b Baton) time.Duration {
	if b.State != Held {
		return 0
	}
	spent := d.stood(b)
	if !d.seen.before.IsZero() && time.Since(d.seen.before)-spent < time.Second {
		return spent // it cannot be much more, and that is not worth a look at the clock
	}
	changed, err := d.changedBy() // not as it was when the baton was read
	if err != nil {
		return spent
	}
	if now, doubt := d.believe(b.TTL); doubt == "" && d.still(changed) {
		spent = max(spent, d.age(b, changed, now)-d.clock.Granule())
	}
	return min(spent, add(b.TTL, b.TTL))
}

// changedBy returns a time by which the baton that was read last had its name. The time
// that came with the listing is from before it: the process may have stood still in
// between, and the name may be that of a heartbeat which came meanwhile.
func (d *Dir) changedBy() (time.Time, error) {
	i, err := d.fs.Stat(d.path, true)
	return i.Mtime, err
}

// Changed tells whether the state may be another than the last that was read. On a
// network file system that is one GETATTR as long as nothing has happened.
func (d *Dir) Changed() (bool, error) {
	i, err := d.fs.Stat(d.path, true)
	if err != nil {
		return true, d.listError(err)
	}
	l := d.listed
	// Within one step of file times a second change does not show. The last listing has
	// to be later than that. Where times do not move at all, a waiter is woken by its retry
	// interval.
	step := 20*time.Millisecond + 2*d.clock.Granule()
	return !i.Mtime.Equal(l.changed) || l.began.Sub(l.since) < step, nil
}
