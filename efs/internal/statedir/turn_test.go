//go:build unix

package statedir

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// A waiter that was passed over has the next turn, before one who comes back at once and
// before one who has waited for less long. If it has died, the lock is free again soon.
func TestWaiterIsNotPassedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ctx := context.Background()
	quick, slow, young := newDir(t, fsys.OS{}, path), newDir(t, fsys.OS{}, path), newDir(t, fsys.OS{}, path)
	if err := quick.Make(); err != nil {
		t.Fatal(err)
	}
	take := func(d *Dir, id string) (*Hold, error) { return d.Take(ctx, claim(id, time.Minute)) }
	must := func(h *Hold, err error) *Hold {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	free := func(h *Hold) {
		t.Helper()
		if ok, err := h.Free(true); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	worth := func(d *Dir, w *Wait) bool {
		t.Helper()
		is, err := d.Worth(w)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	old, late := &Wait{Claim: claim("slow", time.Minute)}, &Wait{Claim: claim("young", time.Minute)}

	h := must(take(quick, "q1"))
	if worth(slow, old) {
		t.Error("worth trying while it is held")
	}
	time.Sleep(2 * time.Millisecond) // or both have waited for as long
	if worth(young, late) {
		t.Error("worth trying while it is held")
	}
	free(h)
	h = must(take(quick, "q2")) // passed over, and nobody has said so yet
	if worth(young, late) || worth(slow, old) || worth(young, late) {
		t.Error("worth trying while it is held")
	}
	free(h)
	var held *backend.HeldError
	if _, err := take(quick, "q3"); !errors.As(err, &held) || held.RetryAfter <= 0 {
		t.Errorf("who has just let go gets it again: %v", err)
	}
	if worth(young, late) {
		t.Error("worth trying for one who has waited for less long")
	}
	if !worth(slow, old) {
		t.Error("not worth trying for the one whose turn it is")
	}
	h = must(take(slow, "slow"))
	if worth(young, late) {
		t.Error("worth trying while it is held")
	}
	free(h)
	if _, err := take(quick, "q4"); !errors.As(err, &held) {
		t.Errorf("the other waiter is passed over: %v", err)
	}
	if err := young.Leave(late); err != nil {
		t.Fatal(err)
	}
	free(must(take(quick, "q5")))

	// One who says that it waits, and dies.
	dead := &Wait{Claim: claim("dead", time.Minute)}
	h = must(take(quick, "q6"))
	worth(slow, dead)
	if b, _, err := slow.Read(); err != nil || b.place("dead") < 0 {
		t.Errorf("of a waiter that has seen the lock change hands a moment ago %s says nothing, %v", b.Name(), err)
	}
	free(h)
	start := time.Now()
	for {
		if _, err := take(quick, "q8"); err == nil {
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatal("a dead waiter keeps the lock")
		}
	}
}
