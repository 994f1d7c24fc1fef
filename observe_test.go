package hasp_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestEventsOfALease(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var rec recorder
		l := locker(t, store.Client(), &hasp.Options{TTL: 30 * time.Second, Observer: rec.observe})
		le := acquire(t, l, "k")
		store.Inject(memlock.OpRenew, "k", memlock.Fault{Err: errWork})
		time.Sleep(15 * time.Second)
		release(t, le)
		es, _ := rec.of()
		kinds := make([]hasp.EventKind, len(es))
		for i, e := range es {
			kinds[i] = e.Kind
			if e.Key != "k" {
				t.Errorf("key %q in %+v", e.Key, e)
			}
			if i > 0 && e.Token != le.Token() {
				t.Errorf("token %d in %+v", e.Token, e)
			}
		}
		want := []hasp.EventKind{hasp.EventAttempt, hasp.EventAcquired, hasp.EventRenewalFailed, hasp.EventRenewed, hasp.EventReleased}
		if !slices.Equal(kinds, want) {
			t.Fatalf("events %q, want %q", kinds, want)
		}
		if es[0].Attempt != 1 || es[1].Attempt != 1 || es[1].Waited != 0 {
			t.Errorf("attempt %+v, acquired %+v", es[0], es[1])
		}
		mustMatch(t, es[2].Err, errWork)
		within(t, "margin at the failure", es[2].Margin, 17*time.Second, 18*time.Second)
		within(t, "margin at the renewal", es[3].Margin, 10*time.Second, es[2].Margin-time.Millisecond)
		if es[4].HeldFor != 15*time.Second || es[4].Err != nil {
			t.Errorf("released %+v", es[4])
		}
	})
}

func TestEventsOfWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		holder := acquire(t, locker(t, store.Client(), &hasp.Options{Owner: "trainer-7"}), "k")
		var rec recorder
		l := locker(t, plain{store.Client()}, &hasp.Options{RetryInterval: 10 * time.Second, MaxRetries: 3, Observer: rec.observe})
		got := acquiring(t.Context(), l, "k")
		time.Sleep(25 * time.Second)
		release(t, holder)
		le := (<-got).lease
		es, ts := rec.of(hasp.EventWaiting)
		if len(es) != 3 {
			t.Fatalf("%d waiting events, want 3", len(es))
		}
		for i, e := range es {
			if e.Attempt != i+1 || e.Blocker.Holder.Owner != "trainer-7" || e.Blocker.Token != holder.Token() || e.Err != nil {
				t.Errorf("%+v", e)
			}
			if waited := ts[i].Sub(ts[0]); e.Waited != waited || e.Left != 30*time.Second-waited {
				t.Errorf("waited %v, left %v; want %v, %v", e.Waited, e.Left, waited, 30*time.Second-waited)
			}
		}
		es, ts2 := rec.of(hasp.EventAcquired)
		if len(es) != 1 || es[0].Attempt != 4 || es[0].Waited != ts2[0].Sub(ts[0]) || es[0].Token != le.Token() {
			t.Errorf("acquired %+v", es)
		}
	})
}

func TestWaitingWithoutBoundAndWithoutAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		store.Inject(memlock.OpAcquire, "", memlock.Fault{Err: backend.Unavailable(errWork), Times: 2})
		var rec recorder
		release(t, acquire(t, locker(t, store.Client(), &hasp.Options{MaxRetries: hasp.Unlimited, Observer: rec.observe}), "k"))
		es, _ := rec.of(hasp.EventWaiting)
		if len(es) != 2 || es[0].Left != -1 || es[0].Blocker.State != "" {
			t.Fatalf("%+v", es)
		}
		mustMatch(t, es[0].Err, hasp.ErrUnavailable, errWork)
	})
}

func TestEventOfLoss(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var rec recorder
		l := locker(t, store.Client(), &hasp.Options{Observer: rec.observe})
		le := acquire(t, l, "k")
		time.Sleep(10 * time.Second)
		_ = store.Client().Break(t.Context(), "k", le.Token())
		_ = le.Release(t.Context())
		es, _ := rec.of(hasp.EventLost, hasp.EventReleased)
		if len(es) != 2 || es[0].Kind != hasp.EventLost || es[0].Token != le.Token() || es[0].HeldFor != 10*time.Second {
			t.Fatalf("%+v", es)
		}
		mustMatch(t, es[0].Err, hasp.ErrLost)
		mustMatch(t, es[1].Err, hasp.ErrLost)
	})
}

// An observer sees one holder's end before the next one's beginning.
func TestEventsComeInTheOrderOfWhatHappened(t *testing.T) {
	for _, lose := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost: %v", lose), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				var mu sync.Mutex
				var holder uint64
				l := locker(t, store.Client(), &hasp.Options{Observer: func(e hasp.Event) {
					if e.Kind == hasp.EventReleased || e.Kind == hasp.EventLost {
						time.Sleep(10 * time.Millisecond) // whoever may overtake does
					}
					mu.Lock()
					defer mu.Unlock()
					switch e.Kind {
					case hasp.EventAcquired:
						if holder != 0 {
							t.Errorf("%d acquired while %d had not ended", e.Token, holder)
						}
						holder = e.Token
					case hasp.EventReleased, hasp.EventLost:
						if e.Token == holder {
							holder = 0
						}
					}
				}})
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						le, err := l.Acquire(t.Context(), "k")
						if err != nil {
							t.Error(err)
							return
						}
						if lose {
							_ = store.Client().Break(t.Context(), "k", le.Token())
						}
						_ = le.Release(t.Context())
					})
				}
				wg.Wait()
			})
		})
	}
}

type warns struct{ backend.Backend }

func (warns) Warnings() []string { return []string{"the mount is soft"} }

func TestWarningsOfTheBackend(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var rec recorder
		locker(t, warns{memlock.New().Client()}, &hasp.Options{Observer: rec.observe})
		es, _ := rec.of()
		if len(es) != 1 || es[0].Kind != hasp.EventWarning || es[0].Err.Error() != "the mount is soft" {
			t.Errorf("%+v", es)
		}
	})
}

func TestWithdrawalThatFailsIsAWarning(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var rec recorder
		l := locker(t, store.Client(), &hasp.Options{Observer: rec.observe, RequestTimeout: time.Second})
		store.Inject(memlock.OpAcquire, "k", memlock.Fault{LoseReply: backend.Unavailable(errWork)})
		store.Inject(memlock.OpRelease, "k", memlock.Fault{Err: backend.Unavailable(errWork), Times: -1})
		_, err := l.TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrUnavailable)
		time.Sleep(time.Minute)
		synctest.Wait()
		es, _ := rec.of(hasp.EventWarning)
		if len(es) != 1 || !strings.Contains(es[0].Err.Error(), "could not be withdrawn; it expires after 5m0s") {
			t.Errorf("%+v", es)
		}
	})
}

func TestLog(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		store := memlock.New()
		var mu sync.Mutex
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return out.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
		holder := acquire(t, locker(t, store.Client(), &hasp.Options{Owner: "trainer-7"}), "k")
		l := locker(t, plain{store.Client()}, &hasp.Options{TTL: 30 * time.Second, Logger: log})
		got := acquiring(t.Context(), l, "k")
		time.Sleep(3 * time.Second)
		release(t, holder)
		le := (<-got).lease
		store.Inject(memlock.OpRenew, "k", memlock.Fault{Err: errors.New("out of order")})
		time.Sleep(14 * time.Second)
		store.Forget("k")
		<-le.Done()
		synctest.Wait() // the observer is told after those who wait for Done
		_ = le.Release(t.Context())
		if err := l.Close(); err != nil {
			t.Error(err)
		}

		want := []struct {
			level, msg string
			attrs      []string
		}{
			{"DEBUG", "hasp: attempt", []string{"attempt"}},
			{"INFO", "hasp: waiting", []string{"attempt", "waited", "blocker"}},
			{"DEBUG", "hasp: attempt", []string{"attempt"}},
			{"INFO", "hasp: acquired", []string{"attempt", "token", "waited"}},
			{"WARN", "hasp: renewal failed", []string{"token", "margin", "error"}},
			{"DEBUG", "hasp: renewed", []string{"token", "margin"}},
			{"ERROR", "hasp: lost", []string{"token", "held_for", "error"}},
			{"INFO", "hasp: released", []string{"token", "held_for", "error"}},
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), out.String())
		}
		for i, line := range lines {
			var rec map[string]any
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				t.Fatal(err)
			}
			if rec["level"] != want[i].level || rec["msg"] != want[i].msg || rec["key"] != "k" {
				t.Errorf("line %d: %s, want %s %q", i, line, want[i].level, want[i].msg)
			}
			for _, attr := range want[i].attrs {
				if v, ok := rec[attr]; !ok || v == "" {
					t.Errorf("line %d has no %s: %s", i, attr, line)
				}
			}
			if n := len(rec); n != 4+len(want[i].attrs) {
				t.Errorf("line %d has %d attributes: %s", i, n, line)
			}
		}
		if !strings.Contains(lines[1], "held by trainer-7 (host ") {
			t.Errorf("waiting does not name the holder: %s", lines[1])
		}
	})
}

// A handler writes what it is given, and it is given what can be seen.
func TestLogIsPrintable(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const key = "k\u202e\u2028\u0085"
		store := memlock.New()
		var out bytes.Buffer
		acquire(t, locker(t, store.Client(), &hasp.Options{Owner: "x\n\x1b[2J\u202e"}), key)
		l := hasp.New(store.Client(), &hasp.Options{MaxRetries: 1, Logger: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		store.Inject(memlock.OpWatch, key, memlock.Fault{Err: errors.New("watch \u202e")})
		_, err := l.Acquire(t.Context(), key)
		mustMatch(t, err, hasp.ErrTimeout)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) < 5 {
			t.Errorf("%d lines", len(lines))
		}
		for _, line := range lines {
			var rec map[string]any
			if err := json.Unmarshal([]byte(line), &rec); err != nil {
				t.Fatal(err)
			}
			for name, v := range rec {
				if s, ok := v.(string); ok && strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsGraphic(r) }) {
					t.Errorf("%s=%q", name, s)
				}
			}
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
