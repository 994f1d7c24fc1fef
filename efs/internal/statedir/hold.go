//go:build unix

package statedir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// nonces make the names of this process's attempts new: a random prefix and a counter,
// which is cheaper than asking for randomness each time.
var (
	noncePrefix = rand.Text()[:10]
	nonceCount  atomic.Uint64
)

// NewNonce is a short text that nobody else uses.
func NewNonce() string { return noncePrefix + strconv.FormatUint(nonceCount.Add(1), 36) }

// A Hold is a baton that was taken, and by what is known of it still this process's.
type Hold struct {
	Dir   *Dir
	Baton Baton
	// Since is when it was taken, and Beat when the request was made that gave the last
	// sign of life; by this host's clocks.
	Since, Beat time.Time
	// Old is what is known of the baton that was replaced.
	Old Replaced
	// Unknown: a request of this holder's, other than for the baton, had an answer that
	// does not tell what became of it.
	Unknown bool
	// Operator: it was taken to clear away what is there, whosever it is.
	Operator bool
	// Ousted is the signature of the lock file that it was taken to clear away, live or not.
	Ousted string

	now *Baton // rarely asked for, and large; a process may hold a great many

	unsure  []string // values that may be published yet, or have been replaced
	unswept bool     // what an earlier holder left of values may be there: it ends dirty
}

// Replaced is a baton that was replaced.
type Replaced struct {
	State     State
	Gen, Last uint64 // its generation, and its last token
}

func replaced(b Baton) Replaced { return Replaced{b.State, b.Gen, b.LastToken()} }

// Now is the baton that Next or Free found in place of h's.
func (h *Hold) Now() Baton {
	if h.now == nil {
		return Baton{}
	}
	return *h.now
}

// found notes what is there in place of h's baton.
func (h *Hold) found(b Baton) { h.now = &b }

// Rest drops what is of no use until h's holder asks for something again, with its Dir.
func (h *Hold) Rest() { h.Dir, h.Old = nil, Replaced{} }

// Alive tells whether nobody can have taken the lock over yet.
func (h *Hold) Alive() bool { return time.Since(h.Beat) < h.Baton.TTL }

// Next renames the baton as its holder. ok is false if another has it by now.
func (h *Hold) Next(change func(*Baton)) (ok bool, err error) {
	return h.next(func(b *Baton) error {
		change(b)
		return nil
	})
}

// next is Next with a change that may refuse, by an error, what the baton has become.
func (h *Hold) next(change func(*Baton) error) (ok bool, err error) {
	for range 8 {
		start := time.Now()
		next := h.Baton.Beaten(time.Since(h.Since))
		if err := change(&next); err != nil {
			return false, err
		}
		swapped, cur, err := h.Dir.swap(h.Baton, next)
		if err != nil {
			return false, err
		}
		if swapped {
			h.Baton, h.Beat = next, start
			h.settleUnsure(next)
			return true, nil
		}
		// Who waits, or raises the token, may have renamed it.
		if cur.State != Held || cur.Claim != h.Baton.Claim || cur.Gen != h.Baton.Gen {
			h.found(cur)
			h.settleUnsure(cur)
			return false, nil
		}
		h.adopt(cur)
	}
	return false, backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be read", h.Dir.path))
}

// Free lets go of the baton. Clean says that the guard is at rest. ok is false if another
// has it by now, and took it from h as far as can be told. Where it cannot, since the
// answer was lost and the one who has it may have found it free, the error matches
// backend.ErrUnavailable.
func (h *Hold) Free(clean bool) (ok bool, err error) {
	for range 8 {
		next := h.Baton.Freed(clean && !h.unswept && !h.Baton.Unsettled) // an operator may have unsettled it
		swapped, cur, rerr, err := h.Dir.trySwap(h.Baton, next)
		if err != nil {
			return false, err
		}
		if swapped || cur.State.isFree() && cur.Gen == next.Gen { // freed before
			h.settleUnsure(cur)
			return true, nil
		}
		if cur.State != Held || cur.Claim != h.Baton.Claim {
			h.found(cur)
			h.settleUnsure(cur)
			if !fsys.IsGone(rerr) && !fsys.Definite(rerr) {
				return false, backend.Unavailable(rerr)
			}
			return false, nil
		}
		h.adopt(cur)
	}
	return false, backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be read", h.Dir.path))
}

// Find returns claim's hold, or nil if it has none.
func (d *Dir) Find(claim string) (*Hold, Baton, error) {
	start := time.Now()
	b, _, err := d.Read()
	if err != nil || b.State != Held || b.Claim != claim {
		return nil, b, err
	}
	return &Hold{Dir: d, Baton: b, Since: start.Add(-b.HeldFor), Unknown: true, unswept: true}, b, nil
}

// Take makes the baton c's. A claim that has it already gets it again, with what is not
// known of its first attempt.
func (d *Dir) Take(ctx context.Context, c backend.Claim) (*Hold, error) {
	tried := false // in this call, and nobody has looked since what came of it
	for range 16 {
		if err := ctx.Err(); err != nil {
			return nil, backend.Unavailable(err)
		}
		cur, remembered := Parse(d.last)
		var changed time.Time
		if !remembered {
			var err error
			if cur, changed, err = d.Read(); err != nil && tried {
				return nil, backend.Unavailable(fmt.Errorf("an attempt to take the lock may have succeeded: %w", err))
			} else if err != nil {
				return nil, err
			}
			tried = false
		}
		if cur.State == Held && cur.Claim == c.ID {
			h := &Hold{Dir: d, Baton: cur, Old: replaced(cur), Since: time.Now().Add(-cur.HeldFor), Unknown: true}
			// What the first attempt has done to the guard, or is about to do, is not known.
			ok, err := h.Next(func(b *Baton) { b.TTL, b.Unsettled = c.TTL, true })
			switch {
			case ok:
				h.sweepValues()
				return h, nil
			case err != nil: // whatever it is, c has the baton
				return nil, backend.Unavailable(fmt.Errorf("the lock in %s is this claim's by an earlier attempt: %w", d.path, err))
			}
			continue
		}
		if err := d.longEnough(c.TTL); err != nil {
			return nil, err
		}
		if err := d.Judge(cur, changed); err != nil {
			return nil, d.maybeLate(cur, c, err)
		}
		if err := d.standBack(cur, c); err != nil {
			if remembered { // who waited may have gone
				d.last = ""
				continue
			}
			return nil, d.maybeLate(cur, c, err)
		}
		start := time.Now()
		next, err := d.taken(cur, changed, start, c)
		if err != nil {
			return nil, err
		}
		swapped, next, err := d.swap(cur, next)
		if err != nil {
			if errors.Is(err, backend.ErrUnavailable) {
				d.noteUnsure(c.ID, cur.identity())
			}
			return nil, fmt.Errorf("take the lock in %s: %w", d.path, err)
		}
		if swapped {
			return d.newHold(cur, next, start), nil
		}
		tried = true
	}
	b, changed, err := d.Read()
	if err != nil || b.State == Held && b.Claim == c.ID {
		return nil, backend.Unavailable(errors.Join(errors.New("an attempt to take the lock may have succeeded"), err))
	}
	r := d.Record(b, changed, time.Time{})
	r.State, r.Note = backend.Held, "others were faster each time"
	return nil, &backend.HeldError{Record: r, RetryAfter: time.Millisecond}
}

// longEnough refuses a TTL that is too short for the steps in which times advance here.
func (d *Dir) longEnough(ttl time.Duration) error {
	short := func() bool {
		g := d.clock.Granule()
		return g >= 100*time.Millisecond && ttl < 2*g
	}
	// One time, or a few, may be whole seconds by chance, or even ones. So look at two
	// that follow one another, of directories and of files; and again, since this process
	// may have stood still in between.
	for range 3 {
		if !short() {
			return nil
		}
		if d.clock.measured() {
			break
		}
		if err := d.ProveTimes(); err != nil && !errors.Is(err, ErrTimesStand) {
			return err
		}
		if _, err := d.afterTick(); err != nil && !errors.Is(err, ErrClockStands) {
			return err
		}
	}
	if !short() {
		return nil
	}
	d.clock.setMeasured()
	g := d.clock.Granule()
	return fmt.Errorf("%w: a TTL of %v is too short: file times here advance in steps of %v, and it takes two of them, %v, at least", backend.ErrUnsupported, ttl, g, 2*g)
}

// taken is the baton after c has taken cur, at start. The token follows the server's time, and
// takes it from what is there: the directory's time, or a clock that was read before.
func (d *Dir) taken(cur Baton, changed, start time.Time, c backend.Claim) (Baton, error) {
	now, ok := d.clock.asOf(start, time.Hour)
	if !ok {
		now = changed
	}
	gen, err := backend.NextToken(cur.LastToken(), c.TokenFloor, now)
	if err != nil {
		return Baton{}, err
	}
	return Baton{
		Gen: gen, State: Held, Epoch: cur.Epoch, Value: cur.Value, Unsettled: cur.State != Free, Waiters: cur.stillWaiting(c.ID),
		TTL: c.TTL, Claim: c.ID, Nonce: NewNonce(), Holder: c.Holder,
	}, nil
}

// Raise makes every later token greater than floor. A held baton carries floor in its
// name, beside its holder's token.
func (d *Dir) Raise(floor uint64) error {
	for range 16 {
		cur, _, err := d.Read()
		if err != nil {
			return err
		}
		if cur.LastToken() >= floor {
			return nil
		}
		spent := d.spent(cur)
		swapped, _, err := d.swap(cur, cur.With(func(b *Baton) {
			if b.State == Held {
				b.Floor, b.Spent = floor, spent
			} else {
				b.Gen = floor
			}
		}))
		if err != nil || swapped {
			return err
		}
	}
	return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be raised", d.path))
}

// Unsettle has the holder of cur end dirty, for an operator who moves something at the lock's
// path beside it. Ok is false if cur is not there any more.
func (d *Dir) Unsettle(cur Baton) (ok bool, next Baton, err error) {
	if cur.Unsettled {
		return true, cur, nil
	}
	spent := d.spent(cur)
	ok, next, err = d.swap(cur, cur.With(func(b *Baton) { b.Unsettled, b.Spent = true, spent }))
	return ok, next, err
}

// TakeFrom takes cur's baton for an operator, whoever holds it. The hold is nil if it is
// another by now.
func (d *Dir) TakeFrom(cur Baton, c backend.Claim) (*Hold, error) {
	next, err := d.taken(cur, time.Time{}, time.Now(), c)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	swapped, _, err := d.swap(cur, next)
	if err != nil || !swapped {
		return nil, err
	}
	h := d.newHold(cur, next, start)
	h.Operator = true
	return h, nil
}

// newHold is that of next, which was taken from old by a request made at start.
func (d *Dir) newHold(old, next Baton, start time.Time) *Hold {
	h := &Hold{Dir: d, Baton: next, Old: replaced(old), Since: start, Beat: start}
	if old.State == Dirty && old.Epoch == 0 {
		d.sweepBoots()
	}
	h.sweepValues()
	return h
}
