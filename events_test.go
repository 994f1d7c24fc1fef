package hasp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

// Each Acquire that fails has one event, which says what Acquire returns.
func TestEventOfAFailedAcquire(t *testing.T) {
	held := func(t *testing.T, s *memlock.Store, _ hasp.Locker) {
		acquire(t, locker(t, s.Client(), &hasp.Options{Owner: "trainer-7"}), "k")
	}
	own := func(t *testing.T, _ *memlock.Store, l hasp.Locker) { acquire(t, l, "k") }
	silent := func(_ *testing.T, s *memlock.Store, _ hasp.Locker) {
		s.Inject(memlock.OpAcquire, "", memlock.Fault{Err: backend.Unavailable(errWork), Times: -1})
	}
	for name, tc := range map[string]struct {
		before   func(*testing.T, *memlock.Store, hasp.Locker)
		key      string
		try      bool
		timeout  time.Duration // of the context; below 0: it has ended before
		closing  bool          // the Locker is closed after 7 s
		matches  []error
		attempts int // -1: any number
		waited   time.Duration
		blocker  string
	}{
		"refused":            {before: held, try: true, matches: []error{hasp.ErrHeld}, attempts: 1, blocker: "trainer-7"},
		"refused by its own": {before: own, try: true, matches: []error{hasp.ErrHeld}, attempts: 1, blocker: "me"},
		"refused with an error": {before: func(_ *testing.T, s *memlock.Store, _ hasp.Locker) {
			s.Inject(memlock.OpAcquire, "", memlock.Fault{Err: errWork})
		}, matches: []error{errWork}, attempts: 1},
		"timed out":                    {before: held, matches: []error{hasp.ErrTimeout, hasp.ErrHeld}, attempts: 5, waited: 30 * time.Second, blocker: "trainer-7"},
		"timed out behind its own":     {before: own, matches: []error{hasp.ErrTimeout, hasp.ErrHeld}, attempts: 4, waited: 30 * time.Second, blocker: "me"},
		"cancelled":                    {before: held, timeout: 5 * time.Second, matches: []error{context.DeadlineExceeded, hasp.ErrHeld}, attempts: 2, waited: 5 * time.Second, blocker: "trainer-7"},
		"cancelled behind its own":     {before: own, timeout: 5 * time.Second, matches: []error{context.DeadlineExceeded, hasp.ErrHeld}, attempts: 1, waited: 5 * time.Second, blocker: "me"},
		"cancelled before":             {timeout: -1, matches: []error{context.DeadlineExceeded}},
		"unavailable":                  {before: silent, try: true, matches: []error{hasp.ErrUnavailable}, attempts: 1},
		"unavailable for long":         {before: silent, matches: []error{hasp.ErrUnavailable, errWork}, attempts: -1, waited: 11 * time.Second},
		"closed while it waits":        {before: held, closing: true, matches: []error{hasp.ErrClosed}, attempts: 2, waited: 7 * time.Second},
		"closed while it waits inside": {before: own, closing: true, matches: []error{hasp.ErrClosed}, attempts: 1, waited: 7 * time.Second},
		"bad key":                      {key: "\x00", matches: []error{hasp.ErrInvalidKey}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				var rec recorder
				l := locker(t, store.Client(), &hasp.Options{RetryInterval: 10 * time.Second, MaxRetries: 3, Owner: "me", Observer: rec.observe})
				if tc.before != nil {
					tc.before(t, store, l)
				}
				rec.of()
				rec.events, rec.times = nil, nil
				ctx := t.Context()
				if tc.timeout != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.timeout)
					defer cancel()
				}
				key := "k"
				if tc.key != "" {
					key = tc.key
				}
				if tc.closing {
					time.AfterFunc(7*time.Second, func() { _ = l.Close() })
				}
				var err error
				if tc.try {
					_, err = l.TryAcquire(ctx, key)
				} else {
					_, err = l.Acquire(ctx, key)
				}
				mustMatch(t, err, tc.matches...)
				es, _ := rec.of(hasp.EventFailed)
				if len(es) != 1 {
					t.Fatalf("%d events of failure, want 1: %+v", len(es), es)
				}
				e := es[0]
				if e.Key != key || e.Err == nil || err.Error() != e.Err.Error() {
					t.Errorf("%+v, and Acquire returned %v", e, err)
				}
				mustMatch(t, e.Err, tc.matches...)
				if e.Blocker.Holder.Owner != tc.blocker || (tc.blocker == "") != (e.Blocker.State == "") {
					t.Errorf("blocker %+v, want %q", e.Blocker, tc.blocker)
				}
				if e.Attempt != tc.attempts && tc.attempts >= 0 {
					t.Errorf("attempt %d, want %d", e.Attempt, tc.attempts)
				}
				within(t, "waited", e.Waited, tc.waited*9/10, tc.waited)
				attempts, _ := rec.of(hasp.EventAttempt)
				for i, a := range attempts {
					if a.Attempt != i+1 || a.Acquire != e.Acquire {
						t.Errorf("event %d of attempts: %+v", i+1, a)
					}
				}
				if len(attempts) != e.Attempt {
					t.Errorf("%d attempts have an event, and the last says %d", len(attempts), e.Attempt)
				}
				var te *hasp.TimeoutError
				if errors.As(err, &te) && te.Attempts != e.Attempt {
					t.Errorf("the error counts %d attempts, and the event %d", te.Attempts, e.Attempt)
				}
			})
		})
	}
}

// gauge counts what an operator wants to see, by events alone.
type gauge struct {
	mu                        sync.Mutex
	waiting                   map[uint64]bool
	holding, acquired, failed int
}

func (g *gauge) observe(e hasp.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Kind {
	case hasp.EventWaiting:
		g.waiting[e.Acquire] = true
	case hasp.EventAcquired:
		delete(g.waiting, e.Acquire)
		g.holding++
		g.acquired++
	case hasp.EventFailed:
		delete(g.waiting, e.Acquire)
		g.failed++
	case hasp.EventReleased:
		g.holding--
	}
}

func (g *gauge) must(t *testing.T, when string, waiting, holding, acquired, failed int) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) != waiting || g.holding != holding || g.acquired != acquired || g.failed != failed {
		t.Errorf("%s: %d wait, %d are held, %d were acquired, %d failed; want %d, %d, %d, %d", when,
			len(g.waiting), g.holding, g.acquired, g.failed, waiting, holding, acquired, failed)
	}
}

func TestWaitersCanBeCounted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		g := &gauge{waiting: map[uint64]bool{}}
		l := locker(t, store.Client(), &hasp.Options{RetryInterval: time.Minute, MaxRetries: hasp.Unlimited, Observer: g.observe})
		other := acquire(t, locker(t, store.Client(), nil), "theirs")
		own := acquire(t, l, "own")
		g.must(t, "at first", 0, 1, 1, 0)
		if _, err := l.TryAcquire(t.Context(), "own"); err == nil {
			t.Error("held twice")
		}
		g.must(t, "after a refusal", 0, 1, 1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		for range 10 {
			acquiring(ctx, l, "own")
			acquiring(ctx, l, "theirs")
		}
		a, b := acquiring(t.Context(), l, "own"), acquiring(t.Context(), l, "theirs")
		time.Sleep(time.Hour)
		g.must(t, "in a crowd", 22, 1, 1, 1)
		cancel()
		g.must(t, "when most are cancelled", 2, 1, 1, 21)
		release(t, own)
		release(t, (<-a).lease)
		release(t, other)
		release(t, (<-b).lease)
		g.must(t, "at the end", 0, 0, 3, 21)
	})
}

// blocked is what does not come back: a log into a full pipe.
type blocked struct {
	first chan struct{} // closed when it is called
	once  sync.Once
	end   chan struct{}
}

func newBlocked() *blocked { return &blocked{first: make(chan struct{}), end: make(chan struct{})} }

func (b *blocked) block() {
	b.once.Do(func() { close(b.first) })
	<-b.end
}

func (b *blocked) Write(p []byte) (int, error) {
	b.block()
	return len(p), nil
}

func TestBlockedObserverHoldsUpNothing(t *testing.T) {
	for _, kind := range []string{"observer", "logger"} {
		t.Run(kind, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				stuck := newBlocked()
				var rec recorder
				opts := &hasp.Options{TTL: 30 * time.Second, MaxRetries: hasp.Unlimited}
				if kind == "observer" {
					opts.Observer = func(hasp.Event) { stuck.block() }
				} else {
					opts.Logger = slog.New(slog.NewTextHandler(stuck, nil))
					opts.Observer = rec.observe // which hears all the same
				}
				store := memlock.New()
				l := hasp.New(warns{store.Client()}, opts)
				<-stuck.first
				start := time.Now()
				le := acquire(t, l, "k")
				waiter := acquiring(t.Context(), l, "k")
				if d := time.Since(start); d != 0 {
					t.Errorf("Acquire took %v", d)
				}
				time.Sleep(10 * time.Minute)
				if err := le.Err(); err != nil {
					t.Fatalf("heartbeats stood still: %v", err)
				}
				// what is lost is known at once
				store.Forget("k")
				<-le.Done()
				within(t, "loss was noticed after", time.Since(start), 10*time.Minute, 10*time.Minute+10*time.Second)
				next := <-waiter
				if next.err != nil {
					t.Fatal(next.err)
				}
				start = time.Now()
				release(t, next.lease)
				if d := time.Since(start); d != 0 {
					t.Errorf("Release took %v", d)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				within(t, "Close took", time.Since(start), 0, time.Second)
				if kind == "logger" && rec.count(hasp.EventAcquired) != 2 {
					t.Error("the observer waited for the logger")
				}
				close(stuck.end)
			})
		})
	}
}

// Who is slow is told everything, in order, before Close returns.
func TestCloseTellsWhatHasNotBeenTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var got []string
		l := hasp.New(memlock.New().Client(), &hasp.Options{Observer: func(e hasp.Event) {
			time.Sleep(10 * time.Millisecond)
			got = append(got, fmt.Sprintf("%s %s", e.Kind, e.Key))
		}})
		var want []string
		for i := range 10 {
			key := fmt.Sprint("key ", i)
			release(t, acquire(t, l, key))
			for _, kind := range []hasp.EventKind{hasp.EventAttempt, hasp.EventAcquired, hasp.EventReleased} {
				want = append(want, fmt.Sprintf("%s %s", kind, key))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
			t.Errorf("told\n%s\nwant\n%s", g, w)
		}
	})
}

// After Close nothing is told any more, though there would be something.
func TestCloseLeavesASlowObserverBehind(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var mu sync.Mutex
		told := 0
		l := hasp.New(memlock.New().Client(), &hasp.Options{Observer: func(hasp.Event) {
			mu.Lock()
			told++
			mu.Unlock()
			time.Sleep(300 * time.Millisecond)
		}})
		for range 100 {
			release(t, acquire(t, l, "k"))
		}
		start := time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("Close took %v, want 1s", d)
		}
		mu.Lock()
		n := told
		mu.Unlock()
		time.Sleep(time.Hour)
		if told != n || n > 5 {
			t.Errorf("told of %d events until Close, and of %d after it", n, told-n)
		}
	})
}

// The memory of events that wait has a bound, and what is dropped is told of.
func TestEventsThatAreTooMany(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		stuck := newBlocked()
		var events []hasp.Event
		l := hasp.New(warns{memlock.New().Client()}, &hasp.Options{Observer: func(e hasp.Event) {
			stuck.block()
			events = append(events, e)
		}})
		<-stuck.first // it has the warning
		const rounds, room = 30000, 1 << 16
		for range rounds {
			release(t, acquire(t, l, "k"))
		}
		close(stuck.end)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if len(events) != 1+room+1 {
			t.Fatalf("%d events were told", len(events))
		}
		last := events[len(events)-1]
		if want := fmt.Sprintf("%d events were dropped", 3*rounds-room); last.Kind != hasp.EventWarning || !strings.Contains(last.Err.Error(), want) {
			t.Errorf("the last one is %+v, want a warning that %s", last, want)
		}
		for i, e := range events[1 : 1+room] {
			if want := []hasp.EventKind{hasp.EventAttempt, hasp.EventAcquired, hasp.EventReleased}[i%3]; e.Kind != want || e.Acquire != 0 && e.Acquire != uint64(i/3+1) {
				t.Fatalf("event %d is %+v, want %s", i, e, want)
			}
		}
	})
}

// An event has the time of what happened, not of its telling.
func TestEventsHaveTheirTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		stuck := newBlocked()
		var events []hasp.Event
		var out strings.Builder
		l := hasp.New(warns{memlock.New().Client()}, &hasp.Options{
			Observer: func(e hasp.Event) { stuck.block(); events = append(events, e) },
			Logger: slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
				stuck.block()
				return out.Write(p)
			}), nil)),
		})
		time.Sleep(time.Second)
		at := time.Now()
		le := acquire(t, l, "k")
		time.Sleep(time.Second)
		close(stuck.end)
		release(t, le)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if len(events) != 4 || !events[2].Time.Equal(at) || !events[3].Time.Equal(at.Add(time.Second)) {
			t.Errorf("%+v, want one of acquiring at %v", events, at)
		}
		if want := "time=" + at.Format("2006-01-02T15:04:05.000Z07:00") + ` level=INFO msg="hasp: acquired"`; !strings.Contains(out.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, out.String())
		}
	})
}

// An observer may use the Locker that it observes.
func TestObserverMayCallTheLocker(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var l hasp.Locker
		seen := make(chan backend.Record, 1)
		l = locker(t, store.Client(), &hasp.Options{Observer: func(e hasp.Event) {
			if e.Kind == hasp.EventFailed && e.Key == "k" {
				rec, _ := l.Inspect(context.Background(), "k")
				release(t, acquire(t, l, "another"))
				seen <- rec
			}
		}})
		le := acquire(t, l, "k")
		_, err := l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrHeld)
		if rec := <-seen; rec.Token != le.Token() {
			t.Errorf("inspected %s", rec)
		}
	})
}
