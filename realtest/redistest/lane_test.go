package redistest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// verbs are all calls that talk to the server.
func verbs(b *redislock.Backend, g backend.Grant) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"acquire": func(ctx context.Context) error { _, err := b.Acquire(ctx, g.Key, claim(time.Minute)); return err },
		"renew":   func(ctx context.Context) error { _, err := b.Renew(ctx, g); return err },
		"renew all": func(ctx context.Context) error {
			return b.RenewAll(ctx, []backend.Grant{g})[0].Err
		},
		"release": func(ctx context.Context) error { return b.Release(ctx, g) },
		"inspect": func(ctx context.Context) error { _, err := b.Inspect(ctx, g.Key); return err },
		"list":    func(ctx context.Context) error { _, err := b.List(ctx, ""); return err },
		"break":   func(ctx context.Context) error { return b.Break(ctx, g.Key, g.Token) },
		"raise":   func(ctx context.Context) error { return b.RaiseToken(ctx, g.Key, 1) },
		"watch":   func(ctx context.Context) error { _, _, err := b.Watch(ctx, g.Key, claim(time.Minute)); return err },
	}
}

// A backend opened from a URL is prompt: each call returns soon after its context
// was cancelled, though the server hangs, and leaves nothing that a later call would
// stumble on. The library alone waits for its read timeout.
func TestCallsEndWithTheirContext(t *testing.T) {
	for name, c := range map[string]struct {
		options redistest.Options
		url     func(*redistest.Server) string
	}{
		"tcp":  {redistest.Options{Binary: true}, func(s *redistest.Server) string { return s.URL("read_timeout=1m") }},
		"unix": {redistest.Options{Unix: true}, func(s *redistest.Server) string { return s.UnixURL("read_timeout=1m") }},
		"tls":  {redistest.Options{TLS: true}, func(s *redistest.Server) string { return s.URL("read_timeout=1m", "skip_verify=true") }},
		"wait": {redistest.Options{Binary: true}, func(s *redistest.Server) string {
			return s.URL("read_timeout=1m", "replicas=1", "replicas_timeout=10s")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, &c.options)
			other := open(t, c.url(s))
			b := open(t, c.url(s))
			if !b.Prompt() {
				t.Fatal("it does not say that it is prompt")
			}
			g := backend.Grant{Key: "k", ID: "x", Token: 1, TTL: time.Minute}
			if name != "wait" {
				g = acquire(t, b, "k", claim(time.Minute))
			}
			// The subscription is confirmed while the server can.
			_, stop := mustWatch(t, b, "k", claim(time.Minute))
			stop(false)
			for _, warm := range []bool{false, true} {
				for verb, call := range verbs(b, g) {
					if warm { // there is a connection: it has answered
						if _, err := b.Inspect(context.Background(), "k"); err != nil {
							t.Fatal(err)
						}
					}
					s.Pause()
					ctx, cancel := context.WithTimeoutCause(context.Background(), time.Hour, errors.New("late"))
					stop := time.AfterFunc(30*time.Millisecond, cancel)
					start := time.Now()
					err := call(ctx)
					took := time.Since(start)
					stop.Stop()
					cancel()
					s.Resume()
					if !errors.Is(err, context.Canceled) || !errors.Is(err, backend.ErrUnavailable) {
						t.Errorf("%s (warm: %v): %v, want one that is context.Canceled and ErrUnavailable", verb, warm, err)
					}
					if took > patient {
						t.Errorf("%s (warm: %v): returned after %v", verb, warm, took)
					}
				}
			}
			// What was sent may have been executed, up to the release and the break.
			if _, err := b.Inspect(context.Background(), "k"); err != nil {
				t.Error(err)
			}
			if name != "wait" {
				release(t, b, acquire(t, b, "other", claim(time.Minute)))
				release(t, other, acquire(t, other, "other", claim(time.Minute)))
			}
		})
	}
}

// Watch ends with its context too while the subscription that it needs is being
// made.
func TestWatchEndsWithItsContext(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Binary: true})
	b := open(t, s.URL("read_timeout=1m", "dial_timeout=1m"))
	s.Pause()
	defer s.Resume()
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		start := time.Now()
		_, _, err := b.Watch(ctx, "k", claim(time.Minute))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("watch: %v", err)
		}
		if took := time.Since(start); took > patient {
			t.Fatalf("watch returned after %v", took)
		}
	}
}

// Where the library repeats requests by itself, calls do not end with their context.
func TestRetriesAreNotPrompt(t *testing.T) {
	s := redistest.Start(t, nil)
	for option, prompt := range map[string]bool{"max_retries=3": false, "max_retries=-1": true, "pool_size=3": true} {
		b := open(t, s.URL(option))
		if b.Prompt() != prompt {
			t.Errorf("%s: prompt: %v, want %v", option, b.Prompt(), prompt)
		}
		release(t, b, acquire(t, b, "k", claim(time.Minute)))
	}
}

// A call whose context has ended sends nothing.
func TestEndedContextSendsNothing(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	g := acquire(t, b, "k", claim(time.Minute))
	before := s.Commands()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for verb, call := range verbs(b, g) {
		if err := call(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	for name, n := range s.Commands() {
		if name == "evalsha" && n != before[name] {
			t.Errorf("%d scripts were run", n-before[name])
		}
	}
}

// Who finds all connections in use waits for one, and no longer than its context
// lasts.
func TestMoreCallsThanConnections(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Binary: true})
	b := open(t, s.URL("pool_size=2", "read_timeout=1m"))
	s.Pause()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var patient, impatient sync.WaitGroup
	for range 4 {
		impatient.Go(func() {
			if _, err := b.Inspect(ctx, "k"); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
		patient.Go(func() {
			if _, err := b.Inspect(context.Background(), "k"); err != nil {
				t.Errorf("not cancelled: %v", err)
			}
		})
	}
	cancel()
	impatient.Wait() // while the others are still in the way
	s.Resume()
	patient.Wait()
	if n := s.Connections(); n > 4 {
		t.Errorf("%d connections, want 2 of calls and up to 2 of the client", n)
	}
}

// A connection that the server has closed is not used again.
func TestClosedConnection(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	for range 20 {
		release(t, b, acquire(t, b, "k", claim(time.Minute)))
		s.Do("client", "kill", "type", "normal", "skipme", "yes")
		time.Sleep(10 * time.Millisecond) // longer than an answer counts as fresh
	}
}
