//go:build unix

package efs

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/efs/internal/statedir"
)

// An answer that was unknown once stays so for the grant, whatever the next ones say: it
// ends dirty.
func TestUnknownAnswerIsNotForgotten(t *testing.T) {
	dir := t.TempDir()
	b, f := openFaulty(t, dir, Directory)
	g, err := b.Acquire(ctxBG, "lock", testClaim("first", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	renames := 0
	f.Around = func(op string, do func() error) error {
		renamed := op == "rename" || op == "rename-new"
		if renamed {
			renames++
		}
		switch {
		case renamed && renames == 2: // the guard's, after the baton's
			return syscall.EIO
		case renamed && renames == 3:
			if err := do(); err != nil {
				t.Error(err)
			}
			return os.RemoveAll(dir + "/lock")
		}
		return do()
	}
	if g, err = b.Acquire(ctxBG, "lock", testClaim("second", time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := b.Release(ctxBG, g); err != nil {
		t.Fatal(err)
	}
	p, err := b.use("lock")
	if err != nil {
		t.Fatal(err)
	}
	defer b.unuse(p)
	if cur, _, err := p.dir.Read(); err != nil || cur.State != statedir.Dirty {
		t.Errorf("it ended as %s, %v", cur.Name(), err)
	}
}
