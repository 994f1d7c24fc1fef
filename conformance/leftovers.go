package conformance

import (
	"context"
	"strings"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

var leftoverRules = []Rule{
	{ID: "no-goroutines", Statement: "when everything is released, cancelled and closed no goroutine is left", phase: last, run: noGoroutines},
	{ID: "no-keys", Statement: "when everything is released, cancelled and closed List shows no key", phase: last, needs: []backend.Capability{backend.CapList}, rests: []string{"list-exact", "stale-after-ttl"}, run: noKeys},
	{ID: "no-leftovers", Statement: "when everything is released, cancelled and closed nothing is left in the store that should not be", phase: last, rests: []string{"stale-after-ttl", "wait-watch-stopped", "cancel-leaves-nothing", "no-keys"}, run: noLeftovers},
}

// life uses everything once: held, waited for, cancelled, timed out, renewed,
// expired, taken over, broken, inspected, verified, closed.
func (x *trial) life(ctx context.Context) {
	opts := &hasp.Options{TTL: x.ttl(), RetryInterval: x.poll(), MaxRetries: hasp.Unlimited, MaxWait: x.wait()}
	a, b := hasp.New(guarded{x.client(), x}, opts), hasp.New(guarded{x.client(), x}, opts)
	raw := x.client()
	defer raw.Close()
	defer b.Close()
	defer a.Close()
	key := x.key()
	lease, err := a.Acquire(ctx, key)
	if err != nil {
		x.failf("a free key was refused: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, x.ttl()/2)
	_, _ = b.Acquire(short, key)
	cancel()
	_, _ = b.TryAcquire(ctx, key)
	_, _ = b.Inspect(ctx, key)
	_ = lease.Verify(ctx)
	got := make(chan struct{})
	go func() {
		defer close(got)
		if next, err := b.Acquire(ctx, key); err == nil {
			_ = next.Release(ctx)
		}
	}()
	time.Sleep(x.ttl() / 4)
	_ = lease.Release(ctx)
	<-got
	if backend.Has(raw, backend.CapBreak) {
		if lease, err = a.Acquire(ctx, key); err == nil {
			_ = backend.Break(ctx, raw, key, lease.Token())
			_ = lease.Release(ctx)
		}
	}
	// an abandoned holder, and the takeover
	if _, err := raw.Acquire(ctx, key, x.claim(x.ttl())); err == nil {
		if lease, err = a.Acquire(ctx, key); err == nil {
			_ = lease.Release(ctx)
		}
	}
	if w, ok := backend.AsWatcher(raw); ok {
		if _, stop, err := w.Watch(ctx, key, x.claim(x.ttl())); err == nil {
			_ = stop(ctx, false)
		}
	}
	if n, ok := backend.AsLossNotifier(raw); ok {
		n.OnLoss(func(string, string) {})()
	}
	// left to Close
	_, _ = a.Acquire(ctx, x.key())
}

func noGoroutines(x *trial) {
	name := x.s.nonce + "-" + x.key()
	labelled(x.ctx, name, func(ctx context.Context) { x.life(ctx) })
	begun := time.Now()
	for {
		left := stacks(name)
		// this one has lost its label, but a profile taken meanwhile may lag
		if len(left) == 0 {
			return
		}
		if x.tooLong(begun, x.soon()) {
			x.failf("%v after everything was closed goroutines are left:\n%s", x.soon(), strings.Join(left, "\n\n"))
		}
		x.sleep(20 * time.Millisecond)
	}
}

func noKeys(x *trial) {
	x.life(x.ctx)
	b := x.client()
	begun := time.Now()
	for {
		rs, err := backend.List(x.ctx, b, x.prefix())
		if err != nil {
			x.failf("List gave %q", err)
		}
		if len(rs) == 0 {
			return
		}
		if x.tooLong(begun, x.soon()) {
			x.failf("%v after everything was closed List has %d keys; the first is %q, %s", x.soon(), len(rs), rs[0].Key, rs[0])
		}
		x.sleep(4 * x.poll())
	}
}

func noLeftovers(x *trial) {
	if x.cfg.Leftovers == nil {
		x.lackf("no hook given: Config.Leftovers")
	}
	x.life(x.ctx)
	begun := time.Now()
	for {
		left, err := x.cfg.Leftovers(x.ctx)
		if err != nil {
			x.failf("Config.Leftovers gave %q", err)
		}
		if len(left) == 0 {
			return
		}
		if x.tooLong(begun, x.ttl()+x.soon()) {
			x.failf("%v after everything was closed there is left: %s", x.ttl()+x.soon(), strings.Join(left, ", "))
		}
		x.sleep(4 * x.poll())
	}
}
