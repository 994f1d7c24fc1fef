//go:build unix

package statedir

import (
	"errors"
	"fmt"

	"github.com/hasplock/hasp/backend"
)

// A sealed baton has no holder, and no time ends it: whoever finds it is told where the
// lock has moved. It comes from a holder's, by one rename, and a name of it is never used
// twice: gen is that holder's, and seq rises whenever it is sealed again. To versions
// that know no seals it is no baton, which they say, and leave it alone.

func (b Baton) movedError() error {
	return fmt.Errorf("%w to %s: use that store; to have the lock here again, unseal it", backend.ErrMoved, b.Moved)
}

// Seal makes the baton of h, whose guard stands, a sealed one. Ok is false if another has
// it by now.
func (h *Hold) Seal(to string) (ok bool, err error) {
	for range 8 {
		next := Baton{Gen: h.Baton.LastToken(), State: Sealed, Epoch: h.Baton.Epoch, Value: h.Baton.Value, Moved: to}
		swapped, cur, err := h.Dir.swap(h.Baton, next)
		if err != nil {
			return false, err
		}
		if swapped {
			h.settleUnsure(next)
			return true, h.Dir.syncNames()
		}
		if cur.State != Held || cur.Claim != h.Baton.Claim || cur.Gen != h.Baton.Gen {
			h.found(cur)
			return false, nil
		}
		h.adopt(cur)
	}
	return false, backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be sealed", h.Dir.path))
}

// Reseal gives a sealed baton a new name, so that a request to unseal it that is still
// under way comes too late. Ok is false if it is not this one any more.
func (d *Dir) Reseal(cur Baton, to string) (ok bool, err error) {
	ok, _, err = d.swap(cur, cur.With(func(b *Baton) {
		b.Seq++
		b.Moved = to
	}))
	if err == nil && ok {
		err = d.syncNames()
	}
	return ok, err
}

// Sealed returns the baton if it is sealed, and its error. Both are empty if it is not, or
// if there is none.
func (d *Dir) Sealed() (b Baton, moved error, err error) {
	b, _, err = d.Read()
	switch {
	case errors.Is(err, ErrGone):
		return Baton{}, nil, nil
	case err != nil || b.State != Sealed:
		return b, nil, err
	}
	return b, b.movedError(), nil
}
