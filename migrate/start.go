package migrate

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// DefaultMaxTTL is StartOptions.MaxTTL's default.
const DefaultMaxTTL = time.Hour

// StartOptions are for Start.
type StartOptions struct {
	StepOptions
	// MaxTTL is the longest TTL with which processes may take locks as long as the
	// migration lasts, and how long Repair waits. Default an hour.
	MaxTTL time.Duration
}

// Start begins the migration, at stage old. It is refused if either store has a
// record, except one that an interrupted Start of this migration has left, and if
// somebody holds a lock in the new store.
func (b *Backend) Start(ctx context.Context, o *StartOptions) (Step, error) {
	if o == nil {
		o = &StartOptions{}
	}
	ttl := o.MaxTTL
	if ttl == 0 {
		ttl = DefaultMaxTTL
	}
	step := Step{To: StageOld}
	if ttl < time.Millisecond {
		return step, fmt.Errorf("migrate: start: MaxTTL %v is below 1 ms", ttl)
	}
	check := func(recs [2]Record) error { return b.mayStart(ctx, recs) }
	if o.DryRun {
		recs, err := b.records(ctx)
		if err == nil {
			err = check(recs)
		}
		return step, err
	}
	_, err := waiting(ctx, o.StepOptions, func() (struct{}, error) {
		notes, err := b.operate(ctx, "start", o.By, func(s *session) error {
			if err := check(s.recs); err != nil {
				return err
			}
			r := Record{Name: b.name, ID: rand.Text(), Stage: StageOld, MaxTTL: ttl, Starting: true, Complete: true,
				Floor: max(s.recs[0].Floor, s.recs[1].Floor), Stores: [2]string{b.sides[0].name, b.sides[1].name}}
			if s.recs[0].Starting {
				r = s.recs[0] // it goes on under its ID: there may be a second record already
			} else {
				r.Side = SideOld
				if err := s.put(ctx, 0, r); err != nil {
					return err
				}
			}
			n := r
			n.Side, n.Starting, n.Complete = SideNew, false, false
			if err := s.put(ctx, 1, n); err != nil {
				return err
			}
			r.Starting = false
			return s.put(ctx, 0, r)
		})
		step.Notes = append(step.Notes, notes...)
		return struct{}{}, err
	})
	return step, err
}

func (b *Backend) mayStart(ctx context.Context, recs [2]Record) error {
	half := recs[0].exists() && recs[0].Starting && recs[0].Name == b.name && recs[0].Side == SideOld
	for i, r := range recs {
		side := b.sides[i].side
		switch {
		case !r.exists(), r.Stage == StageFinished:
		case half && (i == 0 || r.ID == recs[0].ID):
		default:
			return &RefusedError{Op: "start", Why: fmt.Sprintf("the %s store has a record: %s", side, r), Do: "a store takes part in one migration at a time: see hasp migrate status, and finish that one first"}
		}
	}
	listed, err := backend.List(ctx, b.sides[1].b, "")
	if err != nil {
		return sided(SideNew, fmt.Errorf("migrate: start: what is held there cannot be listed: %w", err))
	}
	var holders []backend.Record
	for _, r := range listed {
		if !isReserved(r.Key) {
			holders = append(holders, r)
		}
	}
	if len(holders) > 0 {
		return &RefusedError{Op: "start", Why: "locks are held in the new store already, by processes that know nothing of the migration", Holders: holders,
			Do: "give the migration a store, or a prefix or directory of a store, of its own", Passes: true}
	}
	kvs, err := backend.ListValues(ctx, b.sides[1].b, "")
	if err != nil {
		return sided(SideNew, fmt.Errorf("migrate: start: what values are there cannot be listed: %w", err))
	}
	for _, kv := range kvs {
		if isReserved(kv.Key) {
			continue
		}
		have, err := backend.ReadValue(ctx, b.sides[0].b, kv.Key)
		if err != nil {
			return sided(SideOld, err)
		}
		if kv.Value.Compare(have) > 0 {
			return &RefusedError{Op: "start", Why: fmt.Sprintf("the new store has a value of %q that is newer than the old one's", kv.Key),
				Do: "give the migration a store, or a prefix or directory of a store, of its own"}
		}
	}
	return nil
}

// Finish ends the migration, when it is settled at new or old: both stores can take part
// in another, and no process is admitted any more. Processes are to use the URL of the store
// that it led to before: they may run beside those of phase new (or old) at the end.
func (b *Backend) Finish(ctx context.Context, o *StepOptions) (Step, error) {
	opt := o.get()
	step := Step{To: StageFinished}
	check := func(recs [2]Record) error {
		if err := b.pair("finish", recs); err != nil {
			return err
		}
		step.From = recs[0].Stage
		if recs[0].Stage == recs[1].Stage && (recs[0].Stage == StageOld && recs[0].Complete || recs[1].Stage == StageNew && recs[1].Complete) {
			return nil
		}
		return &RefusedError{Op: "finish", Why: fmt.Sprintf("the migration is at stage %s in the old store and %s in the new one, and not settled", recs[0].Stage, recs[1].Stage),
			Do: "hasp migrate advance until it is settled at new, or hasp migrate back until it is at old"}
	}
	if opt.DryRun {
		recs, err := b.records(ctx)
		if err == nil {
			err = check(recs)
		}
		return step, err
	}
	_, err := waiting(ctx, opt, func() (struct{}, error) {
		notes, err := b.operate(ctx, "finish", opt.By, func(s *session) error {
			// one that was interrupted between the two records
			half := s.recs[0].Stage == StageFinished && s.recs[0].ID == s.recs[1].ID && s.recs[0].Name == b.name
			if !half {
				if err := check(s.recs); err != nil {
					return err
				}
			}
			// The floor stays, for a migration that comes after this one.
			return s.putBoth(ctx, func(r *Record) { r.Stage = StageFinished })
		})
		step.Notes = append(step.Notes, notes...)
		return struct{}{}, err
	})
	return step, err
}
