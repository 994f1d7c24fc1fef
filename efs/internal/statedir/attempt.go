//go:build unix

package statedir

import (
	"errors"
	"fmt"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// What a claim is told of its attempts. A definite error promises that the claim does not hold
// the lock. After an attempt of which that is not known, a later one must not say so that was
// refused, or found something corrupt, before it could look, or in the middle of a second
// heartbeat. One that has looked, and found another holder, may; but not while the baton is there
// from which the lock was to be taken, since the request may be carried out yet.

// maxUnsure bounds what is remembered of attempts without an answer. Their claims may have
// been given up since.
const maxUnsure = 64

// noteUnsure remembers that an attempt of a claim's had no answer. From is the identity of
// the baton that it was to replace, empty if it had come further, or not so far.
func (d *Dir) noteUnsure(claim, from string) {
	if d.unsure == nil || len(d.unsure) == maxUnsure {
		d.unsure = map[string]string{}
	}
	d.unsure[claim] = from
}

// Answer is what an attempt of a claim's says that ended with err.
func (d *Dir) Answer(claim string, err error) error {
	err = fsys.Classify(err)
	_, unsure := d.unsure[claim]
	switch {
	case err == nil:
		delete(d.unsure, claim)
	case errors.Is(err, backend.ErrUnavailable), errors.Is(err, ErrGone), fsys.IsGone(err):
		if !unsure { // it may be held as well: refused, and not given back
			d.noteUnsure(claim, "")
		}
	case errors.Is(err, backend.ErrHeld): // Take has asked maybeLate
		delete(d.unsure, claim)
	case unsure:
		return backend.Unavailable(fmt.Errorf("an earlier attempt had no answer, and may have the lock; this one: %w", err))
	}
	return err
}

// maybeLate turns an error that says that c has not got the lock into one that says that
// this is not known, if an earlier attempt of c's may yet be carried out.
func (d *Dir) maybeLate(b Baton, c backend.Claim, err error) error {
	from := d.unsure[c.ID]
	if from == "" || from != b.identity() || !errors.Is(err, backend.ErrHeld) {
		return err
	}
	return backend.Unavailable(fmt.Errorf("an earlier attempt to take the lock had no answer, and may be carried out yet: %v", err))
}
