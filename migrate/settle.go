package migrate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// settle makes the store of the end complete: when nobody of phase both is left, who
// might set a value in one store and not in the other, it copies what is newer in the
// other store, each value under its key's lock, and then says so in the record.
func (b *Backend) settle(ctx context.Context, op string, dir int, o StepOptions) (copied int, notes []string, err error) {
	stay, go_ := 1, 0
	if dir < 0 {
		stay, go_ = 0, 1
	}
	_, err = waiting(ctx, o, func() (struct{}, error) {
		n, err := b.operate(ctx, op, o.By, func(s *session) error {
			if err := b.pair(op, s.recs); err != nil {
				return err
			}
			if s.recs[0].Stage != end(dir) || s.recs[1].Stage != end(dir) {
				return &RefusedError{Op: op, Why: "another operator has taken a step", Do: "see hasp migrate status"}
			}
			if s.recs[stay].Complete {
				return nil
			}
			if err := b.nobodyLeft(ctx, op, b.sides[stay], b.sides[go_]); err != nil {
				return err
			}
			n, err := b.copyValues(ctx, s, b.sides[go_], b.sides[stay])
			copied += n
			if err != nil {
				return err
			}
			if err := s.unchanged(ctx); err != nil {
				return err
			}
			r := s.recs[stay]
			r.Complete = true
			return s.put(ctx, stay, r)
		})
		notes = append(notes, n...)
		return struct{}{}, err
	})
	return copied, notes, err
}

// nobodyLeft finds out whether phase both is over.
func (b *Backend) nobodyLeft(ctx context.Context, op string, stay, left *store) error {
	for try := 0; ; try++ {
		var holders, stale []backend.Record
		for _, st := range []*store{stay, left} {
			recs, err := backend.List(ctx, st.b, "")
			if err != nil {
				return fmt.Errorf("migrate: %s: what is held in the %s store cannot be listed: %w", op, st.side, err)
			}
			for _, r := range recs {
				mine := phaseOf(r.Holder, b.name)
				switch {
				case isReserved(r.Key), r.State == backend.Free:
				case r.State == backend.Sealed: // held by nobody; who of phase both relies on it holds in the new store
				case r.State == backend.Unknown:
					return &RefusedError{Op: op, Why: fmt.Sprintf("not everything in the %s store can be read", st.side), Holders: []backend.Record{r}, Do: "see to it that it can: what is not seen may be held"}
				case st == stay && mine != PhaseBoth:
				case r.State == backend.Stale && try < 3:
					stale = append(stale, r)
					if err := b.takeOver(ctx, op, st, []backend.Record{r}); err != nil {
						return err
					}
				default:
					holders = append(holders, r)
				}
			}
		}
		if len(holders) > 0 {
			return &RefusedError{Op: op, Why: fmt.Sprintf("the step is taken, and not settled: locks are held that need the %s store too", left.side), Holders: holders,
				Do: "wait until they are released, and repeat it: until then keep that store", Passes: true}
		}
		if len(stale) == 0 {
			return nil
		}
	}
}

// copyValues copies from one store to the other what is newer there.
func (b *Backend) copyValues(ctx context.Context, s *session, from, to *store) (n int, err error) {
	kvs, err := backend.ListValues(ctx, from.b, "")
	if err != nil {
		return 0, fmt.Errorf("migrate: %s: the values of the %s store cannot be listed: %w", s.op, from.side, err)
	}
	kept := time.Now()
	for _, kv := range kvs {
		if isReserved(kv.Key) {
			continue
		}
		if time.Since(kept) > stepTTL/4 {
			if err := s.renew(ctx); err != nil {
				return n, err
			}
			kept = time.Now()
		}
		have, err := backend.ReadValue(ctx, to.b, kv.Key)
		if err != nil {
			return n, sided(to.side, err)
		}
		if kv.Value.Compare(have) <= 0 {
			continue
		}
		v, err := backend.ReadValue(ctx, from.b, kv.Key)
		if err != nil {
			return n, sided(from.side, err)
		}
		if err := b.copyValue(ctx, s, to, kv.Key, v); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// copyValue sets v under key's lock. It keeps its token and sequence, so that a value
// that is set in the meantime, under a later token, is not undone.
func (b *Backend) copyValue(ctx context.Context, s *session, to *store, key string, v backend.Value) error {
	phase := PhaseNew
	if to.side == SideOld {
		phase = PhaseOld
	}
	c := backend.Claim{ID: rand.Text(), Holder: marked(backend.Holder{Owner: "hasp migrate " + s.op}, b.name, phase), TTL: stepTTL}
	g, err := to.b.Acquire(ctx, key, c)
	var held *backend.HeldError
	if errors.As(err, &held) && !isUnknown(err) {
		return &RefusedError{Op: s.op, Why: fmt.Sprintf("the step is taken, and not settled: the value of %q has to be copied to the %s store", key, to.side),
			Holders: []backend.Record{held.Record}, Do: "wait until the lock is released, and repeat it", Passes: true, Err: err}
	}
	if err != nil {
		g = backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, TTL: c.TTL}
	} else {
		var ng backend.Grant
		if ng, err = backend.SetValue(ctx, to.b, g, v); err == nil {
			g = ng
		} else if errors.Is(err, backend.ErrOldValue) {
			err = nil // what is there is newer by now
		}
	}
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if rerr := to.b.Release(rctx, g); rerr != nil && !errors.Is(rerr, backend.ErrLost) {
		s.notes = append(s.notes, fmt.Sprintf("the lock %q was taken in the %s store to copy its value, and could not be released: it is free within %v", key, to.side, stepTTL))
	}
	return sided(to.side, err)
}
