package etcdlock

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
)

// waiter is one registration made by Watch.
type waiter struct {
	b      *Backend
	key    string
	id     string
	wake   chan struct{} // to the engine
	again  chan struct{} // from an attempt that was woken in vain, or queued again
	cancel context.CancelFunc
	done   chan struct{}
}

// waiting returns the waiter of a claim that waits, whether it has an entry or not.
func (b *Backend) waiting(key, id string) *waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiters[ident{key, id}]
}

func (w *waiter) unregister() {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if x := (ident{w.key, w.id}); w.b.waiters[x] == w {
		delete(w.b.waiters, x)
	}
}

// enqueue puts c's entry at the end of the queue.
func (w *waiter) enqueue(ctx context.Context, c backend.Claim) error {
	b := w.b
	for range maxAttempts {
		e, _, kept, err := b.put(ctx, w.key, c, true)
		if err == errAgain {
			if e := b.tracked(w.key, w.id); e != nil {
				w.adopt(e)
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		w.adopt(e)
		// A keepalive that failed is made good by the next one, or by queueing
		// again if the lease has ended.
		_ = kept()
		return nil
	}
	return backend.Unavailable(errChanged)
}

// adopt makes e the entry that w waits with, unless w has been stopped meanwhile.
func (w *waiter) adopt(e *entry) {
	b := w.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.waiter == w || e.forgotten || b.waiters[e.ident()] != w {
		return
	}
	e.waiter = w
	if e.state == pending {
		e.state = waiting
		b.unscheduleLocked(e)
	}
	e.lease.waiters++
	b.keepLocked(e.lease, e.lease.ttl/3)
	w.searchAgain()
}

// signal wakes the engine. It does not block: a wake-up that was not taken yet
// serves for this one too.
func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// searchAgain makes run look up its place in the queue.
func (w *waiter) searchAgain() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// stop ends the registration; an entry that was not granted is deleted.
func (w *waiter) stop(ctx context.Context, granted bool) error {
	w.unregister()
	w.cancel()
	<-w.done
	b := w.b
	b.mu.Lock()
	e := b.entries[ident{w.key, w.id}]
	if e == nil {
		b.mu.Unlock()
		return nil
	}
	if e.waiter == w {
		b.dismissLocked(e)
	}
	keep := granted && e.state == held
	if !keep {
		// should the removal fail here, it is tried again
		e.inTime = e.inTime || e.state != expired
		e.state, e.leaving = expired, true
		b.scheduleLocked(e, time.Now().Add(reapPause))
	}
	b.mu.Unlock()
	if keep {
		return nil
	}
	if err := b.remove(ctx, []*entry{e}); err != nil {
		return b.fail("stop waiting for", w.key, err)
	}
	return nil
}
