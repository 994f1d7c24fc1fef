//go:build unix

package efs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// A live holder whose state directory was removed and made anew, by one who wants the lock,
// keeps its guard, whatever an operator does.
func TestOperatorsLeaveTheGuardOfARemovedState(t *testing.T) {
	for what, operate := range map[string]func(op *Backend) error{
		"clear":      func(op *Backend) error { _, err := op.Clear(ctxBG, "", true); return err },
		"unseal":     func(op *Backend) error { return op.Unseal(ctxBG, "lock") },
		"unseal all": func(op *Backend) error { _, err := op.UnsealAll(ctxBG, ""); return err },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			a, b, op := open(t, dir, nil), open(t, dir, nil), open(t, dir, nil)
			if _, err := a.Acquire(ctxBG, "lock", testClaim("a", time.Minute)); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, ".lock.hasp")); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Acquire(ctxBG, "lock", testClaim("b", time.Minute)); !errors.Is(err, backend.ErrHeld) {
				t.Fatalf("another got %v", err)
			}
			err := operate(op)
			if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
				t.Errorf("the guard of a live holder is gone: %v", err)
			}
			if what == "unseal" && !errors.Is(err, errStateRemoved) {
				t.Errorf("it was told %v", err)
			}
			if g, err := b.Acquire(ctxBG, "lock", testClaim("c", time.Minute)); err == nil {
				t.Errorf("another holds it with token %d", g.Token)
			}
		})
	}
}

// The same with one who died in the instant in which it had the new state's baton, and did
// not know yet of the guard: an operator who breaks that one's lock does not break the other's.
func TestBreakLeavesTheGuardOfARemovedState(t *testing.T) {
	dir := t.TempDir()
	a, op := open(t, dir, nil), open(t, dir, nil)
	if _, err := a.Acquire(ctxBG, "lock", testClaim("a", time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".lock.hasp")); err != nil {
		t.Fatal(err)
	}
	var token uint64
	err := op.with(ctxBG, "lock", func(p *place) error {
		if err := p.prepare(true); err != nil {
			return err
		}
		h, err := p.take(ctxBG, testClaim("b", time.Minute))
		if err == nil {
			token = h.Baton.Gen
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := op.Break(ctxBG, "lock", token); !errors.Is(err, errStateRemoved) {
		t.Errorf("Break gave %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
		t.Errorf("the guard of a live holder is gone: %v", err)
	}
}

// A grant may be released again although its token was raised while it was held.
func TestReleaseTwiceAfterRaise(t *testing.T) {
	a := open(t, t.TempDir(), nil)
	g, err := a.Acquire(ctxBG, "lock", testClaim("a", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.RaiseToken(ctxBG, "lock", g.Token+1_000_000); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Release(context.Background(), g); err != nil {
			t.Error(err)
		}
	}
	next, err := a.Acquire(ctxBG, "lock", testClaim("b", time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Release(ctxBG, g); !errors.Is(err, backend.ErrLost) {
		t.Errorf("when another holds it, it gave %v", err)
	}
	if err := a.Release(ctxBG, next); err != nil {
		t.Error(err)
	}
}
