package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hasplock/hasp/backend"
)

// held is a grant's State: what each of the phase's stores has granted.
type held struct {
	parts []part
}

// part is what one store has granted. freed is set when the store has said that it is
// free again: a Release that is repeated because of the other store must not take the
// next holder for one that robbed this one.
type part struct {
	g     backend.Grant
	freed atomic.Bool
}

// Acquire implements backend.Backend. An error that matches ErrPhase means that this
// process must not take locks now; nothing is held then.
//
// The order is what the argument rests on: the lock in each store first, and then a
// look at the record in each store whose lock is held.
func (b *Backend) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if err := b.begin(key); err != nil {
		return backend.Grant{}, err
	}
	if err := backend.ValidateClaim(c); err != nil {
		return backend.Grant{}, err
	}
	if err := b.checkPair(ctx); err != nil {
		return backend.Grant{}, err
	}
	for try := 0; ; try++ {
		h, err := b.take(ctx, key, c)
		if err != nil {
			return backend.Grant{}, err
		}
		token, err := b.settleTokens(ctx, c, h)
		if err == nil {
			err = b.stillSealed(ctx, h)
		}
		if err == nil {
			err = b.admitted(ctx, c, token)
		}
		if (errors.Is(err, errBelowFloor) || errors.Is(err, errUnsealed)) && try < 3 {
			if err = b.giveBack(ctx, c, h); err != nil {
				return backend.Grant{}, backend.Unavailable(err)
			}
			continue
		}
		if err == nil && c.TokenFloor > 0 {
			err = b.raiseOther(ctx, key, token)
		}
		if err != nil {
			return backend.Grant{}, b.givenBack(ctx, c, h, err)
		}
		b.tell(c)
		return b.grant(key, c, h, token), nil
	}
}

// grant makes one grant of the stores'.
func (b *Backend) grant(key string, c backend.Claim, h *held, token uint64) backend.Grant {
	g := backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, Token: token, TTL: h.parts[0].g.TTL, State: h}
	for i := range h.parts {
		g.TTL = min(g.TTL, h.parts[i].g.TTL)
		b.claims.granted(c.ID, h.parts[i].g.ID)
	}
	return g
}

// take acquires in each of the phase's stores, one after the other. If one refuses,
// those before are given back.
func (b *Backend) take(ctx context.Context, key string, c backend.Claim) (*held, error) {
	h := &held{parts: make([]part, len(b.legs))}
	floor := max(c.TokenFloor, b.floor.Load())
	for i, s := range b.legs {
		ic := backend.Claim{ID: b.claims.id(s.side, c.ID), Holder: marked(c.Holder, b.name, b.phase), TTL: c.TTL, TokenFloor: floor}
		switch {
		case len(b.legs) == 1:
		case i == 0:
			ic.TokenFloor = max(floor, b.lead.floor())
		default:
			// The same token as the old store's is as good as one above it, and needs no
			// raise there.
			ic.TokenFloor = max(floor, h.parts[0].g.Token-1)
			if isSealed(h.parts[0].g) {
				ic.TokenFloor = max(floor, h.parts[0].g.Token) // it was another's
			}
		}
		err := b.payOff(ctx, s, key, c)
		var g backend.Grant
		if err == nil {
			g, err = s.acquire(ctx, key, ic, len(b.legs) == 2)
		}
		if err != nil {
			h.parts = h.parts[:i]
			return nil, b.refused(ctx, key, c, s, h, err)
		}
		h.parts[i].g = g
	}
	return h, nil
}

// payOff frees what former attempts of the claim may still hold there: it would refuse
// this one.
func (b *Backend) payOff(ctx context.Context, s *store, key string, c backend.Claim) error {
	for _, id := range b.claims.owed(s.side, c.ID) {
		err := s.b.Release(ctx, backend.Grant{Key: key, ID: id, Holder: marked(c.Holder, b.name, b.phase), TTL: c.TTL})
		if err != nil && !errors.Is(err, backend.ErrLost) {
			return backend.Unavailable(err)
		}
		b.claims.paid(s.side, c.ID, id)
	}
	return nil
}

// refused makes Acquire's error of one store's, with nothing held in those before it.
func (b *Backend) refused(ctx context.Context, key string, c backend.Claim, s *store, h *held, err error) error {
	var he *backend.HeldError
	if errors.As(err, &he) && !isUnknown(err) {
		b.claims.refused(s.side, c.ID)
		err = &backend.HeldError{Record: b.blocker(ctx, key, s, he.Record), RetryAfter: he.RetryAfter}
	} else {
		err = sided(s.side, err)
	}
	return b.givenBack(ctx, c, h, err)
}

// blocker is who is in the way, from the record of the store that refused. One of phase
// both is known whole only with the other store's record: its token may be that one's.
func (b *Backend) blocker(ctx context.Context, key string, s *store, r backend.Record) backend.Record {
	if len(b.legs) == 2 && phaseOf(r.Holder, b.name) == PhaseBoth {
		if other, err := b.store(s.side.other()).b.Inspect(ctx, key); err == nil {
			o, n := r, other
			if s.side == SideNew {
				o, n = other, r
			}
			if b.oneClaim(o, n) {
				return b.combined(o, n)
			}
		}
	}
	return b.shown(s.side, r)
}

// givenBack gives back what is held and returns cause, or an error that says that
// something may be held.
func (b *Backend) givenBack(ctx context.Context, c backend.Claim, h *held, cause error) error {
	if err := b.giveBack(ctx, c, h); err != nil {
		return backend.Unavailable(fmt.Errorf("%s; what was taken could not be given back: %s", backend.Text(cause), backend.Text(err)))
	}
	return cause
}

// giveBack frees what one attempt got, the new store's first as a Release does. If it
// fails the engine withdraws the claim.
func (b *Backend) giveBack(ctx context.Context, c backend.Claim, h *held) error {
	var errs []error
	for i := len(h.parts) - 1; i >= 0; i-- {
		s := b.legs[i]
		b.claims.givingBack(s.side, c.ID)
		if err := s.release(ctx, h.parts[i].g); err != nil && !errors.Is(err, backend.ErrLost) {
			errs = append(errs, sided(s.side, err))
			continue
		}
		b.claims.paid(s.side, c.ID, h.parts[i].g.ID)
	}
	return joined(errs...)
}

var errBelowFloor = errors.New("the token is not above the floor")

// admitted looks at the record of each store whose lock is held.
func (b *Backend) admitted(ctx context.Context, c backend.Claim, token uint64) error {
	var floor uint64
	recs := make([]Record, len(b.legs))
	errs := make([]error, len(b.legs))
	each(b.legs, func(i int, s *store) { recs[i], errs[i] = readRecord(ctx, s.b) })
	for i, s := range b.legs {
		if errs[i] != nil {
			errs[i] = sided(s.side, fmt.Errorf("the migration's record cannot be read: %w", errs[i]))
		}
	}
	if err := joined(errs...); err != nil {
		return err
	}
	for i, s := range b.legs {
		if err := b.admits(s, recs[i]); err != nil {
			return err
		}
		if recs[i].ID != recs[0].ID {
			return b.otherPair(recs[0], recs[i])
		}
		if c.TTL > recs[i].MaxTTL {
			return &PhaseError{b.name, b.phase, s.side, fmt.Sprintf("the TTL is %v, and no more than %v is admitted", c.TTL, recs[i].MaxTTL),
				"shorten it, or begin the migration with a longer one (hasp migrate start --max-ttl)"}
		}
		floor = max(floor, recs[i].Floor)
	}
	b.raiseFloor(floor)
	if token <= floor {
		return errBelowFloor
	}
	return nil
}

func (b *Backend) raiseFloor(floor uint64) {
	for old := b.floor.Load(); floor > old && !b.floor.CompareAndSwap(old, floor); old = b.floor.Load() {
	}
}

// admits tells what is wrong with a store's record, for this process.
func (b *Backend) admits(s *store, r Record) error {
	fail := func(why, do string) error { return &PhaseError{b.name, b.phase, s.side, why, do} }
	switch {
	case !r.exists():
		return fail("the "+string(s.side)+" store has no record of it",
			"if it has not begun, hasp migrate start; else the store was wiped, or is another one: see hasp migrate status, and hasp migrate repair")
	case r.Name != b.name:
		return fail(fmt.Sprintf("the %s store is part of migration %q", s.side, r.Name),
			"correct the name or the stores in this process's configuration")
	case r.Side != s.side:
		return fail(fmt.Sprintf("what is configured as the %s store is the migration's %s one", s.side, r.Side),
			"exchange old and new in this process's configuration")
	case r.Stage == StageFinished:
		return fail("it is finished", "use the URL of the store that it led to")
	case !r.Stage.Admits(b.phase):
		return fail(fmt.Sprintf("the %s store's record is at stage %s", s.side, r.Stage),
			"configure a phase that the stage admits, or take a step: see hasp migrate status")
	}
	return nil
}

func (b *Backend) otherPair(x, y Record) error {
	return &PhaseError{b.name, b.phase, y.Side,
		fmt.Sprintf("the two stores are of two migrations of that name: %s with %s and %s with %s", x.Stores[0], x.Stores[1], y.Stores[0], y.Stores[1]),
		"correct the stores in this process's configuration"}
}
