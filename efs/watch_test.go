//go:build unix

package efs

import (
	"testing"
	"time"

	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A watch that goes on for a moment after its claim was granted, and the lock released
// again, does not say that the claim waits.
func TestWatchAfterTheGrant(t *testing.T) {
	b, other := open(t, t.TempDir(), nil), (*Backend)(nil)
	other = open(t, b.dir, nil)
	first, err := other.Acquire(ctxBG, "lock", testClaim("first", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.use("lock")
	if err != nil {
		t.Fatal(err)
	}
	defer b.unuse(p)
	wait := &statedir.Wait{Claim: testClaim("waiter", time.Minute)}
	p.waiting(wait, true)
	look := func() bool {
		if err := p.begin(ctxBG); err != nil {
			t.Fatal(err)
		}
		defer p.end()
		return p.worthTrying(wait)
	}
	if look() {
		t.Error("worth trying while it is held")
	}
	if err := other.Release(ctxBG, first); err != nil {
		t.Fatal(err)
	}
	g, err := b.Acquire(ctxBG, "lock", wait.Claim)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	look()
	cur, _, err := p.dir.Read()
	if err != nil || len(cur.Waiters) > 0 {
		t.Errorf("the free lock is %s, %v", cur.Name(), err)
	}
}
