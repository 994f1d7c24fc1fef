package hasp_test

import (
	"context"
	"errors"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

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
		}, `^hasp: acquire "a/b": timed out after 66 attempts in 5m20s: ` + holder + `5m20s, token \d+$`},
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

// Whatever a key, a holder or a file is called, the text is one line of what can be
// seen, says operation and key once, and does not end where a cause should be.
func TestErrorTextsArePrintable(t *testing.T) {
	const evil = "a\nb\x1b[2J\u202ec\u2028\u0085"
	const shown = `a\nb\x1b[2J\u202ec\u2028\u0085`
	rec := backend.Record{Key: evil, State: backend.Held, Note: evil, Holder: backend.Holder{Owner: evil, Host: evil}}
	held := &hasp.HeldError{Record: rec}
	path := &fs.PathError{Op: "open", Path: "/mnt/" + evil, Err: fs.ErrPermission}
	for name, err := range map[string]error{
		"held":        held,
		"timed out":   &hasp.TimeoutError{Attempts: 3, Last: held},
		"a path":      path,
		"unavailable": backend.Unavailable(path),
		"several":     errors.Join(path, held),
	} {
		got := (&hasp.Error{Op: "acquire", Key: evil, Err: err}).Error()
		if strings.ContainsFunc(got, func(r rune) bool { return !strconv.IsGraphic(r) }) {
			t.Errorf("%s: %q", name, got)
		}
		if !strings.HasPrefix(got, `hasp: acquire "`+shown+`": `) || strings.Count(got, "acquire") != 1 {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := (&hasp.TimeoutError{Last: path}).Error(); strings.ContainsFunc(got, unicode.IsControl) {
		t.Errorf("%q", got)
	}
	for name, err := range map[string]error{
		"none": nil, "empty": errors.New(""), "unavailable": backend.Unavailable(errors.New("")),
		"timed out": &hasp.TimeoutError{Last: errors.New(" ")}, "line end": errors.New("\n"),
	} {
		got := (&hasp.Error{Op: "release", Key: "k", Err: err}).Error()
		if strings.HasSuffix(strings.TrimSpace(got), ":") {
			t.Errorf("%s: %q ends too soon", name, got)
		}
	}
}

func TestCanceledTextsArePrintable(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		acquire(t, locker(t, store.Client(), &hasp.Options{Owner: "x\n\x1b\u202e"}), "k")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("\u202e\n"))
		defer cancel()
		_, err := locker(t, store.Client(), nil).Acquire(ctx, "k")
		want := `hasp: acquire "k": gave up after 1s: \u202e: held by x\n\x1b\u202e (host `
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got  %q\nwant %q", err, want)
		}
	})
}

// Several errors of Close are one line too, each with its operation and key.
func TestCloseErrorsAreOneLine(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := hasp.New(badClose{store.Client()}, nil)
		acquire(t, l, "a")
		acquire(t, l, "b")
		store.Inject(memlock.OpRelease, "", memlock.Fault{Err: errors.New("permission denied"), Times: -1})
		err := l.Close()
		if err == nil || strings.ContainsAny(err.Error(), "\n\t*") {
			t.Fatalf("got %q", err)
		}
		for _, want := range []string{`hasp: release "a": permission denied`, `hasp: release "b": permission denied`, "; hasp: close: disk full"} {
			if strings.Count(err.Error(), want) != 1 {
				t.Errorf("%q does not have %q once", err, want)
			}
		}
	})
}

// What goes wrong with the release alone is what Do returns, and not a list of one.
func TestDoReturnsTheReleasesError(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		err := hasp.Do(t.Context(), l, "k", func(context.Context, *hasp.Lease) error {
			store.Forget("k")
			return nil
		})
		mustMatch(t, err, hasp.ErrLost)
		if e, ok := err.(*hasp.Error); !ok || e.Op != "release" || e.Key != "k" {
			t.Errorf("got %T: %v", err, err)
		}
	})
}
