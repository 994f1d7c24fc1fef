package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var contextRules = []Rule{
	{ID: "context-heeded", Statement: "a call whose context has ended returns soon", run: contextHeeded},
	{ID: "cancel-prompt", Statement: "an Acquire that is cancelled returns at once, with the context's error and the holder last seen", run: cancelPrompt},
	{ID: "cancel-leaves-nothing", Statement: "a waiter that was cancelled leaves nothing behind: the key is there for the next claim", rests: []string{"wait-watch-stopped"}, run: cancelLeavesNothing},
	{ID: "cancel-in-flight", Statement: "an attempt that is cancelled at any moment, and then withdrawn, does not hold the key", rests: []string{"withdraw"}, run: cancelInFlight},
	{ID: "error-definite", Statement: "an attempt whose error is neither ErrUnavailable nor its context's does not hold the key", phase: first, run: errorDefinite},
	{ID: "deadline-error", Statement: "an attempt that was refused or withdrawn by its context says so with ErrUnavailable or the context's error, never with another's", rests: []string{"withdraw", "cancel-in-flight"}, run: deadlineError},
}

func contextHeeded(x *trial) {
	b := x.client()
	key := x.key()
	g := x.acquire(b, key, x.long())
	ended, cancel := context.WithCancel(x.ctx)
	cancel()
	for what, call := range map[string]func(){
		"Acquire": func() { _, _ = b.Acquire(ended, x.key(), x.claim(x.ttl())) },
		"Renew":   func() { _, _ = b.Renew(ended, g) },
		"Release": func() { _ = b.Release(ended, backend.Grant{Key: x.key(), ID: x.claim(1).ID}) },
		"Inspect": func() { _, _ = b.Inspect(ended, key) },
	} {
		x.returns(x.soon(), what+" with a context that has ended", call)
	}
	x.stillHolds(b, g, "calls whose context had ended")
}

func cancelPrompt(x *trial) {
	a := x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	ctx, cancel := context.WithCancelCause(x.ctx)
	got, _ := x.waiter(ctx, key, hourly)
	why := errors.New("the user went home")
	cancel(why)
	w, ok := await(x, got, x.soon())
	switch {
	case !ok:
		x.failf("a waiter had not returned %v after its context was cancelled", x.soon())
	case w.err == nil:
		x.restf("exclusive-clients", "a second claim got token %d of a key that was held", w.lease.Token())
	case !errors.Is(w.err, context.Canceled) || !errors.Is(w.err, why) || !errors.Is(w.err, hasp.ErrHeld):
		x.failf("a cancelled waiter got %q, which is not the context's error and its cause joined with the holder", w.err)
	}
	x.stillHolds(a, g, "a cancelled waiter")
}

func cancelLeavesNothing(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	g := x.acquire(a, key, x.long())
	for range 3 {
		ctx, cancel := context.WithCancel(x.ctx)
		got, l := x.waiter(ctx, key, nil)
		cancel()
		if w := <-got; w.err == nil {
			x.restf("exclusive-clients", "a second claim got token %d of a key that was held", w.lease.Token())
		}
		var err error
		begun := time.Now()
		x.returns(2*x.soon(), "Close after a waiter was cancelled", func() { err = l.Close() })
		if err != nil {
			x.unlessStalled(begun, time.Second)
			x.failf("Close after a waiter was cancelled gave %q", err)
		}
	}
	x.release(a, g)
	if _, err := x.attempt(b, key, x.claim(x.long())); err != nil {
		x.failf("after cancelled waiters and a release the next claim gave %q", err)
	}
}

func cancelInFlight(x *trial) {
	a, b := x.client(), x.client()
	rounds := 40
	if x.cfg.brief {
		rounds = 10
	}
	key := x.key()
	middle := aim{x.requestTime(a)}
	cancelled := 0
	for range rounds {
		ctx, cancel := middle.context(x.ctx)
		c := x.claim(x.long())
		g, err := a.Acquire(ctx, key, c)
		cancel()
		middle.saw(err != nil)
		if err != nil {
			cancelled++
			g = backend.Grant{Key: key, ID: c.ID}
			if !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.Canceled) {
				x.failf("an attempt whose context was cancelled gave %q", err)
			}
		}
		if err := a.Release(x.ctx, g); err != nil && !errors.Is(err, backend.ErrLost) {
			x.restf("withdraw", "withdrawing an attempt that was cancelled gave %q", err)
		}
		next, err := x.attempt(b, key, x.claim(x.long()))
		if err != nil {
			x.failf("after an attempt that was cancelled and withdrawn the next claim gave %q", err)
		}
		x.release(b, next)
	}
	// and at each point at which it looks
	tripped := 0
	for n := range 24 {
		ctx := tripAt(x.ctx, n/2+1)
		c := x.claim(x.long())
		g, err := a.Acquire(ctx, key, c)
		if ctx.end() {
			tripped++
		}
		if err != nil {
			g = backend.Grant{Key: key, ID: c.ID}
			if !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.Canceled) {
				x.restf("error-definite", "an attempt whose context was cancelled gave %q", err)
			}
		}
		if err := a.Release(x.ctx, g); err != nil && !errors.Is(err, backend.ErrLost) {
			x.restf("withdraw", "withdrawing an attempt that was cancelled gave %q", err)
		}
		if n%2 == 1 {
			x.sleep(5 * time.Millisecond) // for what comes late
		}
		next, err := x.attempt(b, key, x.claim(x.long()))
		if err != nil {
			x.failf("after an attempt that was cancelled when it looked at its context for the %d. time, and was withdrawn, the next claim gave %q", n/2+1, err)
		}
		x.release(b, next)
	}
	x.notef("%d of %d attempts were cancelled before they had succeeded, and %d of 24 when they looked", cancelled, rounds, tripped)
	// nothing of it comes late
	x.sleep(300 * time.Millisecond)
	if _, err := x.attempt(b, key, x.claim(x.long())); err != nil {
		x.failf("a while after attempts that were cancelled and withdrawn a claim gave %q", err)
	}
}

// errorDefinite looks, after each attempt that says that it has not got the key,
// whether it has.
func errorDefinite(x *trial) {
	a, b := x.client(), x.client()
	check := func(key string, c backend.Claim, err error, what string) {
		if !definite(err) {
			return
		}
		if r := x.inspect(b, key); r.State != backend.Free && r.ID == c.ID {
			x.failf("%s gave %q, which promises that its claim does not hold the key, and the key is %s by that claim", what, err, r)
		}
	}
	try := func(ctx context.Context, key, what string) {
		c := x.claim(x.long())
		g, err := a.Acquire(ctx, key, c)
		check(key, c, err, what)
		if err != nil {
			g = backend.Grant{Key: key, ID: c.ID}
		}
		_ = b.Release(x.ctx, g)
	}
	for range 8 {
		key := x.key()
		for range 3 {
			try(x.ctx, key, "an attempt at a free key")
		}
	}
	key := x.key()
	for n := range 12 {
		ctx := tripAt(x.ctx, n+1)
		try(ctx, key, fmt.Sprintf("an attempt that was cancelled when it looked at its context for the %d. time", n+1))
		ctx.end()
	}
	for n := range 20 {
		ctx, cancel := context.WithTimeout(x.ctx, time.Duration(n*n)*10*time.Microsecond)
		try(ctx, key, "an attempt with little time")
		cancel()
	}
	// one that holds the key already, as if its first answer had been lost
	c := x.claim(x.long())
	g, err := x.attempt(a, key, c)
	check(key, c, err, "an attempt at a free key")
	for range 3 {
		if err == nil {
			if _, err = b.Acquire(x.ctx, key, c); errors.Is(err, backend.ErrHeld) {
				break // acquire-repeatable says so
			}
			check(key, c, err, "a repeated attempt")
		}
	}
	_ = a.Release(x.ctx, g)
}

func deadlineError(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	ctx, cancel := context.WithTimeoutCause(x.ctx, 0, fmt.Errorf("no time left"))
	defer cancel()
	c := x.claim(x.long())
	_, err := x.attempt(a, key, c)
	if err != nil {
		x.failf("a free key was refused: %v", err)
	}
	_ = a.Release(x.ctx, backend.Grant{Key: key, ID: c.ID})
	c = x.claim(x.long())
	g, err := a.Acquire(ctx, key, c)
	switch {
	case err == nil:
		x.releaseLater(a, g)
		x.stillHolds(b, g, "an attempt without time that succeeded nevertheless")
		return
	case errors.Is(err, backend.ErrLost), errors.Is(err, backend.ErrInvalidKey), errors.Is(err, backend.ErrHeld):
		x.failf("an attempt at a free key, without time, gave %q", err)
	case !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
		x.failf("an attempt at a free key, without time, gave %q, which says that nothing was done", err)
	}
	_ = a.Release(x.ctx, backend.Grant{Key: key, ID: c.ID})
	x.isFree(b, key, "an attempt without time that was withdrawn")
}
