package conformance

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What every other rule takes for granted. It is tried before them; if it fails, a
// failure of another says nothing.
var answerRules = []Rule{
	{ID: "answers", Statement: "answers are whole: a grant has its key, claim, holder, token and TTL, a record its key and, if it is held, its claim and holder; every call returns, no attempt waits, and nothing panics", phase: first, run: answers},
}

// foundations are the rules that all others rest on: if one fails, no other is tried,
// since calls would hang, or end this program, or everything fail in chorus.
var foundations = []string{"answers", "error-definite"}

// answers calls everything once. What is wrong with one answer does not keep it
// from the next; a call that panics or does not return does.
func answers(x *trial) {
	var a, b backend.Backend
	x.bounded("opening a client", func(context.Context) { a, b = x.client(), x.client() })
	key := x.key()
	c := x.claim(x.long())
	var g backend.Grant
	var r backend.Record
	var err error

	x.bounded("Inspect of a key that was never locked", func(ctx context.Context) { r, err = b.Inspect(ctx, key) })
	x.wholeRecord("a key that was never locked", r, err, key, "")

	x.bounded("Acquire of a free key", func(ctx context.Context) { g, err = a.Acquire(ctx, key, c) })
	x.releaseLater(a, backend.Grant{Key: key, ID: c.ID})
	if err != nil {
		if r, ierr := b.Inspect(x.ctx, key); ierr == nil && r.State == backend.Held && r.ID == c.ID {
			return // error-definite says so
		}
		x.failf("Acquire of a free key gave %q", err)
	}
	x.wholeGrant("Acquire", g, c, key)

	x.bounded("Inspect of a held key", func(ctx context.Context) { r, err = b.Inspect(ctx, key) })
	x.wholeRecord("a held key", r, err, key, c.ID)

	other := x.claim(x.long())
	x.bounded("Acquire of a key that another holds", func(ctx context.Context) { _, err = b.Acquire(ctx, key, other) })
	if err == nil {
		x.releaseLater(b, backend.Grant{Key: key, ID: other.ID}) // exclusive-clients says so
	}
	again := g
	x.bounded("Renew", func(ctx context.Context) { again, err = a.Renew(ctx, g) })
	if err == nil {
		x.wholeGrant("Renew", again, c, key)
		g = again
	}
	stranger := backend.Grant{Key: key, ID: other.ID, Token: g.Token, TTL: g.TTL}
	x.bounded("Renew by another claim", func(ctx context.Context) { _, _ = b.Renew(ctx, stranger) })
	x.bounded("Release by another claim", func(ctx context.Context) { _ = b.Release(ctx, stranger) })
	x.optionalAnswers(a, b, g, c)
	x.bounded("Release", func(ctx context.Context) { _ = a.Release(ctx, g) })
	x.bounded("a second Release", func(ctx context.Context) { _ = a.Release(ctx, g) })
	x.bounded("Inspect of a released key", func(ctx context.Context) { r, err = b.Inspect(ctx, key) })
	x.bounded("Acquire by a claim without an ID", func(ctx context.Context) { _, _ = a.Acquire(ctx, key, backend.Claim{TTL: x.long()}) })
	x.bounded("Close", func(context.Context) { _ = a.Close() })
	x.bounded("a second Close", func(context.Context) { _ = a.Close() })
	x.bounded("Inspect after Close", func(ctx context.Context) { _, _ = a.Inspect(ctx, key) })
}

func (x *trial) optionalAnswers(a, b backend.Backend, g backend.Grant, c backend.Claim) {
	var err error
	if n, ok := backend.AsLossNotifier(a); ok {
		var cancel func()
		x.bounded("OnLoss", func(context.Context) { cancel = n.OnLoss(func(string, string) {}) })
		if cancel == nil {
			x.errorf("OnLoss returns no cancel")
		} else {
			x.bounded("cancel of OnLoss", func(context.Context) { cancel() })
		}
	}
	if w, ok := backend.AsWatcher(b); ok {
		var wake <-chan struct{}
		var stop func(context.Context, bool) error
		x.bounded("Watch of a held key", func(ctx context.Context) { wake, stop, err = w.Watch(ctx, g.Key, x.claim(x.long())) })
		switch {
		case err != nil: // other rules say what they think of that
		case wake == nil || stop == nil:
			x.errorf("Watch returns no channel or no stop, and no error")
		default:
			x.bounded("the end of a watch", func(ctx context.Context) { _ = stop(ctx, false) })
		}
	}
	if r, ok := backend.AsBatchRenewer(a); ok {
		x.bounded("RenewAll of none", func(ctx context.Context) { _ = r.RenewAll(ctx, nil) })
		x.bounded("RenewAll", func(ctx context.Context) {
			if rs := r.RenewAll(ctx, []backend.Grant{g}); len(rs) == 1 && rs[0].Err == nil {
				x.wholeGrant("RenewAll", rs[0].Grant, c, g.Key)
			}
		})
	}
	if backend.Has(b, backend.CapList) {
		x.bounded("List", func(ctx context.Context) { _, _ = backend.List(ctx, b, g.Key) })
	}
	if backend.Has(b, backend.CapRaiseToken) {
		x.bounded("RaiseToken", func(ctx context.Context) { _ = backend.RaiseToken(ctx, b, g.Key, 1) })
	}
	if backend.Has(b, backend.CapBreak) {
		x.bounded("Break with another token", func(ctx context.Context) { _ = backend.Break(ctx, b, g.Key, g.Token+1) })
	}
}

func (x *trial) wholeGrant(of string, g backend.Grant, c backend.Claim, key string) {
	switch {
	case g.Key != key:
		x.errorf("the grant of %s has the key %q, and it was asked for %q: a key that the store makes of it is nobody's but the store's", of, g.Key, key)
	case g.ID != c.ID:
		x.errorf("the grant of %s has the claim %q, and it was asked for %q", of, g.ID, c.ID)
	case g.Holder == backend.Holder{}:
		x.errorf("the grant of %s has no holder", of)
	case g.Token == 0:
		x.errorf("the grant of %s has no token", of)
	case g.TTL <= 0:
		x.errorf("the grant of %s has the TTL %v", of, g.TTL)
	}
}

func (x *trial) wholeRecord(of string, r backend.Record, err error, key, id string) {
	switch {
	case err != nil:
		x.errorf("Inspect of %s gave %q", of, err)
	case r.Key != key:
		x.errorf("the record of %s has the key %q, and it was asked for %q", of, r.Key, key)
	case id == "" && r.State == backend.Held: // inspect-fresh says so
	case r.State != backend.Free && r.State != backend.Held && r.State != backend.Stale:
		x.errorf("the record of %s has the state %q", of, r.State)
	case id != "" && r.State == backend.Held && r.ID == "":
		x.errorf("the record of %s does not say which claim holds it", of)
	case id != "" && r.State == backend.Held && r.Holder == backend.Holder{}:
		x.errorf("the record of %s has no holder", of)
	}
}

// bounded makes a call that must return soon and not panic.
func (x *trial) bounded(what string, f func(context.Context)) {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	done := make(chan string, 1)
	begun := time.Now()
	go func() {
		panicked := "it ended its goroutine"
		defer func() {
			if v := recover(); v != nil {
				panicked = fmt.Sprintf("it panicked: %v, %s", v, panicFrame())
			}
			done <- panicked
		}()
		f(ctx)
		panicked = ""
	}()
	timer := time.NewTimer(x.soon())
	defer timer.Stop()
	for {
		select {
		case why := <-done:
			switch {
			case x.failed() && why == "it ended its goroutine": // by failf
				runtime.Goexit()
			case why != "":
				x.failf("%s: %s", what, why)
			}
			return
		case <-timer.C:
			if stalled := x.s.stalls.since(begun); stalled > x.soon()/10 && time.Since(begun) < 4*x.soon() {
				timer.Reset(x.soon())
				continue
			}
			x.failf("%s had not returned after %v", what, backend.Round(time.Since(begun)))
		}
	}
}

// panicFrame says where a panic came from. It is called while that is being
// recovered.
func panicFrame() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") && f.Function != "" {
			return fmt.Sprintf("in %s (%s:%d)", shortFunc(f.Function), shortPath(f.File), f.Line)
		}
		if !more {
			return "nobody knows where"
		}
	}
}

// shortFunc is a function's name without the path of its package.
func shortFunc(name string) string { return name[strings.LastIndex(name, "/")+1:] }

// shortPath is the last two parts of a path.
func shortPath(path string) string {
	parts := strings.Split(path, "/")
	return strings.Join(parts[max(0, len(parts)-2):], "/")
}

// recovered notes a panic as what the trial saw. It is deferred in each goroutine
// that calls the backend.
func (x *trial) recovered() {
	if v := recover(); v != nil {
		x.errorf("a call panicked: %v, %s", v, panicFrame())
	}
}
