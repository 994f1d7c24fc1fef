package hasp_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestListAndBreak(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: time.Minute})
		holder := locker(t, store.Client(), &hasp.Options{TTL: time.Minute})
		le := acquire(t, holder, "jobs/b")
		acquire(t, holder, "jobs/a")
		acquire(t, holder, "other")
		rs, err := l.List(t.Context(), "jobs/")
		var keys []string
		for _, r := range rs {
			keys = append(keys, r.Key)
		}
		if err != nil || !slices.Equal(keys, []string{"jobs/a", "jobs/b"}) {
			t.Errorf("%v, %v", keys, err)
		}
		if rs, err := l.List(t.Context(), ""); err != nil || len(rs) != 3 {
			t.Errorf("%v, %v", rs, err)
		}

		err = l.Break(t.Context(), "jobs/b", le.Token()+1)
		mustMatch(t, err, hasp.ErrHeld)
		mustState(t, store, "jobs/b", hasp.Held)
		if err := l.Break(t.Context(), "jobs/b", le.Token()); err != nil {
			t.Error(err)
		}
		<-le.Done()
		mustMatch(t, le.Err(), hasp.ErrLost)
		err = l.Break(t.Context(), "jobs/b", le.Token())
		mustMatch(t, err, hasp.ErrNotHeld)
		if want := `hasp: break "jobs/b": lock is not held`; err.Error() != want {
			t.Errorf("got %s, want %s", err, want)
		}
	})
}

// bare is a backend with none of the optional interfaces.
type bare struct{ backend.Backend }

type warning struct{ bare }

func (warning) Warnings() []string { return []string{"the mount is soft"} }

func TestOperatorsVerbsOnAStoreWithoutThem(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := locker(t, bare{memlock.New().Client()}, nil)
		_, err := l.List(t.Context(), "")
		mustMatch(t, err, hasp.ErrUnsupported)
		mustMatch(t, l.Break(t.Context(), "k", 1), hasp.ErrUnsupported)
		if ws := l.Warnings(); ws != nil {
			t.Errorf("warnings %q", ws)
		}
		l = locker(t, warning{bare{memlock.New().Client()}}, nil)
		if ws := l.Warnings(); !slices.Equal(ws, []string{"the mount is soft"}) {
			t.Errorf("warnings %q", ws)
		}
	})
}

// They end with their context, with the request timeout and with Close, as every call.
func TestOperatorsVerbsEnd(t *testing.T) {
	verbs := map[string]func(context.Context, hasp.Locker) error{
		"inspect": func(ctx context.Context, l hasp.Locker) error { _, err := l.Inspect(ctx, "k"); return err },
		"list":    func(ctx context.Context, l hasp.Locker) error { _, err := l.List(ctx, "k"); return err },
		"break":   func(ctx context.Context, l hasp.Locker) error { return l.Break(ctx, "k", 1) },
	}
	for name, verb := range verbs {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				l := locker(t, store.Client(), &hasp.Options{RequestTimeout: 7 * time.Second})
				store.Inject(memlock.OpAny, "", memlock.Fault{Delay: time.Hour, Times: -1})
				start := time.Now()
				mustMatch(t, verb(t.Context(), l), context.DeadlineExceeded)
				within(t, "it took", time.Since(start), 7*time.Second, 7*time.Second)

				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				start = time.Now()
				mustMatch(t, verb(ctx, l), context.DeadlineExceeded)
				within(t, "it took", time.Since(start), 3*time.Second, 3*time.Second)

				time.AfterFunc(time.Second, func() { _ = l.Close() })
				mustMatch(t, verb(t.Context(), l), hasp.ErrClosed)
				mustMatch(t, verb(t.Context(), l), hasp.ErrClosed)
				var e *hasp.Error
				if err := verb(t.Context(), l); !errors.As(err, &e) || e.Op != name || e.Key != "k" {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
