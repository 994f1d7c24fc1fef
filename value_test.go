package hasp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// mustValue fails unless l finds this value, "none" standing for none.
func mustValue(t *testing.T, l hasp.Locker, key, want string) {
	t.Helper()
	got, err := l.Value(context.Background(), key)
	switch {
	case errors.Is(err, hasp.ErrNoValue):
		if want != "none" {
			t.Errorf("%q has no value, want %q", key, want)
		}
	case err != nil || string(got) != want || got == nil:
		t.Errorf("%q has the value %q, error %v, want %q", key, got, err, want)
	}
}

func set(t *testing.T, le *hasp.Lease, value string) {
	t.Helper()
	if err := le.SetValue(context.Background(), []byte(value)); err != nil {
		t.Errorf("set value: %v", err)
	}
}

func TestValueIsFoundByOthers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l, other := locker(t, store.Client(), nil), locker(t, store.Client(), nil)
		mustValue(t, other, "k", "none")
		le := acquire(t, l, "k")
		mustValue(t, other, "k", "none")
		set(t, le, "first")
		mustValue(t, other, "k", "first")
		set(t, le, "")
		mustValue(t, other, "k", "")
		set(t, le, "last")
		release(t, le)
		mustValue(t, other, "k", "last")
		le = acquire(t, other, "k")
		mustValue(t, l, "k", "last")
		set(t, le, "next")
		mustValue(t, l, "k", "next")
		if err := le.DeleteValue(t.Context()); err != nil {
			t.Error(err)
		}
		mustValue(t, l, "k", "none")
		set(t, le, "again")
		mustValue(t, l, "k", "again")
	})
}

// valueStub is a backend that sets values as a test says.
type valueStub struct {
	stub
	set func(context.Context, backend.Grant, backend.Value) (backend.Grant, error)
}

func (s *valueStub) Value(ctx context.Context, key string) (backend.Value, error) {
	return backend.ReadValue(ctx, s.Backend, key)
}
func (s *valueStub) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	if s.set != nil {
		return s.set(ctx, g, v)
	}
	return backend.SetValue(ctx, s.Backend, g, v)
}
func (s *valueStub) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	return backend.ListValues(ctx, s.Backend, prefix)
}

// A grant is the backend's to change: no two requests may hold one at once. And a
// heartbeat that came due meanwhile is not left out.
func TestValuesAndHeartbeatsTakeTurns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := memlock.New().Client()
		var busy atomic.Int32
		var renewals, state atomic.Int64
		one := func(g backend.Grant) backend.Grant {
			if busy.Add(1) != 1 {
				t.Error("two requests at once for one grant")
			}
			time.Sleep(700 * time.Millisecond)
			if n, _ := g.State.(int64); n != state.Load() {
				t.Errorf("the request came with the grant of request %d, after request %d", n, state.Load())
			}
			g.State = state.Add(1)
			busy.Add(-1)
			return g
		}
		var last backend.Value
		b := &valueStub{stub: stub{Backend: c}}
		b.renew = func(ctx context.Context, g backend.Grant) (backend.Grant, error) {
			renewals.Add(1)
			g = one(g)
			_, err := c.Renew(ctx, g)
			return g, err
		}
		b.set = func(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
			g = one(g)
			if v.Compare(last) <= 0 || v.Token != g.Token {
				t.Errorf("token %d, sequence %d after %d, %d", v.Token, v.Seq, last.Token, last.Seq)
			}
			last = v
			_, err := c.SetValue(ctx, g, v)
			return g, err
		}
		le := acquire(t, locker(t, b, &hasp.Options{TTL: 6 * time.Second}), "k")
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := range 100 {
					set(t, le, fmt.Sprint(i, n))
				}
			})
		}
		wg.Wait()
		if err := le.Err(); err != nil {
			t.Errorf("the lease was lost beside values: %v", err)
		}
		if n := renewals.Load(); n < 100 {
			t.Errorf("%d heartbeats in 280 s and more, due every 2 s", n)
		}
	})
}

func TestSetValueAsksAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{MaxUnavailable: time.Minute})
		le := acquire(t, l, "k")
		for name, f := range map[string]memlock.Fault{
			"lost replies":        {LoseReply: backend.Unavailable(errors.New("reset")), Times: 3},
			"refused":             {Err: backend.Unavailable(errors.New("refused")), Times: 3},
			"too late for itself": {Delay: time.Minute, Times: 1},
		} {
			store.Inject(memlock.OpSetValue, "k", f)
			before := store.Count(memlock.OpSetValue)
			set(t, le, name)
			mustValue(t, l, "k", name)
			if n := store.Count(memlock.OpSetValue) - before; n != f.Times+1 {
				t.Errorf("%s: %d requests", name, n)
			}
		}
	})
}

func TestSetValueGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{MaxUnavailable: 7 * time.Second})
		le := acquire(t, l, "k")
		set(t, le, "before")
		remove := store.Inject(memlock.OpSetValue, "k", memlock.Fault{Err: backend.Unavailable(errors.New("full")), Times: -1})
		start := time.Now()
		err := le.SetValue(t.Context(), []byte("x"))
		mustMatch(t, err, hasp.ErrUnavailable)
		within(t, "patience", time.Since(start), 7*time.Second, 8*time.Second)
		if !strings.Contains(err.Error(), `hasp: set value "k": `) || !strings.Contains(err.Error(), "full") {
			t.Errorf("%q", err)
		}
		start = time.Now()
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		err = le.SetValue(ctx, []byte("x"))
		mustMatch(t, err, context.DeadlineExceeded, why)
		within(t, "context", time.Since(start), time.Second, time.Second)
		n := store.Count(memlock.OpSetValue)
		mustMatch(t, le.SetValue(ctx, []byte("x")), context.DeadlineExceeded, why)
		if store.Count(memlock.OpSetValue) != n {
			t.Error("asked although the context has ended")
		}
		remove()
		if err := le.Err(); err != nil {
			t.Errorf("the lease: %v", err)
		}
		mustValue(t, l, "k", "before")
		set(t, le, "after")
		mustValue(t, l, "k", "after")
	})
}

// A call that hangs keeps heartbeats from its grant, so the lease ends by its
// deadline, and the caller when it wants to.
func TestSetValueHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		hang := make(chan struct{})
		l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second})
		le := acquire(t, l, "k")
		store.Inject(memlock.OpSetValue, "k", memlock.Fault{Hang: hang})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		mustMatch(t, le.SetValue(ctx, []byte("hung")), context.DeadlineExceeded, hasp.ErrUnavailable)
		within(t, "return", time.Since(start), 2*time.Second, 2200*time.Millisecond)
		n := store.Count(memlock.OpRenew)
		err := le.SetValue(context.Background(), []byte("next"))
		mustMatch(t, err, hasp.ErrUnavailable)
		within(t, "second return", time.Since(start), 12*time.Second, 13*time.Second)
		<-le.Done()
		mustMatch(t, le.Err(), hasp.ErrLost)
		if store.Count(memlock.OpRenew) != n || store.Count(memlock.OpSetValue) != 1 {
			t.Error("a request beside the one that hangs")
		}
		next := acquire(t, locker(t, store.Client(), nil), "k")
		close(hang)
		synctest.Wait()
		mustValue(t, l, "k", "none")
		release(t, next)
	})
}

// While one hangs for less than that, the lease lives: the heartbeat follows at once.
func TestHeartbeatFollowsASlowSetValue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, RequestTimeout: 25 * time.Second})
		le := acquire(t, l, "k")
		for range 20 {
			store.Inject(memlock.OpSetValue, "k", memlock.Fault{Delay: 12 * time.Second})
			set(t, le, "slow")
		}
		if err := le.Err(); err != nil {
			t.Error(err)
		}
		if n := store.Count(memlock.OpRenew); n < 19 {
			t.Errorf("%d heartbeats in 240 s", n)
		}
	})
}

func TestSetValueOfALostLease(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		client := store.Client()
		l := locker(t, plainValues{client}, nil) // which is not told of a break
		le := acquire(t, l, "k")
		set(t, le, "before")
		if err := store.Client().Break(t.Context(), "k", le.Token()); err != nil {
			t.Fatal(err)
		}
		if le.Err() != nil {
			t.Fatal("told of the break")
		}
		mustMatch(t, le.SetValue(t.Context(), []byte("late")), hasp.ErrLost)
		mustMatch(t, le.Err(), hasp.ErrLost)
		if !closed(le.Done()) {
			t.Error("Done is open")
		}
		n := store.Count(memlock.OpSetValue)
		mustMatch(t, le.SetValue(t.Context(), []byte("late")), hasp.ErrLost)
		mustMatch(t, le.DeleteValue(t.Context()), hasp.ErrLost)
		if store.Count(memlock.OpSetValue) != n {
			t.Error("asked for a lease that is lost")
		}
		mustValue(t, l, "k", "before")
	})
}

// plainValues hides what a backend can do beside values.
type plainValues struct{ c *memlock.Client }

func (p plainValues) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	return p.c.Acquire(ctx, key, c)
}
func (p plainValues) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	return p.c.Renew(ctx, g)
}
func (p plainValues) Release(ctx context.Context, g backend.Grant) error { return p.c.Release(ctx, g) }
func (p plainValues) Inspect(ctx context.Context, key string) (backend.Record, error) {
	return p.c.Inspect(ctx, key)
}
func (p plainValues) Close() error { return p.c.Close() }
func (p plainValues) Value(ctx context.Context, key string) (backend.Value, error) {
	return p.c.Value(ctx, key)
}
func (p plainValues) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	return p.c.SetValue(ctx, g, v)
}
func (p plainValues) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	return p.c.ListValues(ctx, prefix)
}

// If the answer is lost and then the lease, nobody knows whether the value was set
// in between: the error says both.
func TestSetValueOfUnknownOutcome(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for name, set := range map[string]bool{"set": true, "not set": false} {
			store := memlock.New()
			client := store.Client()
			l := locker(t, client, &hasp.Options{TTL: 30 * time.Second, MaxUnavailable: time.Hour})
			le := acquire(t, l, "k")
			if set {
				store.Inject(memlock.OpSetValue, "k", memlock.Fault{LoseReply: backend.Unavailable(errors.New("reset"))})
			} else {
				store.Inject(memlock.OpSetValue, "k", memlock.Fault{Err: backend.Unavailable(errors.New("reset"))})
			}
			time.AfterFunc(10*time.Millisecond, func() { client.Partition(true) })
			start := time.Now()
			err := le.SetValue(context.Background(), []byte("x"))
			mustMatch(t, err, hasp.ErrLost, hasp.ErrUnavailable)
			within(t, name, time.Since(start), 26*time.Second, 28*time.Second)
			client.Partition(false)
			want := map[bool]string{true: "x", false: "none"}[set]
			mustValue(t, l, "k", want)
		}
		// definite: lost, and never asked without an answer
		store := memlock.New()
		le := acquire(t, locker(t, plainValues{store.Client()}, nil), "k")
		store.Forget("k")
		if err := le.SetValue(t.Context(), nil); !errors.Is(err, hasp.ErrLost) || errors.Is(err, hasp.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	})
}

func TestSetValueAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		le := acquire(t, l, "k")
		release(t, le)
		mustMatch(t, le.SetValue(t.Context(), []byte("x")), hasp.ErrReleased)
		held := acquire(t, l, "k")
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		mustMatch(t, held.SetValue(t.Context(), []byte("x")), hasp.ErrReleased)
		_, err := l.Value(t.Context(), "k")
		mustMatch(t, err, hasp.ErrClosed)
		if store.Count(memlock.OpSetValue) != 0 || store.Count(memlock.OpValue) != 0 {
			t.Error("asked after the end")
		}
	})
}

// Close ends what waits for a store that is away.
func TestCloseEndsSetValueAndValue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		client := store.Client()
		l := locker(t, client, &hasp.Options{MaxUnavailable: time.Hour})
		le := acquire(t, l, "k")
		client.Partition(true)
		start := time.Now()
		ends := make(chan error, 2)
		go func() { ends <- le.SetValue(context.Background(), []byte("x")) }()
		go func() { _, err := l.Value(context.Background(), "k"); ends <- err }()
		shut := make(chan struct{})
		time.AfterFunc(3*time.Second, func() { defer close(shut); _ = l.Close() })
		for range 2 {
			err := <-ends
			if !errors.Is(err, hasp.ErrClosed) && !errors.Is(err, hasp.ErrReleased) {
				t.Errorf("%v", err)
			}
			within(t, "end", time.Since(start), 3*time.Second, 3200*time.Millisecond)
		}
		<-shut
	})
}

func TestValueTooLong(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		le := acquire(t, l, "k")
		longest := bytes.Repeat([]byte("x"), hasp.MaxValueLen)
		set(t, le, string(longest))
		n := store.Count(memlock.OpSetValue)
		err := le.SetValue(t.Context(), append(longest, 'x'))
		if err == nil || err.Error() != `hasp: set value "k": value of 65537 bytes: 65536 is the limit` {
			t.Errorf("%v", err)
		}
		if store.Count(memlock.OpSetValue) != n || le.Err() != nil {
			t.Errorf("asked, or lost: %v", le.Err())
		}
		mustValue(t, l, "k", string(longest))
		set(t, le, "after")
		mustValue(t, l, "k", "after")
	})
}

func TestValueIsCopied(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		l := locker(t, store.Client(), nil)
		le := acquire(t, l, "k")
		hang := make(chan struct{})
		store.Inject(memlock.OpSetValue, "k", memlock.Fault{Hang: hang})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		data := []byte("mine")
		_ = le.SetValue(ctx, data)
		copy(data, "else")
		close(hang)
		synctest.Wait()
		mustValue(t, l, "k", "mine")
	})
}

func TestValueAsksAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		client := store.Client()
		l := locker(t, client, nil)
		set(t, acquire(t, l, "k"), "x")
		store.Inject(memlock.OpValue, "k", memlock.Fault{Err: backend.Unavailable(errors.New("away")), Times: 3})
		mustValue(t, l, "k", "x")
		store.Inject(memlock.OpValue, "k", memlock.Fault{Err: errors.New("no permission"), Times: 1})
		if _, err := l.Value(t.Context(), "k"); err == nil || err.Error() != `hasp: value "k": no permission` {
			t.Errorf("%v", err)
		}
		client.Partition(true)
		start := time.Now()
		_, err := l.Value(t.Context(), "k")
		mustMatch(t, err, hasp.ErrUnavailable)
		within(t, "patience", time.Since(start), 10*time.Second, 12*time.Second)
		client.Partition(false)
		_, err = l.Value(t.Context(), "a\nb")
		mustMatch(t, err, hasp.ErrInvalidKey)
	})
}

// valueless has the methods, and says that they do nothing.
type valueless struct{ *memlock.Client }

func (valueless) Has(c backend.Capability) bool { return c != backend.CapValues }

func TestValuesAreUnsupported(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for _, b := range []backend.Backend{plain{memlock.New().Client()}, valueless{memlock.New().Client()}} {
			l := locker(t, b, nil)
			le := acquire(t, l, "k")
			mustMatch(t, le.SetValue(t.Context(), nil), hasp.ErrUnsupported)
			mustMatch(t, le.DeleteValue(t.Context()), hasp.ErrUnsupported)
			release(t, le)
			_, err := l.Value(t.Context(), "k")
			mustMatch(t, err, hasp.ErrUnsupported)
			value, ran, err := hasp.OnceValue(t.Context(), l, "k", func(context.Context, *hasp.Lease) ([]byte, error) {
				t.Error("run, and its value cannot be kept")
				return nil, nil
			})
			mustMatch(t, err, hasp.ErrUnsupported)
			if ran || value != nil {
				t.Errorf("ran %v, value %q", ran, value)
			}
		}
	})
}

func TestOnceValue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var wg sync.WaitGroup
		var runs atomic.Int32
		for i := range 20 {
			l := locker(t, store.Client(), nil)
			wg.Go(func() {
				value, ran, err := hasp.OnceValue(t.Context(), l, "k", func(ctx context.Context, le *hasp.Lease) ([]byte, error) {
					time.Sleep(time.Minute)
					runs.Add(1)
					return []byte("decided"), nil
				})
				if err != nil || string(value) != "decided" {
					t.Errorf("process %d: %q, ran %v, %v", i, value, ran, err)
				}
			})
		}
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
		n := store.Count(memlock.OpAcquire)
		if value, ran, err := hasp.OnceValue(t.Context(), locker(t, store.Client(), nil), "k", nil); string(value) != "decided" || ran || err != nil {
			t.Errorf("later: %q, ran %v, %v", value, ran, err)
		}
		if store.Count(memlock.OpAcquire) != n {
			t.Error("took the lock to read what is decided")
		}
		mustState(t, store, "k", backend.Free)
	})
}

func TestOnceValueThatFails(t *testing.T) {
	wrong := errors.New("wrong")
	for name, c := range map[string]struct {
		fault func(*memlock.Store, *hasp.Lease)
		fn    error
		want  []error
		value string // returned
		kept  string
	}{
		"fn fails": {fn: wrong, want: []error{wrong}, value: "none", kept: "none"},
		"the lock is broken": {
			fault: func(s *memlock.Store, le *hasp.Lease) { _ = s.Client().Break(context.Background(), "k", le.Token()) },
			want:  []error{hasp.ErrLost}, value: "none", kept: "none",
		},
		"fn fails since the lock is broken": {
			fault: func(s *memlock.Store, le *hasp.Lease) { _ = s.Client().Break(context.Background(), "k", le.Token()) },
			fn:    wrong, want: []error{hasp.ErrLost, wrong}, value: "none", kept: "none",
		},
		"setting has no answer": {
			fault: func(s *memlock.Store, _ *hasp.Lease) {
				s.Inject(memlock.OpSetValue, "k", memlock.Fault{LoseReply: backend.Unavailable(wrong), Times: -1})
			},
			want: []error{hasp.ErrUnavailable, wrong}, value: "none", kept: "decided",
		},
		"setting is refused": {
			fault: func(s *memlock.Store, _ *hasp.Lease) {
				s.Inject(memlock.OpSetValue, "k", memlock.Fault{Err: wrong})
			},
			want: []error{wrong}, value: "none", kept: "none",
		},
		"the release has no answer": {
			fault: func(s *memlock.Store, _ *hasp.Lease) {
				s.Inject(memlock.OpRelease, "k", memlock.Fault{Err: backend.Unavailable(wrong), Times: -1})
			},
			want: []error{hasp.ErrUnavailable}, value: "decided", kept: "decided",
		},
		"the store is away for a while": {
			fault: func(s *memlock.Store, _ *hasp.Lease) {
				s.Inject("", "k", memlock.Fault{Err: backend.Unavailable(wrong), Times: 4})
			},
			value: "decided", kept: "decided",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				l := locker(t, store.Client(), nil)
				value, ran, err := hasp.OnceValue(t.Context(), l, "k", func(ctx context.Context, le *hasp.Lease) ([]byte, error) {
					if c.fault != nil {
						c.fault(store, le)
					}
					return []byte("decided"), c.fn
				})
				if !ran || (err != nil) != (c.want != nil) {
					t.Errorf("ran %v, error %v", ran, err)
				}
				mustMatch(t, err, c.want...)
				if got := string(value); value == nil != (c.value == "none") || value != nil && got != c.value {
					t.Errorf("value %q, want %q", value, c.value)
				}
				mustValue(t, locker(t, store.Client(), nil), "k", c.kept)
			})
		})
	}
}

// What has no bytes is a value too.
func TestOnceValueOfNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		l := locker(t, memlock.New().Client(), nil)
		for i := range 2 {
			value, ran, err := hasp.OnceValue(t.Context(), l, "k", func(context.Context, *hasp.Lease) ([]byte, error) { return nil, nil })
			if value == nil || len(value) != 0 || ran != (i == 0) || err != nil {
				t.Errorf("%#v, ran %v, %v", value, ran, err)
			}
		}
	})
}
