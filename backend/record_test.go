package backend_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

func TestRecordTexts(t *testing.T) {
	h := backend.Holder{Owner: "trainer-7", Host: "ip-10-0-3-4", PID: 4123}
	for want, r := range map[string]backend.Record{
		"free":                {State: backend.Free, Holder: h},
		"free, last token 17": {State: backend.Free, Token: 17},
		"held by trainer-7 (host ip-10-0-3-4, pid 4123) for 2m10s, token 17": {State: backend.Held, Holder: h, Token: 17, HeldFor: 130 * time.Second},
		"held by an unknown holder (a lock file that cannot be read)":        {State: backend.Held, Note: "a lock file that cannot be read"},
		"stale, last held by host ip-10-0-3-4, pid 4123":                     {State: backend.Stale, Holder: backend.Holder{Host: "ip-10-0-3-4", PID: 4123}},
		"held by trainer-7": {State: backend.Held, Holder: backend.Holder{Owner: "trainer-7"}},
		"held by trainer-7 (pid 4123) for 1.23s, token 1": {State: backend.Held, Holder: backend.Holder{Owner: "trainer-7", PID: 4123}, HeldFor: 1234567890, Token: 1},
		"held by pid 4123 for 1ms":                        {State: backend.Held, Holder: backend.Holder{PID: 4123}, HeldFor: 1000999},
	} {
		if got := r.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got := (&backend.HeldError{Record: r}).Error(); got != want {
			t.Errorf("HeldError: got  %s\nwant %s", got, want)
		}
	}
}

func TestRound(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 999: "999ns", 1234567: "1.23ms", 999*time.Millisecond + 999*time.Microsecond: "1s",
		1234 * time.Millisecond: "1.23s", 59*time.Second + 999*time.Millisecond: "1m0s", 90*time.Minute + 400*time.Millisecond: "1h30m0s",
	} {
		if got := backend.Round(d).String(); got != want {
			t.Errorf("Round(%d) = %s, want %s", d, got, want)
		}
	}
}

func TestHeldErrorMatches(t *testing.T) {
	var err error = &backend.HeldError{}
	if !errors.Is(err, backend.ErrHeld) || errors.Is(err, backend.ErrLost) {
		t.Error("HeldError matches ErrHeld and nothing else")
	}
}

func TestUnavailable(t *testing.T) {
	if backend.Unavailable(nil) != nil {
		t.Error("an error out of nothing")
	}
	err := backend.Unavailable(&fs.PathError{Op: "rename", Path: "x", Err: context.DeadlineExceeded})
	var pe *fs.PathError
	if !errors.Is(err, backend.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &pe) {
		t.Errorf("%v does not match both", err)
	}
	if got, want := err.Error(), "lock store is unavailable: rename x: context deadline exceeded"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if again := backend.Unavailable(err); again != err {
		t.Errorf("wrapped twice: %v", again)
	}
}
