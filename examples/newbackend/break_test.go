package newbackend_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A holder that was broken is told by its Release, although nobody has the key.
func TestReleaseAfterBreak(t *testing.T) {
	b, err := backend.Open(t.Context(), "sqlite://"+t.TempDir()+"/locks.db")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	g, err := b.Acquire(t.Context(), "k", backend.Claim{ID: "claim", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := backend.Break(t.Context(), b, g.Key, g.Token); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Release(t.Context(), g); !errors.Is(err, backend.ErrLost) {
			t.Errorf("Release after Break gave %v and not ErrLost", err)
		}
	}
}
