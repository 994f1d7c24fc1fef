//go:build unix

package efs

import (
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A process may hold a great many locks: between heartbeats a grant keeps nothing of the
// place where its lock is.
func TestAGrantKeepsNoPlace(t *testing.T) {
	b := open(t, t.TempDir(), nil)
	g, err := b.Acquire(t.Context(), "k", testClaim("a", time.Minute))
	for _, step := range []func() error{
		func() error { return err },
		func() (err error) { g, err = b.Renew(t.Context(), g); return err },
		func() (err error) {
			g, err = b.SetValue(t.Context(), g, backend.Value{Token: g.Token, Seq: 1, Data: []byte("v")})
			return err
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if g.State.(*grantState).hold.Dir != nil {
			t.Error("a grant keeps its lock's directory")
		}
	}
	if err := b.Release(t.Context(), g); err != nil {
		t.Fatal(err)
	}
}
