package hasp_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestErrorTexts(t *testing.T) {
	held := &hasp.HeldError{Record: backend.Record{
		State: backend.Held, Token: 1763862345123456, HeldFor: 130 * time.Second,
		Holder: backend.Holder{Owner: "trainer-7", Host: "ip-10-0-3-4", PID: 4123},
	}}
	for want, err := range map[string]error{
		`hasp: acquire "sweeps/foo/lock": timed out after 60 attempts in 5m0s: held by trainer-7 (host ip-10-0-3-4, pid 4123) for 2m10s, token 1763862345123456`: &hasp.Error{
			Op: "acquire", Key: "sweeps/foo/lock", Err: &hasp.TimeoutError{Attempts: 60, Waited: 5 * time.Minute, Last: held}},
		`hasp: acquire "k": timed out after 1 attempt in 0s`:                                                            &hasp.Error{Op: "acquire", Key: "k", Err: &hasp.TimeoutError{Attempts: 1}},
		`hasp: acquire "a \"b\"\x00": held by trainer-7 (host ip-10-0-3-4, pid 4123) for 2m10s, token 1763862345123456`: &hasp.Error{Op: "acquire", Key: "a \"b\"\x00", Err: held},
		`timed out after 3 attempts in 1.23s: lock store is unavailable: connection refused`: &hasp.TimeoutError{
			Attempts: 3, Waited: 1234 * time.Millisecond, Last: backend.Unavailable(errors.New("connection refused"))},
	} {
		if err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
	}
	te := &hasp.TimeoutError{Last: held}
	mustMatch(t, te, hasp.ErrTimeout, hasp.ErrHeld)
	if errors.Is(&hasp.TimeoutError{}, hasp.ErrHeld) {
		t.Error("timed out without having seen a holder, and matches ErrHeld")
	}
	if errors.Is(te, hasp.ErrLost) || errors.Is(held, hasp.ErrTimeout) {
		t.Error("errors match what they are not")
	}
}

// What a user reads, from the calls that make it.
func TestErrorTextsInUse(t *testing.T) {
	const holder = `held by trainer-7 \(host \S+, pid \d+\) for `
	for name, tc := range map[string]struct {
		do   func(ctx context.Context, s *memlock.Store, c *memlock.Client, l hasp.Locker, held *hasp.Lease) error
		want string
	}{
		"timeout": {func(ctx context.Context, _ *memlock.Store, _ *memlock.Client, l hasp.Locker, _ *hasp.Lease) error {
			_, err := l.Acquire(ctx, "a/b")
			return err
		}, `^hasp: acquire "a/b": timed out after 61 attempts in 5m0s: ` + holder + `5m0s, token \d+$`},
		"try": {func(ctx context.Context, _ *memlock.Store, _ *memlock.Client, l hasp.Locker, _ *hasp.Lease) error {
			time.Sleep(90 * time.Second)
			_, err := l.TryAcquire(ctx, "a/b")
			return err
		}, `^hasp: acquire "a/b": ` + holder + `1m30s, token \d+$`},
		"cancelled": {func(ctx context.Context, _ *memlock.Store, _ *memlock.Client, l hasp.Locker, _ *hasp.Lease) error {
			ctx, cancel := context.WithTimeoutCause(ctx, 7*time.Second, errShutdown)
			defer cancel()
			_, err := l.Acquire(ctx, "a/b")
			return err
		}, `^hasp: acquire "a/b": gave up after 7s: the node is going away: ` + holder + `\S+, token \d+$`},
		"cancelled before": {func(ctx context.Context, _ *memlock.Store, _ *memlock.Client, l hasp.Locker, _ *hasp.Lease) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := l.Acquire(ctx, "a/b")
			return err
		}, `^hasp: acquire "a/b": gave up after 0s: context canceled$`},
		"bad key": {func(ctx context.Context, _ *memlock.Store, _ *memlock.Client, l hasp.Locker, _ *hasp.Lease) error {
			_, err := l.Acquire(ctx, "")
			return err
		}, `^hasp: acquire "": invalid key: it is empty$`},
		"not renewed": {func(ctx context.Context, _ *memlock.Store, c *memlock.Client, _ hasp.Locker, held *hasp.Lease) error {
			c.Partition(true)
			<-held.Done()
			c.Partition(false)
			return held.Err()
		}, `^lock was lost: not renewed within its TTL of 5m0s$`},
		"broken": {func(ctx context.Context, s *memlock.Store, _ *memlock.Client, _ hasp.Locker, held *hasp.Lease) error {
			_ = s.Client().Break(ctx, "a/b", held.Token())
			return held.Release(ctx)
		}, `^hasp: release "a/b": lock was lost: the store says so$`},
		"closed": {func(ctx context.Context, _ *memlock.Store, _ *memlock.Client, l hasp.Locker, _ *hasp.Lease) error {
			_ = l.Close()
			_, err := l.Acquire(ctx, "a/b")
			return err
		}, `^hasp: acquire "a/b": closed$`},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				c := store.Client()
				held := acquire(t, locker(t, c, &hasp.Options{Owner: "trainer-7"}), "a/b")
				err := tc.do(t.Context(), store, c, locker(t, store.Client(), nil), held)
				if err == nil || !regexp.MustCompile(tc.want).MatchString(err.Error()) {
					t.Errorf("got  %v\nwant %s", err, tc.want)
				}
			})
		})
	}
}
