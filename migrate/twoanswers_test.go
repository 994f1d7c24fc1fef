package migrate_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

var errNoAnswer = backend.Unavailable(errors.New("no answer"))

// One store says that it has nothing of a claim, and the other does not answer: that is not
// the definite answer which the first alone would be, and it is asked for again.
func TestReleaseIsUnknownIfOneStoreDoesNotAnswer(t *testing.T) {
	l := begun(t, migrate.StageOldBoth)
	b := l.client(migrate.PhaseBoth)
	for what, g := range map[string]backend.Grant{
		"a withdrawal":      {Key: "k", ID: "x", TTL: time.Minute},
		"a grant's":         {Key: "k", ID: "x", TTL: time.Minute, Token: 7},
		"a half lost one's": half(t, l, b),
	} {
		remove := l.old.Inject(memlock.OpRelease, g.Key, memlock.Fault{Err: errNoAnswer, Times: -1})
		err := b.Release(context.Background(), g)
		if errors.Is(err, backend.ErrLost) || !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("the release, %s: %v", what, err)
		}
		remove()
		if err := b.Release(context.Background(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("when both answer, %s: %v", what, err)
		}
		if r, err := l.old.Client().Inspect(context.Background(), g.Key); err != nil || r.State != backend.Free {
			t.Errorf("the old store's lock, %s: %v, %v", what, r, err)
		}
	}
}

// half is a grant that is lost in the new store.
func half(t *testing.T, l *lab, b backend.Backend) backend.Grant {
	g, err := b.Acquire(context.Background(), "half", backend.Claim{ID: "half", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	l.new.Forget("half")
	return g
}

// An Acquire that fails leaves nothing, also if its withdrawal is not answered at first.
func TestWithdrawalThatIsNotAnsweredAtFirst(t *testing.T) {
	l := begun(t, migrate.StageOldBoth)
	lk := hasp.New(l.client(migrate.PhaseBoth), nil)
	l.old.Inject(memlock.OpAcquire, "k", memlock.Fault{LoseReply: errNoAnswer})
	l.old.Inject(memlock.OpRelease, "k", memlock.Fault{Err: errNoAnswer})
	if _, err := lk.TryAcquire(context.Background(), "k"); !errors.Is(err, hasp.ErrUnavailable) {
		t.Fatalf("it gave %v", err)
	}
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		r, err := l.old.Client().Inspect(context.Background(), "k")
		if err == nil && r.State == backend.Free {
			break
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("the old store: %v, %v", r, err)
		}
	}
	if err := lk.Close(); err != nil {
		t.Error(err)
	}
}

// A loss in one store is a loss, and nothing else, though the other does not answer.
func TestLossIsDefiniteIfTheOtherStoreDoesNotAnswer(t *testing.T) {
	l := begun(t, migrate.StageOldBoth)
	b := l.client(migrate.PhaseBoth)
	g := half(t, l, b)
	defer l.old.Inject(memlock.OpRenew, "half", memlock.Fault{Err: errNoAnswer, Times: -1})()
	for what, err := range map[string]error{
		"Renew":    func() error { _, err := b.Renew(context.Background(), g); return err }(),
		"RenewAll": b.RenewAll(context.Background(), []backend.Grant{g})[0].Err,
	} {
		if !errors.Is(err, backend.ErrLost) || errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("%s gave %v", what, err)
		}
	}
}
