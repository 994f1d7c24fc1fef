package redislock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// notifier is where a Backend's waiters meet its one subscription. It has two
// goroutines, from the first Watch or OnLoss until Close: one receives messages
// (subscription.go), one looks after the waiters.
type notifier struct {
	b    *Backend
	ctx  context.Context // ends at close
	stop context.CancelFunc
	wg   sync.WaitGroup
	kick chan struct{} // due times may have changed, or there is something to decline

	mu       sync.Mutex
	started  bool
	closed   bool
	sub      subscription
	ready    chan struct{} // closed while the subscription is confirmed
	no       chan struct{} // closed when it has been refused once
	refused  error         // why it is refused
	waiters  map[string]*waiter
	keys     map[string]*waitedKey
	declined []call
	losses   map[int]func(key, id string)
	nextLoss int
}

// waitedKey is a key that this client waits for.
type waitedKey struct {
	waiters map[*waiter]bool
	due     time.Time // when to look after them next
}

func newNotifier(b *Backend) *notifier {
	n := &notifier{
		b:       b,
		kick:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		no:      make(chan struct{}),
		waiters: map[string]*waiter{},
		keys:    map[string]*waitedKey{},
		losses:  map[int]func(key, id string){},
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n
}

func (n *notifier) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.started || n.closed {
		return
	}
	n.started = true
	n.wg.Go(n.receive)
	n.wg.Go(n.run)
}

func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	n.stop()
	ps := n.sub.take()
	n.mu.Unlock()
	closePubSub(ps)
	n.wg.Wait()
	n.sayGoodbye()
}

// goodbyeWait is how long Close tries to leave the queues.
const goodbyeWait = 500 * time.Millisecond

// sayGoodbye takes off the queues who still waits, and who was put back, or given the
// turn, by a script that was under way at the end. The server forgets them by itself,
// but later, and a turn that is let pass costs the next waiter Options.Patience.
func (n *notifier) sayGoodbye() {
	n.mu.Lock()
	calls := n.declined
	n.declined = nil
	for _, w := range n.waiters {
		calls = append(calls, n.b.leaveCall(w.id, n.b.names(w.key)))
	}
	n.mu.Unlock()
	if len(calls) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeWait)
	defer cancel()
	for chunk := range slices.Chunk(calls, tendChunk) {
		pipeline(ctx, n.b.client, leaveScript(), chunk)
	}
}

// subscribed starts the subscription and waits until the server has confirmed or
// refused it, or not too long: a waiter that is not heard of is not lost, only slow.
func (n *notifier) subscribed(ctx context.Context) error {
	n.start()
	n.mu.Lock()
	ready, no := n.ready, n.no
	n.mu.Unlock()
	select {
	case <-ready:
		return nil
	default:
	}
	timer := time.NewTimer(subscribeWait)
	defer timer.Stop()
	for {
		select {
		case <-ready:
			return nil
		case <-no:
			no = nil
			n.mu.Lock()
			err := n.refused
			n.mu.Unlock()
			if err != nil {
				return err
			}
		case <-timer.C:
			return backend.Unavailable(errNotConfirmed)
		case <-ctx.Done():
			return backend.Unavailable(ctx.Err())
		case <-n.ctx.Done():
			return backend.ErrClosed
		}
	}
}

var errNotConfirmed = errors.New("redis: the subscription that wakes waiters is not confirmed")

func (n *notifier) add(w *waiter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiters[w.id] = w
	k := n.keys[w.key]
	if k == nil {
		k = &waitedKey{waiters: map[*waiter]bool{}, due: time.Now().Add(tendEvery)}
		n.keys[w.key] = k
	}
	k.waiters[w] = true
	n.wakeRun()
}

func (n *notifier) remove(w *waiter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiters[w.id] == w {
		delete(n.waiters, w.id)
	}
	if k := n.keys[w.key]; k != nil {
		delete(k.waiters, w)
		if len(k.waiters) == 0 {
			delete(n.keys, w.key)
		}
	}
}

// turn wakes the waiter whose turn it is. If it has left meanwhile, the turn is
// given up at once, so that the next need not wait for it to run out.
func (n *notifier) turn(id, lock string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.waiters[id]; w != nil {
		w.place = "" // should it let its turn pass, it goes to the end
		select {
		case w.wake <- struct{}{}:
		default:
		}
		return
	}
	if key, ok := n.b.keyOf(lock); ok {
		n.declined = append(n.declined, n.b.leaveCall(id, n.b.names(key)))
		n.wakeRun()
	}
}

// wakeOne wakes one of those who wait for key, whichever.
func (n *notifier) wakeOne(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if k := n.keys[key]; k != nil {
		for w := range k.waiters {
			select {
			case w.wake <- struct{}{}:
			default:
			}
			return
		}
	}
}

// called answers a roll call: it tends the key at once.
func (n *notifier) called(lock string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if key, ok := n.b.keyOf(lock); ok && n.keys[key] != nil {
		n.lookIn(n.keys[key], 0)
	}
}

func (n *notifier) onLoss(f func(key, id string)) (cancel func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.nextLoss
	n.nextLoss++
	n.losses[id] = f
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.losses, id)
	}
}

func (n *notifier) lost(id, lock string) {
	key, ok := n.b.keyOf(lock)
	if !ok {
		return
	}
	n.mu.Lock()
	fs := make([]func(key, id string), 0, len(n.losses))
	for _, f := range n.losses {
		fs = append(fs, f)
	}
	n.mu.Unlock()
	for _, f := range fs {
		f(key, id)
	}
}

// wakeRun makes run look again. Called with mu held or not.
func (n *notifier) wakeRun() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

func (n *notifier) placeOf(w *waiter) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return w.place
}

// parseMessage splits "turn <id> <lock>", "call - <lock>" and "lost <id> <lock>".
func parseMessage(payload string) (verb, id, lock string) {
	verb, rest, _ := strings.Cut(payload, " ")
	id, lock, _ = strings.Cut(rest, " ")
	return verb, id, lock
}
