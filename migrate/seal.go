package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"crypto/rand"

	"github.com/hasplock/hasp/backend"
)

// A key of the old store that is sealed can be held by nobody there. So for phase both it
// is as good as taken, by everyone of phase both at once, and the lock is the new store's
// alone. What stands for the old store's grant is sealedGrant: it needs no renewal and
// no release. That the key is still sealed is looked at once more when the new store's
// lock is held: an unseal needs that lock.

// sealedState is the State of a grant that stands for a sealed key.
type sealedState struct{}

func isSealed(g backend.Grant) bool { _, ok := g.State.(sealedState); return ok }

// acquire is the store's, but that of two stores the old one may be sealed.
func (s *store) acquire(ctx context.Context, key string, c backend.Claim, both bool) (backend.Grant, error) {
	g, err := s.b.Acquire(ctx, key, c)
	if !both || s.side != SideOld || !errors.Is(err, backend.ErrMoved) || isUnknown(err) {
		return g, err
	}
	rec, err := s.b.Inspect(ctx, key)
	if err != nil {
		return backend.Grant{}, err
	}
	if rec.State != backend.Sealed {
		return backend.Grant{}, &backend.HeldError{Record: rec, RetryAfter: 10 * time.Millisecond} // unsealed just now
	}
	return backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, TTL: c.TTL, Token: rec.Token, State: sealedState{}}, nil
}

func (s *store) renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	if isSealed(g) {
		return g, nil
	}
	return s.b.Renew(ctx, g)
}

func (s *store) release(ctx context.Context, g backend.Grant) error {
	if isSealed(g) {
		return nil
	}
	return s.b.Release(ctx, g)
}

func (s *store) setValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	if isSealed(g) {
		return g, nil
	}
	return backend.SetValue(ctx, s.b, g, v)
}

var errUnsealed = errors.New("the old store's lock was unsealed")

// stillSealed looks once more at what was found sealed, with the new store's lock held.
func (b *Backend) stillSealed(ctx context.Context, h *held) error {
	if len(h.parts) < 2 || !isSealed(h.parts[0].g) {
		return nil
	}
	rec, err := b.sides[0].b.Inspect(ctx, h.parts[0].g.Key)
	switch {
	case err != nil:
		return sided(SideOld, err)
	case rec.State != backend.Sealed:
		return backend.Unavailable(errUnsealed)
	}
	return nil
}

// Sealed is what Seal and Unseal have done.
type Sealed struct {
	// Keys are those that were sealed, or unsealed.
	Keys []string
	// Notes are what an operator should know besides, one sentence each.
	Notes []string
}

// Seal closes every lock that the old store knows of to programs that do not look at the
// migration's record: processes of the EfsLock protocol, and hasp processes without
// the migration. Processes of phase both go on. It is a step before the one to both+new, at stage
// both, and can be repeated, also later, for locks that have been made since. The old store
// has to be a backend.Sealer. A lock that is held is waited for if o says so: the others
// are sealed by then.
func (b *Backend) Seal(ctx context.Context, o *StepOptions) (Sealed, error) {
	const op = "seal"
	opts := o.get()
	old, err := b.sides[0].opened(ctx)
	if err != nil {
		return Sealed{}, sided(SideOld, err)
	}
	if !backend.Has(old, backend.CapSeal) {
		return Sealed{}, fmt.Errorf("migrate: seal: the old store: %w: it has no programs to keep out that do not look at the record", backend.ErrUnsupported)
	}
	to := b.sides[1].name
	var done Sealed
	seen := map[string]bool{}
	notes, err := waiting(ctx, opts, func() ([]string, error) {
		return b.operate(ctx, op, opts.By, func(s *session) error {
			if err := b.pair(op, s.recs); err != nil {
				return err
			}
			for _, r := range s.recs {
				if r.Stage.Admits(PhaseOld) {
					return &RefusedError{Op: op, Why: fmt.Sprintf("processes of phase old are admitted at stage %s, and could take no lock any more", r.Stage),
						Do: "restart them in phase both, and advance to both"}
				}
			}
			if opts.DryRun {
				return nil
			}
			// A directory of many locks takes longer than the records' are held for.
			kept, lapsed := time.Now(), error(nil)
			skip := func(key string) bool {
				if lapsed == nil && time.Since(kept) > stepTTL/4 {
					lapsed = s.renew(ctx)
					kept = time.Now()
				}
				return lapsed != nil || isReserved(key)
			}
			for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
				all, err := backend.SealAll(ctx, old, "", to, skip)
				if err != nil {
					return sided(SideOld, err)
				}
				if lapsed != nil {
					return lapsed
				}
				var held []backend.Record
				for _, x := range all {
					var he *backend.HeldError
					switch {
					case x.Err == nil:
						if !seen[x.Key] {
							seen[x.Key] = true
							done.Keys = append(done.Keys, x.Key)
						}
					case errors.As(x.Err, &he):
						r := he.Record
						r.Key = x.Key
						held = append(held, r)
					default:
						return sided(SideOld, fmt.Errorf("%q cannot be sealed: %w", x.Key, x.Err))
					}
				}
				if len(held) == 0 {
					return s.putBoth(ctx, func(r *Record) { r.Sealed = true })
				}
				if !opts.Wait {
					return &RefusedError{Op: op, Why: "locks are held", Holders: held, Do: "repeat it, or wait: what is sealed stays sealed", Passes: true}
				}
				if err := s.renew(ctx); err != nil {
					return err
				}
				if err := sleep(ctx, pause); err != nil {
					return err
				}
			}
		})
	})
	done.Notes = append(notes, "a lock that nobody has used yet is not sealed: keep programs without hasp from making new ones by the permissions of the directory")
	return done, err
}

// Unseal lets those programs in again, on the way back: at stage both, before old+both.
// For each key it takes the new store's lock, so that nobody is in who relies on the seal.
func (b *Backend) Unseal(ctx context.Context, o *StepOptions) (Sealed, error) {
	const op = "unseal"
	opts := o.get()
	old, err := b.sides[0].opened(ctx)
	if err != nil {
		return Sealed{}, sided(SideOld, err)
	}
	if !backend.Has(old, backend.CapSeal) {
		return Sealed{}, fmt.Errorf("migrate: unseal: the old store: %w", backend.ErrUnsupported)
	}
	var done Sealed
	notes, err := waiting(ctx, opts, func() ([]string, error) {
		return b.operate(ctx, op, opts.By, func(s *session) error {
			if err := b.pair(op, s.recs); err != nil {
				return err
			}
			for _, r := range s.recs {
				if r.Stage.Admits(PhaseNew) {
					return &RefusedError{Op: op, Why: fmt.Sprintf("processes of phase new are admitted at stage %s, and do not see who takes a lock in the old store", r.Stage),
						Do: "restart them in phase both, and go back to both"}
				}
			}
			if opts.DryRun {
				return nil
			}
			// First, so that nobody relies on seals of which some are gone.
			if err := s.putBoth(ctx, func(r *Record) { r.Sealed = false }); err != nil {
				return err
			}
			recs, err := backend.List(ctx, old, "")
			if err != nil {
				return sided(SideOld, err)
			}
			for _, r := range recs {
				if r.State != backend.Sealed || isReserved(r.Key) {
					continue
				}
				if err := b.unsealUnder(ctx, s, old, r.Key, opts); err != nil {
					return err
				}
				done.Keys = append(done.Keys, r.Key)
			}
			return nil
		})
	})
	done.Notes = notes
	return done, err
}

// unsealUnder unseals one key under the new store's lock, and while the records are still
// held: an operator that was stopped in between must not open what another has come to rely
// on. A store that executes the request late all the same is beyond that.
func (b *Backend) unsealUnder(ctx context.Context, s *session, old backend.Backend, key string, o StepOptions) error {
	fresh := b.sides[1]
	c := backend.Claim{ID: rand.Text(), Holder: marked(backend.Holder{Owner: "hasp migrate unseal"}, b.name, PhaseBoth), TTL: stepTTL}
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		held, stop := context.WithTimeout(ctx, stepTTL/2) // from before the request, as with any lease
		g, err := fresh.b.Acquire(held, key, c)
		var he *backend.HeldError
		switch {
		case err == nil:
			if err = s.renew(held); err == nil {
				err = backend.Unseal(held, old, key)
			}
			stop()
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			rerr := fresh.b.Release(rctx, g)
			cancel()
			if rerr != nil {
				s.notes = append(s.notes, fmt.Sprintf("the hold on %q in the new store could not be released and ends within %v: %s", key, stepTTL, backend.Text(rerr)))
			}
			var refused *RefusedError
			switch {
			case errors.As(err, &refused):
				return err
			case err != nil && !errors.Is(err, backend.ErrNotHeld):
				return sided(SideOld, fmt.Errorf("%q cannot be unsealed: %w", key, err))
			}
			return nil
		case errors.As(err, &he) && !isUnknown(err):
			stop()
			if !o.Wait {
				return &RefusedError{Op: s.op, Why: "a lock is held in the new store", Holders: []backend.Record{he.Record}, Do: "repeat it, or wait", Passes: true}
			}
		default:
			stop()
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			_ = fresh.b.Release(rctx, backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, TTL: c.TTL})
			cancel()
			return sided(SideNew, err)
		}
		if err := s.renew(ctx); err != nil {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// legacyGone asks for the operator's word, or for seals, where programs may be at work
// that do not look at the record: in a store that programs other than hasp's use too,
// which is one that can be sealed against them, or cleared for them.
func (b *Backend) legacyGone(ctx context.Context, op string, o StepOptions, s *session) error {
	if o.LegacyGone {
		return nil
	}
	old, err := b.sides[0].opened(ctx)
	if err != nil {
		return sided(SideOld, err)
	}
	if !backend.Has(old, backend.CapSeal) && !backend.Has(old, backend.CapClear) {
		return nil
	}
	var recs [2]Record
	if s != nil {
		recs = s.recs
	} else if recs, err = b.records(ctx); err != nil {
		return err
	}
	if recs[0].Sealed && recs[1].Sealed {
		return nil
	}
	return &RefusedError{Op: op, Why: "programs of the EfsLock protocol may use the old store, and do not look at its record",
		Do: "hasp migrate seal keeps them out; or, when there are none any more, say so with --legacy-gone"}
}

// opened is the store itself: one that is opened when it is needed does not know
// before what it can do.
func (s *store) opened(ctx context.Context) (backend.Backend, error) {
	if l, ok := s.b.(*lateStore); ok {
		return l.get(ctx)
	}
	return s.b, nil
}
