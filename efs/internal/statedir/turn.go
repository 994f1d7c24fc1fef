//go:build unix

package statedir

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Waiters look now and then, so one who releases and wants the lock again at once
// would always be faster. So a waiter writes its name into the baton, where it stays until
// the lock is its own, however often the lock changes hands before: on a network a look and
// the rename that follows may take longer than others hold the lock. A free lock is for the
// first of those names for as long as it may take to look. Nobody else pays for that.

// A turn is what a client knows of a free lock that is another's for the moment.
type turn struct {
	gen  uint64
	id   string
	seen time.Time
}

// waiterID is short, since a name has no room. If two are the same, somebody has its turn
// early.
func waiterID(claim string) string {
	h := fnv.New64a()
	h.Write([]byte(claim))
	return strconv.FormatUint(h.Sum64()>>32, 36)
}

// place is claim's among the waiters, -1 if it has none.
func (b Baton) place(claim string) int {
	if len(b.Waiters) == 0 {
		return -1
	}
	id := waiterID(claim)
	return slices.IndexFunc(b.Waiters, func(w Waiter) bool { return w.ID == id })
}

// stillWaiting are those who wait when claim has taken b. Whose turn has been before its
// own has not come: it died, or it is asleep.
func (b Baton) stillWaiting(claim string) []Waiter {
	if len(b.Waiters) == 0 {
		return nil
	}
	at := b.place(claim)
	switch {
	case at < 0 && b.State != Held:
		return nil
	case at < 0:
		return b.Waiters
	case b.State != Held:
		return slices.Clone(b.Waiters[at+1:])
	}
	return slices.Delete(slices.Clone(b.Waiters), at, at+1)
}

// standBack returns a *backend.HeldError while the free baton is for another than c. If
// the first of the waiters does not come, it is for the others, and then for anybody.
func (d *Dir) standBack(b Baton, c backend.Claim) error {
	if b.State == Held || len(b.Waiters) == 0 {
		return nil
	}
	at := b.place(c.ID)
	if at == 0 {
		return nil
	}
	if first := b.Waiters[0].ID; d.turn.gen != b.Gen || d.turn.id != first {
		d.turn = turn{b.Gen, first, time.Now()}
	}
	left := d.Poll + 50*time.Millisecond - time.Since(d.turn.seen)
	if at < 0 {
		left += d.Poll + 50*time.Millisecond
	}
	if left <= 0 {
		return nil
	}
	r := backend.Record{Key: d.Key, State: backend.Held, Note: "it is free, and for the moment kept for a process that has waited for longer"}
	return &backend.HeldError{Record: r, RetryAfter: left}
}

// A Wait is one claim's waiting.
type Wait struct {
	Claim  backend.Claim
	since  time.Time
	gen    uint64 // the lock's when it was looked at first
	last   uint64 // the lock's when it was looked at last
	signed bool   // its name is, or may be, in the baton
	// Passed: another has taken the lock since the last look, so the next change may be
	// near.
	Passed bool
	// Over: the claim has been granted.
	Over bool
}

// Worth tells whether an attempt by w could succeed. That a holder becomes stale is the
// engine's to time. One that was passed over says so in the baton.
func (d *Dir) Worth(w *Wait) (bool, error) {
	w.Passed = false
	if w.Over {
		return false, nil
	}
	if w.since.IsZero() {
		w.since = time.Now()
	}
	b, _, err := d.Read()
	for range 8 {
		if err != nil {
			return false, err
		}
		if w.last == 0 {
			w.gen, w.last = b.Gen, b.Gen
		}
		w.Passed = w.Passed || b.Gen != w.last
		w.last = b.Gen
		held := b.State == Held
		free := !held && d.standBack(b, w.Claim) == nil
		switch {
		case b.Claim == w.Claim.ID || b.place(w.Claim.ID) >= 0:
			return free, nil
		case free && (b.Gen == w.gen || len(b.Waiters) > 0): // who have not come
			return true, nil
		case b.Gen == w.gen && !d.lively(b):
			return false, nil
		}
		next, ok := d.signedBy(b, w)
		if !ok {
			return false, nil
		}
		w.signed = true
		// If it has another name by now, that is tried next: others may hold the lock for less
		// long than it takes from a listing to the rename that follows.
		var swapped bool
		if swapped, b, err = d.swap(b, next); swapped {
			return free, nil // nobody else takes it now
		}
	}
	return false, err
}

// lively tells whether the lock changes so fast that a waiter should not wait until it has
// been passed over before it says that it waits. It is true only if that is cheap: what has been heard of
// the holder is known without a look at the clock.
func (d *Dir) lively(b Baton) bool {
	return !d.seen.before.IsZero() && time.Since(d.seen.before)-d.stood(b) < time.Second
}

// signedBy is b with w's name among the waiters. ok is false if there is no room for it. The
// time is the server's if it is known: it decides between waiters of many hosts, and nothing
// but that.
func (d *Dir) signedBy(b Baton, w *Wait) (next Baton, ok bool) {
	now, known := d.clock.last(time.Hour)
	if !known {
		now = time.Now()
	}
	me := Waiter{Since: uint64(max(0, now.Add(-time.Since(w.since)).UnixMilli())), ID: waiterID(w.Claim.ID)}
	all := append(slices.Clone(b.Waiters), me)
	slices.SortFunc(all, Waiter.compare)
	if len(all) > maxWaiters {
		if all = all[:maxWaiters]; !slices.Contains(all, me) {
			return b, false
		}
	}
	spent := d.spent(b)
	next = b.With(func(b *Baton) { b.Waiters, b.Spent = all, spent })
	got, _ := Parse(next.Name())
	return next, got.place(w.Claim.ID) >= 0
}

// Leave takes w's name out of the baton, if it is there.
func (d *Dir) Leave(w *Wait) error {
	if !w.signed {
		return nil
	}
	for range 8 {
		b, _, err := d.Read()
		if err != nil || b.place(w.Claim.ID) < 0 {
			return err
		}
		spent, at := d.spent(b), b.place(w.Claim.ID)
		swapped, _, err := d.swap(b, b.With(func(b *Baton) { b.Waiters, b.Spent = slices.Delete(slices.Clone(b.Waiters), at, at+1), spent }))
		if err != nil || swapped {
			return err
		}
	}
	return nil
}
