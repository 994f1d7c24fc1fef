package redislock

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
)

const (
	// tendEvery is how often a client looks after its waiters for one key, and
	// tendCost how much longer that gets for each key it waits for, so that a
	// client sends at most a thousand of these a second.
	tendEvery = time.Second
	tendCost  = time.Millisecond
	// headLeast is the least patience that tending can keep up with.
	headLeast = 100 * time.Millisecond
	// queueLife is how long a queue survives the last of its clients, at least.
	queueLife = time.Minute
	// subscribeWait is how long Watch waits for the subscription to be confirmed.
	// It is the first thing that a Backend does, so Watch seldom waits at all.
	subscribeWait = 2 * time.Second
)

// waiter is one registration by Watch.
type waiter struct {
	id    string
	key   string
	wake  chan struct{}
	place string // in the queue; "" asks for the end of it
}

// Watch puts c into key's queue, first come first served. The channel receives
// when c's turn has come: then nobody else can acquire key for a moment
// (Options.Patience), or as long as c does not give its turn up.
func (b *Backend) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	if err := b.begin(key); err != nil {
		return nil, nil, err
	}
	if err := backend.ValidateClaim(c); err != nil {
		return nil, nil, err
	}
	if err := b.notifier.subscribed(ctx); err != nil {
		return nil, nil, err
	}
	w := &waiter{id: c.ID, key: key, wake: make(chan struct{}, 1)}
	// Registered first, so that its turn finds it even if it comes at once.
	b.notifier.add(w)
	call := b.waitCall(key, []*waiter{w})
	reply, err := b.run(ctx, waitScript(), call.keys, call.args...)
	if err != nil {
		b.notifier.remove(w)
		return nil, nil, b.verbError(err)
	}
	b.notifier.tended(key, []*waiter{w}, reply)
	return w.wake, func(ctx context.Context, granted bool) error { return b.leave(ctx, w, granted) }, nil
}

// leave takes w off the queue. An acquire that was granted has done so already; but where
// the lock was released since, and w still tended, it has been given another turn, and woken.
func (b *Backend) leave(ctx context.Context, w *waiter, granted bool) error {
	b.notifier.remove(w)
	if granted && len(w.wake) == 0 {
		return nil
	}
	if b.closed.Load() {
		return backend.ErrClosed
	}
	call := b.leaveCall(w.id, b.names(w.key))
	_, err := b.run(ctx, leaveScript(), call.keys, call.args...)
	return b.verbError(err)
}

func (b *Backend) leaveCall(id string, n names) call {
	return call{n.all(), []any{id, b.channel, b.manners}}
}

func (b *Backend) waitCall(key string, ws []*waiter) call {
	args := make([]any, 0, 3+2*len(ws))
	args = append(args, b.channel, millis(b.notifier.queueLife()), b.manners)
	for _, w := range ws {
		args = append(args, w.id, b.notifier.placeOf(w))
	}
	return call{b.names(key).all(), args}
}

// OnLoss calls f when a lock of this Backend is broken by an operator. What else
// ends a lock (expiry, a flushed server) only the next heartbeat tells.
func (b *Backend) OnLoss(f func(key, id string)) (cancel func()) {
	if b.closed.Load() {
		return func() {}
	}
	b.notifier.start()
	return b.notifier.onLoss(f)
}
