//go:build unix

package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// sealLab is a migration from a directory, which EfsLock processes use too, to memory.
type sealLab struct {
	t   *testing.T
	dir string
	new *memlock.Store
}

func (l *sealLab) directory() backend.Backend {
	l.t.Helper()
	b, err := efs.Open(l.dir, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = b.Close() })
	return b
}

func (l *sealLab) client(p migrate.Phase) *migrate.Backend {
	l.t.Helper()
	b, err := migrate.New(l.directory(), l.new.Client(), &migrate.Options{Name: "sweeps", Phase: p, NewName: "mem://new"})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = b.Close() })
	return b
}

// newSealLab is one whose migration has come to stage both.
func newSealLab(t *testing.T) *sealLab {
	t.Helper()
	l := &sealLab{t, t.TempDir(), memlock.New()}
	op := l.client("")
	if _, err := op.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustStep(t, op.Advance, migrate.StageOldBoth)
	mustStep(t, op.Advance, migrate.StageBoth)
	return l
}

// legacyTry does what a process of the EfsLock protocol does to get a lock, once.
func (l *sealLab) legacyTry(key string) bool {
	l.t.Helper()
	path := filepath.Join(l.dir, key)
	for range 2 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
		if err == nil {
			_ = f.Close()
			return true
		}
		if _, err := os.ReadFile(path); err == nil {
			return false
		}
		_ = os.Remove(path) // whatever goes wrong with reading it
	}
	return false
}

func TestSealKeepsOutThoseWhoDoNotLook(t *testing.T) {
	l := newSealLab(t)
	op, both := l.client(""), l.client(migrate.PhaseBoth)
	before := mustTake(t, both, "k", "early")
	mustRelease(t, both, before)

	// without a word, and without a seal, the step is refused
	_, err := op.Advance(t.Context(), nil)
	if !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "hasp migrate seal") {
		t.Fatalf("advance: %v", err)
	}
	if s, err := op.Advance(t.Context(), &migrate.StepOptions{DryRun: true}); !errors.Is(err, migrate.ErrRefused) {
		t.Fatalf("dry run: %+v, %v", s, err)
	}

	// a held lock is in the way; what is not is sealed
	g := mustTake(t, both, "held", "worker")
	done, err := op.Seal(t.Context(), nil)
	var refused *migrate.RefusedError
	if !errors.As(err, &refused) || len(refused.Holders) != 1 || refused.Holders[0].Key != "held" {
		t.Fatalf("seal beside a holder: %+v, %v", done, err)
	}
	mustRelease(t, both, g)
	if done, err = op.Seal(t.Context(), nil); err != nil || strings.Join(done.Keys, " ") != "held k" {
		t.Fatalf("seal: %+v, %v", done, err)
	}
	for _, key := range []string{"k", "held"} {
		if l.legacyTry(key) {
			t.Errorf("%s: an EfsLock process has it", key)
		}
		if _, err := l.directory().Acquire(t.Context(), key, claim("plain")); !errors.Is(err, backend.ErrMoved) {
			t.Errorf("%s: a process without the migration: %v", key, err)
		}
	}

	// processes of phase both go on, exclude each other, and their tokens rise
	g = mustTake(t, both, "k", "worker")
	if g.Token <= before.Token {
		t.Errorf("token %d after %d", g.Token, before.Token)
	}
	if _, err := l.client(migrate.PhaseBoth).Acquire(t.Context(), "k", claim("other")); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("another of phase both: %v", err)
	}
	if r, err := both.Inspect(t.Context(), "k"); err != nil || r.State != backend.Held || r.Holder.Owner != "worker" || r.Token != g.Token {
		t.Errorf("inspect: %+v, %v", r, err)
	}
	if g, err = both.SetValue(t.Context(), g, backend.Value{Data: []byte("x"), Token: g.Token, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	if g, err = both.Renew(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if v, err := l.client(migrate.PhaseBoth).Value(t.Context(), "k"); err != nil || string(v.Data) != "x" {
		t.Errorf("value %q, %v", v.Data, err)
	}

	// and phase new beside them
	if s, err := op.Advance(t.Context(), nil); err != nil || s.To != migrate.StageBothNew {
		t.Fatalf("advance: %+v, %v", s, err)
	}
	fresh := l.client(migrate.PhaseNew)
	if _, err := fresh.Acquire(t.Context(), "k", claim("new")); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("phase new beside a holder of phase both: %v", err)
	}
	mustRelease(t, both, g)
	n := mustTake(t, fresh, "k", "new")
	if n.Token <= g.Token {
		t.Errorf("token %d after %d", n.Token, g.Token)
	}

	// the way back: not while phase new is admitted, nor while one of it is in
	if _, err := op.Unseal(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) {
		t.Errorf("unseal while phase new is admitted: %v", err)
	}
	mustStep(t, op.Back, migrate.StageBoth)
	if _, err := op.Unseal(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) {
		t.Errorf("unseal while one of phase new is in: %v", err)
	}
	if l.legacyTry("k") {
		t.Error("an EfsLock process came in beside one of phase new")
	}
	mustRelease(t, fresh, n)
	if _, err := op.Unseal(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !l.legacyTry("k") {
		t.Error("after unseal an EfsLock process does not get the lock")
	}
	if _, err := both.Acquire(t.Context(), "k", claim("worker")); !errors.Is(err, backend.ErrHeld) {
		t.Errorf("beside an EfsLock process: %v", err)
	}
	if err := os.Remove(filepath.Join(l.dir, "k")); err != nil {
		t.Fatal(err)
	}
	if g := mustTake(t, both, "k", "worker"); g.Token <= n.Token {
		t.Errorf("token %d after %d", g.Token, n.Token)
	}
}

// hookStore calls before ahead of an Acquire, once.
type hookStore struct {
	*memlock.Client
	before func()
}

func (h *hookStore) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if f := h.before; f != nil {
		h.before = nil
		f()
	}
	return h.Client.Acquire(ctx, key, c)
}

// One of phase both that has found the old lock sealed, and is late to take the new one:
// it is unsealed in between, and an EfsLock process takes it.
func TestUnsealedBetweenTheTwoStores(t *testing.T) {
	l := newSealLab(t)
	op := l.client("")
	mustRelease(t, l.client(migrate.PhaseBoth), mustTake(t, l.client(migrate.PhaseBoth), "k", "early"))
	if _, err := op.Seal(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	late := &hookStore{Client: l.new.Client(), before: func() {
		if _, err := op.Unseal(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if !l.legacyTry("k") {
			t.Error("the EfsLock process does not get the lock")
		}
	}}
	b, err := migrate.New(l.directory(), late, &migrate.Options{Name: "sweeps", Phase: migrate.PhaseBoth})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if g, err := b.Acquire(t.Context(), "k", claim("late")); err == nil {
		t.Fatalf("it holds beside an EfsLock process: %+v", g)
	} else if !errors.Is(err, backend.ErrHeld) {
		t.Errorf("want the EfsLock process named as the holder: %v", err)
	}
	mustState(t, l.new, "k", backend.Free)
}

func TestSealAtTheWrongStage(t *testing.T) {
	l := newSealLab(t)
	op := l.client("")
	mustStep(t, op.Back, migrate.StageOldBoth)
	if _, err := op.Seal(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "phase old") {
		t.Errorf("seal while phase old is admitted: %v", err)
	}
	plain := begun(t, migrate.StageBoth).operator()
	if _, err := plain.Seal(t.Context(), nil); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("seal of a store without EfsLock processes: %v", err)
	}
}

// Seal waits for holders if it is told to, however busy the lock is.
func TestSealWaits(t *testing.T) {
	l := newSealLab(t)
	op, both := l.client(""), l.client(migrate.PhaseBoth)
	g := mustTake(t, both, "k", "worker")
	release := time.AfterFunc(300*time.Millisecond, func() { _ = both.Release(context.Background(), g) })
	defer release.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done, err := op.Seal(ctx, &migrate.StepOptions{Wait: true})
	if err != nil || len(done.Keys) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// sealedKey seals k, which has been used, with a value kept beside it.
func (l *sealLab) sealedKey(op *migrate.Backend) {
	l.t.Helper()
	both := l.client(migrate.PhaseBoth)
	g := mustTake(l.t, both, "k", "early")
	g, err := both.SetValue(l.t.Context(), g, backend.Value{Data: []byte("x"), Token: g.Token, Seq: 1})
	if err != nil {
		l.t.Fatal(err)
	}
	mustRelease(l.t, both, g)
	if _, err := op.Seal(l.t.Context(), nil); err != nil {
		l.t.Fatal(err)
	}
}

// Seals stay in the old store to its end, and nothing has to wait for them.
func TestSealedMigrationSettles(t *testing.T) {
	l := newSealLab(t)
	op := l.client("")
	l.sealedKey(op)
	mustStep(t, op.Advance, migrate.StageBothNew)

	// who relies on the seal holds in the new store, and has to be waited for
	both := l.client(migrate.PhaseBoth)
	g := mustTake(t, both, "k", "worker")
	if s, err := op.Advance(t.Context(), nil); err != nil || s.Pending == nil || len(s.Pending.Holders) != 1 {
		t.Fatalf("beside one of phase both: %+v, %v", s, err)
	}
	mustRelease(t, both, g)
	if s, err := op.Advance(t.Context(), nil); err != nil || !s.Settled {
		t.Fatalf("not settled: %+v, %v", s, err)
	}
	if v, err := l.client(migrate.PhaseNew).Value(t.Context(), "k"); err != nil || string(v.Data) != "x" {
		t.Errorf("value %q, %v", v.Data, err)
	}
	if _, err := op.Finish(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// The directory is lost, and the seals with it: the word that the old store was sealed
// must not come back with the record.
func TestRepairDoesNotBringSealsBack(t *testing.T) {
	l := &sealLab{t, t.TempDir(), memlock.New()}
	op := l.client("")
	if _, err := op.Start(t.Context(), &migrate.StartOptions{MaxTTL: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	mustStep(t, op.Advance, migrate.StageOldBoth)
	mustStep(t, op.Advance, migrate.StageBoth)
	if _, err := op.Seal(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if s, err := op.Advance(t.Context(), &migrate.StepOptions{DryRun: true}); err != nil {
		t.Fatalf("sealed, and not safe: %+v, %v", s, err)
	}
	all, err := os.ReadDir(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if err := os.RemoveAll(filepath.Join(l.dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	op = l.client("")
	s, err := op.Repair(t.Context(), &migrate.StepOptions{Wait: true})
	if err != nil || !strings.Contains(strings.Join(s.Notes, "\n"), "hasp migrate seal") {
		t.Fatalf("repair: %+v, %v", s, err)
	}
	if _, err := op.Advance(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "hasp migrate seal") {
		t.Fatalf("advance, with no seal left: %v", err)
	}
	if _, err := op.Seal(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustStep(t, op.Advance, migrate.StageBothNew)
}

// An operator that has lost the records, and with them the stage that it had looked at,
// unseals nothing more.
func TestUnsealByAnOvertakenOperator(t *testing.T) {
	l := newSealLab(t)
	l.sealedKey(l.client(""))
	slow := &hookStore{Client: l.new.Client()}
	slow.before = func() { // ahead of the record's lock
		slow.before = func() { // ahead of the key's
			other := l.new.Client()
			rec, err := other.Inspect(t.Context(), migrate.RecordKey)
			if err == nil {
				err = other.Break(t.Context(), migrate.RecordKey, rec.Token)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	op, err := migrate.New(l.directory(), slow, &migrate.Options{Name: "sweeps"})
	if err != nil {
		t.Fatal(err)
	}
	defer op.Close()
	if done, err := op.Unseal(t.Context(), nil); !errors.Is(err, migrate.ErrRefused) || len(done.Keys) > 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if l.legacyTry("k") {
		t.Error("an EfsLock process has what should be sealed")
	}
	mustState(t, l.new, "k", backend.Free)
}

// slowSealer is a store of n locks each of which takes 10 s to be sealed.
type slowSealer struct {
	*memlock.Client
	n    int
	last func() // called before it is over
}

func (s *slowSealer) Seal(context.Context, string, string) error { return nil }
func (s *slowSealer) Unseal(context.Context, string) error       { return nil }
func (s *slowSealer) UnsealAll(context.Context, string) ([]backend.Sealing, error) {
	return nil, nil
}

func (s *slowSealer) SealAll(_ context.Context, _, _ string, skip func(string) bool) (all []backend.Sealing, err error) {
	for i := range s.n {
		if key := fmt.Sprint("k", i); !skip(key) {
			time.Sleep(10 * time.Second)
			all = append(all, backend.Sealing{Key: key})
		}
	}
	s.last()
	return all, nil
}

// The records stay locked for as long as a seal takes.
func TestSealOfManyLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begun(t, migrate.StageBoth)
		other := func() {
			_, err := l.operator().Back(t.Context(), nil)
			mustRefuse(t, err, "another operator")
		}
		op, err := migrate.New(&slowSealer{l.old.Client(), 20, other}, l.new.Client(), &migrate.Options{Name: "sweeps"})
		if err != nil {
			t.Fatal(err)
		}
		defer op.Close()
		if done, err := op.Seal(t.Context(), nil); err != nil || len(done.Keys) != 20 {
			t.Errorf("%d sealed, %v", len(done.Keys), err)
		}
	})
}
