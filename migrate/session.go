package migrate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// ErrRefused is what every *RefusedError matches.
var ErrRefused = errors.New("refused")

// RefusedError says why a step was not taken. Nothing was changed by it.
type RefusedError struct {
	Op  string // "start", "advance" ...
	Why string
	Do  string
	// Holders are those that are in the way, as their store knows them.
	Holders []backend.Record
	// Passes tells that it may pass without anybody doing anything but wait.
	Passes bool
	Err    error // what a store said, or nil
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("migrate: %s refused: %s", e.Op, e.Why)
	const most = 5
	for i, r := range e.Holders {
		if i == most {
			s += fmt.Sprintf("; and %d more", len(e.Holders)-most)
			break
		}
		s += fmt.Sprintf("; %q is %s", r.Key, r)
	}
	return s + ": " + e.Do
}

// Is makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// Unwrap gives what a store said.
func (e *RefusedError) Unwrap() error { return e.Err }

// stepTTL is how long another operator waits for one that was killed.
const stepTTL = 30 * time.Second

// session is an operator's hold on the records: the locks beside both of them, and what
// they said once those were held.
type session struct {
	b      *Backend
	op     string
	by     string
	grants [2]backend.Grant
	seq    [2]uint64
	recs   [2]Record
	notes  []string
}

// operate calls f with the records' locks held in both stores. A lock that could not be
// released is told in a note: it ends by itself.
func (b *Backend) operate(ctx context.Context, op, by string, f func(s *session) error) (notes []string, err error) {
	if b.closed.Load() {
		return nil, backend.ErrClosed
	}
	s := &session{b: b, op: op, by: by}
	host, _ := os.Hostname()
	if s.by == "" {
		s.by = "an operator"
	}
	claim := backend.Claim{ID: rand.Text(), Holder: backend.Holder{Owner: s.by, Host: host, PID: os.Getpid()}, TTL: stepTTL}
	s.by += " (host " + host + ")"
	defer func() {
		s.release(context.WithoutCancel(ctx))
		notes = s.notes
	}()
	for i, st := range b.sides {
		// so that it is withdrawn whatever comes of the request
		s.grants[i] = backend.Grant{Key: RecordKey, ID: claim.ID, Holder: claim.Holder, TTL: claim.TTL}
		g, err := st.b.Acquire(ctx, RecordKey, claim)
		if err != nil {
			var held *backend.HeldError
			if errors.As(err, &held) && !isUnknown(err) {
				s.grants[i] = backend.Grant{}
				return nil, &RefusedError{Op: op, Why: fmt.Sprintf("another operator is at work in the %s store (%s)", st.side, held.Record),
					Do: "wait for that one; if it was killed its hold ends by itself", Passes: true, Err: err}
			}
			return nil, sided(st.side, err)
		}
		s.grants[i] = g
	}
	if err := s.read(ctx); err != nil {
		return nil, err
	}
	return nil, f(s)
}

// read reads both records.
func (s *session) read(ctx context.Context) error {
	recs, err := s.b.records(ctx)
	s.recs = recs
	return err
}

// records reads both stores' records.
func (b *Backend) records(ctx context.Context) (recs [2]Record, err error) {
	var errs [2]error
	each(b.sides[:], func(i int, st *store) {
		recs[i], errs[i] = readRecord(ctx, st.b)
		errs[i] = sided(st.side, errs[i])
	})
	return recs, joined(errs[:]...)
}

// release frees the locks, the new store's first.
func (s *session) release(ctx context.Context) {
	for i := len(s.grants) - 1; i >= 0; i-- {
		if s.grants[i].ID == "" {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, 5*time.Second) // each its own: one that is away must not keep the other's
		err := s.b.sides[i].b.Release(rctx, s.grants[i])
		cancel()
		if err != nil && !errors.Is(err, backend.ErrLost) {
			s.notes = append(s.notes, fmt.Sprintf("the hold on the %s store's record could not be released and ends within %v: %s", s.b.sides[i].side, stepTTL, backend.Text(err)))
		}
	}
}

// put writes one store's record, under its lock: a store refuses it if that was lost.
func (s *session) put(ctx context.Context, i int, r Record) error {
	r.By, r.At = s.by, time.Now().UTC()
	s.seq[i]++
	v, err := r.encode(s.grants[i].Token, s.seq[i])
	if err != nil {
		return err
	}
	st := s.b.sides[i]
	for try := 0; ; try++ {
		g, err := backend.SetValue(ctx, st.b, s.grants[i], v)
		switch {
		case err == nil:
			s.grants[i], r.value, s.recs[i] = g, v, r
			return nil
		case isUnknown(err) && ctx.Err() == nil && try < 2:
			continue
		case errors.Is(err, backend.ErrLost):
			return &RefusedError{Op: s.op, Why: fmt.Sprintf("the hold on the %s store's record was lost before it was written", st.side),
				Do: "see hasp migrate status, and repeat it", Passes: true, Err: sided(st.side, err)}
		default:
			return fmt.Errorf("migrate: %s: the %s store's record may or may not be written: %w; see hasp migrate status, and repeat it", s.op, st.side, err)
		}
	}
}

// putBoth writes both records, the old store's first: in both directions, so that two
// operators, one of whom was overtaken, cannot leave them two stages apart.
func (s *session) putBoth(ctx context.Context, change func(r *Record)) error {
	for i := range s.recs {
		r := s.recs[i]
		r.Complete = false
		change(&r)
		if err := s.put(ctx, i, r); err != nil {
			return err
		}
	}
	return nil
}

// renew keeps the records' locks for something that takes long.
func (s *session) renew(ctx context.Context) error {
	var errs [2]error
	each(s.b.sides[:], func(i int, st *store) {
		g, err := st.b.Renew(ctx, s.grants[i])
		if err == nil {
			s.grants[i] = g
		} else if errors.Is(err, backend.ErrLost) {
			errs[i] = sided(st.side, err)
		}
	})
	if err := joined(errs[:]...); err != nil {
		return &RefusedError{Op: s.op, Why: "the hold on the records was lost: " + backend.Text(err), Do: "repeat it", Passes: true, Err: err}
	}
	return nil
}

// unchanged reads both records once more. A store that was wiped since has none.
func (s *session) unchanged(ctx context.Context) error {
	recs, err := s.b.records(ctx)
	if err != nil {
		return err
	}
	for i, r := range recs {
		if !r.same(s.recs[i]) {
			return &RefusedError{Op: s.op, Why: fmt.Sprintf("the %s store's record has changed in the middle of it (%s)", s.b.sides[i].side, r), Do: "see hasp migrate status"}
		}
	}
	return nil
}

// pair finds out whether the two records are those of this migration, as both have to
// be for a step.
func (b *Backend) pair(op string, recs [2]Record) error {
	refuse := func(why, do string) error { return &RefusedError{Op: op, Why: why, Do: do} }
	switch o, n := recs[0].exists(), recs[1].exists(); {
	case !o && !n:
		return refuse("neither store has a record", "hasp migrate start begins the migration; if it had begun, both stores have been wiped, and no process may run before every lock held then is over")
	case !o, !n:
		side := SideOld
		if o {
			side = SideNew
		}
		return refuse(fmt.Sprintf("the %s store has no record: it was wiped, or is not the one that the migration began with", side), "correct the URL, or hasp migrate repair")
	}
	for i, r := range recs {
		side := b.sides[i].side
		switch {
		case r.Name != b.name:
			return refuse(fmt.Sprintf("the %s store is part of migration %q", side, r.Name), "correct the name or the stores in the URL")
		case r.Side != side:
			return refuse(fmt.Sprintf("what is given as the %s store is the migration's %s one", side, r.Side), "exchange old and new in the URL")
		case r.Stage == StageFinished:
			return refuse("the migration is finished", "hasp migrate start begins another")
		case r.Starting:
			return refuse("the migration has been begun half", "repeat hasp migrate start")
		}
	}
	if recs[0].ID != recs[1].ID {
		return refuse("the two stores are of two migrations of that name", "correct the stores in the URL: "+
			strings.Join(recs[0].Stores[:], " leads to ")+", and "+strings.Join(recs[1].Stores[:], " to "))
	}
	if d := recs[0].Stage.number() - recs[1].Stage.number(); d < -1 || d > 1 {
		return refuse(fmt.Sprintf("the records contradict each other (%s in the old store, %s in the new one): one of the stores has gone back to an earlier state", recs[0].Stage, recs[1].Stage),
			"stop every process of the fleet before anything else: see docs/migrate.md")
	}
	return nil
}
