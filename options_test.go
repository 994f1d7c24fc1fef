package hasp_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
)

func TestZeroOptionsAreTheSpec(t *testing.T) {
	if hasp.DefaultTTL != 300*time.Second || hasp.DefaultRetryInterval != 5*time.Second || hasp.DefaultMaxRetries != 60 {
		t.Error("the defaults are not 300 s, 5 s and 60")
	}
	for name, opts := range map[string]*hasp.Options{"nil": nil, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				start := time.Now()
				le := acquire(t, locker(t, store.Client(), opts), "k")
				if ttl := le.Grant().TTL; ttl != 300*time.Second {
					t.Errorf("TTL %v", ttl)
				}
				if d := le.Deadline().Sub(start); d != 295*time.Second {
					t.Errorf("deadline after %v, want TTL less a margin of 5 s", d)
				}
				time.Sleep(89 * time.Second)
				if n := store.Count(memlock.OpRenew); n != 0 {
					t.Errorf("%d heartbeats after 89 s", n)
				}
				time.Sleep(12 * time.Second)
				if n := store.Count(memlock.OpRenew); n != 1 {
					t.Errorf("%d heartbeats after 101 s, want 1, at a third of the TTL", n)
				}
				if h := le.Holder(); h.Owner == "" || h.Host == "" || h.PID == 0 {
					t.Errorf("holder %+v: owner, host or pid is missing", h)
				}
			})
		})
	}
}

// A fleet starts together, and its first holder dies at once. The store calls the
// lock stale a little after the TTL. Whatever is left to the defaults, the waiters
// are still there.
func TestDefaultsOutlastADeadHolder(t *testing.T) {
	for name, tc := range map[string]struct {
		opts hasp.Options
		ttl  time.Duration // the fleet's
	}{
		"zero":                        {hasp.Options{}, 300 * time.Second},
		"long TTL":                    {hasp.Options{TTL: time.Hour}, time.Hour},
		"short TTL":                   {hasp.Options{TTL: 10 * time.Second}, 10 * time.Second},
		"short retry interval":        {hasp.Options{RetryInterval: 100 * time.Millisecond}, 300 * time.Second},
		"long retry interval":         {hasp.Options{RetryInterval: time.Hour}, 300 * time.Second},
		"both short":                  {hasp.Options{TTL: 2 * time.Second, RetryInterval: 10 * time.Millisecond}, 2 * time.Second},
		"a MaxWait that is no bar":    {hasp.Options{MaxWait: 400 * time.Second}, 300 * time.Second},
		"a long MaxWait and TTL":      {hasp.Options{TTL: time.Hour, MaxWait: 2 * time.Hour}, time.Hour},
		"a retry interval of nothing": {hasp.Options{RetryInterval: time.Nanosecond, TTL: time.Second}, time.Second},
	} {
		for _, slack := range []time.Duration{100 * time.Millisecond, 1500 * time.Millisecond, 9 * time.Second} {
			t.Run(fmt.Sprintf("%s, stale %v late", name, slack), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					store := memlock.New()
					dead := backend.Claim{ID: "dead", TTL: tc.ttl + slack}
					if _, err := store.Client().Acquire(t.Context(), "k", dead); err != nil {
						t.Fatal(err)
					}
					l := locker(t, plain{store.Client()}, &tc.opts)
					waiters := []<-chan outcome{acquiring(t.Context(), l, "k"), acquiring(t.Context(), l, "k"),
						acquiring(t.Context(), locker(t, store.Client(), &tc.opts), "k")}
					for range waiters {
						var o outcome
						select {
						case o = <-waiters[0]:
						case o = <-waiters[1]:
						case o = <-waiters[2]:
						}
						if o.err != nil {
							t.Fatal(o.err)
						}
						release(t, o.lease)
					}
				})
			})
		}
	}
}

// What is set decides, and the rest is as long as it ever was.
func TestHowLongWaitingTakes(t *testing.T) {
	for name, tc := range map[string]struct {
		opts hasp.Options
		want time.Duration
	}{
		"zero":                      {hasp.Options{}, 320 * time.Second},
		"TTL alone, short":          {hasp.Options{TTL: time.Second}, 300 * time.Second},
		"TTL alone, long":           {hasp.Options{TTL: time.Hour}, time.Hour + 20*time.Second},
		"retry interval, long":      {hasp.Options{RetryInterval: time.Minute}, time.Hour},
		"retry interval, short":     {hasp.Options{RetryInterval: time.Second}, 312 * time.Second},
		"retries":                   {hasp.Options{MaxRetries: 60}, 300 * time.Second},
		"retries, and a longer TTL": {hasp.Options{TTL: time.Hour, MaxRetries: 2}, 10 * time.Second},
		"MaxWait, shorter":          {hasp.Options{MaxWait: 7 * time.Second}, 7 * time.Second},
		"MaxWait, longer":           {hasp.Options{MaxWait: 2 * time.Hour}, 2 * time.Hour},
		"MaxWait and retries":       {hasp.Options{MaxWait: 2 * time.Hour, MaxRetries: 3}, 15 * time.Second},
		"policy":                    {hasp.Options{Retry: hasp.Constant(time.Second, 3)}, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				acquire(t, locker(t, store.Client(), nil), "k")
				var rec recorder
				tc.opts.Observer = rec.observe
				l := locker(t, store.Client(), &tc.opts)
				start := time.Now()
				_, err := l.Acquire(t.Context(), "k")
				mustMatch(t, err, hasp.ErrTimeout, hasp.ErrHeld)
				if d := time.Since(start); d != tc.want {
					t.Errorf("waited %v, want %v", d, tc.want)
				}
				synctest.Wait()
				if es, _ := rec.of(hasp.EventWaiting); len(es) == 0 || es[0].Left != tc.want {
					t.Errorf("the first event of waiting says that %v are left, want %v", es[0].Left, tc.want)
				}
			})
		})
	}
}

// The longest times there are do not wrap.
func TestOptionsOfTheLongestTimes(t *testing.T) {
	const most = time.Duration(math.MaxInt64)
	for name, opts := range map[string]hasp.Options{
		"TTL":                            {TTL: most, Heartbeat: time.Minute},
		"retry interval":                 {RetryInterval: most},
		"both":                           {TTL: most, RetryInterval: most},
		"TTL, and a short interval":      {TTL: most, RetryInterval: time.Minute},
		"retry interval, and MaxRetries": {RetryInterval: most, MaxRetries: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				store := memlock.New()
				le := acquire(t, locker(t, store.Client(), nil), "k")
				var rec recorder
				opts.Observer = rec.observe
				got := acquiring(t.Context(), locker(t, store.Client(), &opts), "k")
				time.Sleep(time.Hour)
				if es, _ := rec.of(hasp.EventWaiting); len(es) == 0 || es[0].Left >= 0 && es[0].Left < time.Hour {
					t.Errorf("it waits, and %v were left", es[0].Left)
				}
				release(t, le)
				o := <-got
				if o.err != nil {
					t.Fatal(o.err)
				}
				release(t, o.lease)
			})
		})
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		opts hasp.Options
		want []string // in the error
	}{
		"negative TTL":             {hasp.Options{TTL: -time.Second}, []string{"TTL is -1s", "negative"}},
		"TTL too short":            {hasp.Options{TTL: time.Microsecond}, []string{"TTL is 1µs", "1 ms"}},
		"negative retry interval":  {hasp.Options{RetryInterval: -time.Second}, []string{"RetryInterval is -1s", "negative"}},
		"negative retries":         {hasp.Options{MaxRetries: -2}, []string{"MaxRetries is -2", "Unlimited"}},
		"negative max wait":        {hasp.Options{MaxWait: -time.Second}, []string{"MaxWait is -1s", "negative"}},
		"negative heartbeat":       {hasp.Options{Heartbeat: -time.Second}, []string{"Heartbeat is -1s", "negative"}},
		"negative margin":          {hasp.Options{Margin: -time.Second}, []string{"Margin is -1s", "negative"}},
		"negative request timeout": {hasp.Options{RequestTimeout: -time.Second}, []string{"RequestTimeout is -1s", "negative"}},
		"margin eats the TTL":      {hasp.Options{TTL: time.Second, Margin: time.Second}, []string{"Margin, 1s", "TTL, 1s"}},
		"heartbeat too late":       {hasp.Options{TTL: 10 * time.Second, Heartbeat: 9 * time.Second}, []string{"Heartbeat, 9s", "TTL, 10s", "Margin, 1s"}},
		"policy, constant":         {hasp.Options{Retry: hasp.Constant(-time.Second, 1)}, []string{"Retry", "-1s"}},
		"policy, exponential":      {hasp.Options{Retry: hasp.Exponential(-time.Second, time.Second, 1)}, []string{"Retry", "-1s"}},
		"policy, exponential cap":  {hasp.Options{Retry: hasp.Exponential(time.Second, -time.Minute, 1)}, []string{"Retry", "-1m0s"}},
		"several":                  {hasp.Options{TTL: -time.Second, MaxWait: -time.Minute}, []string{"TTL is -1s", "MaxWait is -1m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hasp.Open(t.Context(), "mem:///options", &tc.opts)
			if err == nil {
				t.Fatal("Open accepted it")
			}
			for _, want := range append(tc.want, "hasp: options: ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not contain %q", err, want)
				}
			}
			if len(tc.want) > 0 && name != "several" && strings.Contains(err.Error(), "\n") {
				t.Errorf("one mistake, several complaints: %q", err)
			}
			defer func() {
				if r, _ := recover().(error); r == nil || r.Error() != err.Error() {
					t.Errorf("New panicked with %v, want Open's error", r)
				}
			}()
			hasp.New(memlock.New().Client(), &tc.opts)
		})
	}
}

func TestOpenRefusesWhatItCannotOpen(t *testing.T) {
	for url, want := range map[string]string{
		"":                  "empty",
		"nosuch://host/x":   `no backend for scheme "nosuch"`,
		"mem:///x?lokfile=": `unknown option "lokfile"`,
	} {
		if _, err := hasp.Open(t.Context(), url, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v, want an error with %q", url, err, want)
		}
	}
}

func TestOpenTwiceIsOneStore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		open := func(url string) hasp.Locker {
			l, err := hasp.Open(t.Context(), url, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return l
		}
		le := acquire(t, open("mem:///open-twice"), "k")
		_, err := open("mem:///open-twice").TryAcquire(t.Context(), "k")
		mustMatch(t, err, hasp.ErrHeld)
		other, err := open("mem:///another").TryAcquire(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		release(t, other)
		release(t, le)
	})
}
