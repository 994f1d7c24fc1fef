//go:build unix

package efs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// A TTL of any size is one.
func TestLongTTLs(t *testing.T) {
	for _, ttl := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 1_000_000 * 1_000_000, 290 * 365 * 24 * time.Hour} {
		for _, kind := range []LockFile{Directory, File, NoLockFile} {
			t.Run(fmt.Sprintf("%d/%d", int64(ttl), kind), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				b, other := open(t, dir, &Options{LockFile: kind}), open(t, dir, &Options{LockFile: kind})
				g, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl))
				if err != nil || g.TTL != ttl {
					t.Fatalf("granted %v, %v", g.TTL, err)
				}
				for range 2 {
					var held *backend.HeldError
					_, err = other.Acquire(ctxBG, "lock", testClaim("b", ttl))
					if !errors.As(err, &held) || held.RetryAfter < ttl/2 || held.Record.Remaining < ttl/2 {
						t.Errorf("another gets %v, %+v", err, held)
					}
					if r, err := other.Inspect(ctxBG, "lock"); err != nil || r.State != backend.Held || r.TTL < ttl-time.Millisecond || r.Remaining < ttl/2 {
						t.Errorf("inspect: %+v, %v", r, err)
					}
					if g, err = b.Renew(ctxBG, g); err != nil {
						t.Errorf("heartbeat: %v", err)
					}
					if err := other.RaiseToken(ctxBG, "lock", g.Token+1000); err != nil {
						t.Errorf("raise: %v", err)
					}
				}
				if err := b.Release(ctxBG, g); err != nil {
					t.Errorf("release: %v", err)
				}
				if g, err = other.Acquire(ctxBG, "lock", testClaim("b", ttl)); err != nil {
					t.Fatal(err)
				}
				if err := b.Break(ctxBG, "lock", g.Token); err != nil {
					t.Errorf("break: %v", err)
				}
				l := hasp.New(open(t, dir, &Options{LockFile: kind}), &hasp.Options{TTL: ttl})
				defer l.Close()
				if err := hasp.Do(ctxBG, l, "lock", func(context.Context, *hasp.Lease) error { return nil }); err != nil {
					t.Errorf("with a Locker: %v", err)
				}
			})
		}
	}
}

// Claims of no TTL are refused before anything is made for them.
func TestShortTTLs(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	for _, ttl := range []time.Duration{-1, 0, 1, 999 * time.Microsecond} {
		if _, err := b.Acquire(ctxBG, "lock", testClaim("a", ttl)); err == nil || errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("a TTL of %v: %v", ttl, err)
		}
	}
	if got := contents(t, dir); len(got) != 0 {
		t.Errorf("made: %q", got)
	}
}

// A raised token is no sign of life of a holder's that is dead, whoever raises it and
// however often.
func TestRaisesDoNotKeepTheDeadAlive(t *testing.T) {
	const ttl = 1500 * time.Millisecond
	for _, kind := range []LockFile{Directory, File, NoLockFile} {
		for _, fresh := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d/fresh=%v", kind, fresh), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				b := open(t, dir, &Options{LockFile: kind})
				g, err := b.Acquire(ctxBG, "lock", testClaim("dead", ttl))
				if err != nil {
					t.Fatal(err)
				}
				died := time.Now()
				raiser, waiter := open(t, dir, &Options{LockFile: kind}), open(t, dir, &Options{LockFile: kind})
				raises := 0
				for floor := g.Token + 1; ; floor++ {
					if fresh { // each time other processes, which have seen nothing
						raiser, waiter = open(t, dir, &Options{LockFile: kind}), open(t, dir, &Options{LockFile: kind})
					}
					if err := raiser.RaiseToken(ctxBG, "lock", floor); err != nil {
						t.Fatal(err)
					}
					raises++
					next, err := waiter.Acquire(ctxBG, "lock", testClaim("next", time.Minute))
					if err == nil {
						if next.Token <= floor {
							t.Errorf("token %d, after it was raised to %d", next.Token, floor)
						}
						if took := time.Since(died); took < ttl*9/10 {
							t.Errorf("taken over after %v", took)
						} else {
							t.Logf("taken over after %v and %d raises", took, raises)
						}
						break
					}
					if !errors.Is(err, backend.ErrHeld) {
						t.Fatal(err)
					}
					// each raise, if it were a sign of life, would keep the lock for a TTL
					if time.Since(died) > 10*ttl {
						t.Fatalf("not taken over after %v and %d raises: %v", time.Since(died), raises, err)
					}
					time.Sleep(20 * time.Millisecond) // for others to have the processor
				}
			})
		}
	}
}
