package redistest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/redislock"
)

// patient is how long a test waits for what must happen: far more than it takes.
const patient = 20 * time.Second

// unhurried lets who has its turn take its time: with the default, one that stands still
// for a second is passed over.
const unhurried = "patience=1h"

func open(tb testing.TB, url string) *redislock.Backend {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	b, err := backend.Open(ctx, url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil && !errors.Is(err, backend.ErrClosed) {
			tb.Errorf("close: %v", err)
		}
	})
	return b.(*redislock.Backend)
}

func claim(ttl time.Duration) backend.Claim {
	return backend.Claim{ID: rand.Text(), TTL: ttl, Holder: backend.Holder{Owner: "o", Host: "h", PID: 7}}
}

func acquire(tb testing.TB, b backend.Backend, key string, c backend.Claim) backend.Grant {
	tb.Helper()
	g, err := b.Acquire(context.Background(), key, c)
	if err != nil {
		tb.Fatalf("acquire %q: %v", key, err)
	}
	return g
}

func release(tb testing.TB, b backend.Backend, g backend.Grant) {
	tb.Helper()
	if err := b.Release(context.Background(), g); err != nil {
		tb.Fatalf("release %q: %v", g.Key, err)
	}
}

func mustBeHeld(tb testing.TB, b backend.Backend, key string, by backend.Grant) *backend.HeldError {
	tb.Helper()
	_, err := b.Acquire(context.Background(), key, claim(time.Minute))
	var held *backend.HeldError
	if !errors.As(err, &held) {
		tb.Fatalf("acquire of a held lock: %v, want a HeldError", err)
	}
	if held.Record.ID != by.ID || held.Record.Token != by.Token {
		tb.Fatalf("held by %+v, want the holder of token %d", held.Record, by.Token)
	}
	return held
}

func mustBeLost(tb testing.TB, what string, err error) {
	tb.Helper()
	if !errors.Is(err, backend.ErrLost) {
		tb.Fatalf("%s: %v, want ErrLost", what, err)
	}
}

func mustWatch(tb testing.TB, b backend.Watcher, key string, c backend.Claim) (<-chan struct{}, func(granted bool)) {
	tb.Helper()
	wake, stop, err := b.Watch(context.Background(), key, c)
	if err != nil {
		tb.Fatalf("watch %q: %v", key, err)
	}
	return wake, func(granted bool) {
		tb.Helper()
		if err := stop(context.Background(), granted); err != nil {
			tb.Errorf("stop watching %q: %v", key, err)
		}
	}
}

func mustWake(tb testing.TB, what string, wake <-chan struct{}) {
	tb.Helper()
	select {
	case <-wake:
	case <-time.After(patient):
		tb.Fatalf("%s was not woken", what)
	}
}

// mustLeaveNothing waits until there are free locks and nothing else. A waiter that left
// while its client looked after it may be put back, and is taken off once more; else its
// queue would be there for a minute.
func mustLeaveNothing(tb testing.TB, keys func() []string) {
	tb.Helper()
	var left []string
	for deadline := time.Now().Add(patient); ; time.Sleep(10 * time.Millisecond) {
		left = slices.DeleteFunc(keys(), func(k string) bool { return strings.HasSuffix(k, "}") })
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%q are left behind", left)
		}
	}
}

// eventually waits for what no message tells.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patient); !ok(); {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %v", what, patient)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
