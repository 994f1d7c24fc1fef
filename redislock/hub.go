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

// hub is where a Backend's waiters meet its one subscription. It has two
// goroutines, from the first Watch or OnLoss until Close: one receives messages
// (subscription.go), one looks after the waiters.
type hub struct {
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

func newHub(b *Backend) *hub {
	h := &hub{
		b:       b,
		kick:    make(chan struct{}, 1),
		ready:   make(chan struct{}),
		waiters: map[string]*waiter{},
		keys:    map[string]*waitedKey{},
		losses:  map[int]func(key, id string){},
	}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

func (h *hub) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.started || h.closed {
		return
	}
	h.started = true
	h.wg.Go(h.receive)
	h.wg.Go(h.run)
}

func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	h.stop()
	ps := h.sub.take()
	h.mu.Unlock()
	closePubSub(ps)
	h.wg.Wait()
}

// subscribed starts the subscription and waits until the server has confirmed
// it, or not too long: a waiter that is not heard of is not lost, only slow.
func (h *hub) subscribed(ctx context.Context) error {
	h.start()
	h.mu.Lock()
	ready := h.ready
	h.mu.Unlock()
	select {
	case <-ready:
		return nil
	default:
	}
	timer := time.NewTimer(subscribeWait)
	defer timer.Stop()
	select {
	case <-ready:
	case <-timer.C:
		return backend.Unavailable(errors.New("redis: the subscription that wakes waiters is not confirmed"))
	case <-ctx.Done():
		return backend.Unavailable(ctx.Err())
	case <-h.ctx.Done():
		return backend.ErrClosed
	}
	return nil
}

func (h *hub) add(w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiters[w.id] = w
	k := h.keys[w.key]
	if k == nil {
		k = &waitedKey{waiters: map[*waiter]bool{}, due: time.Now().Add(tendEvery)}
		h.keys[w.key] = k
	}
	k.waiters[w] = true
	h.wakeRun()
}

func (h *hub) remove(w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiters[w.id] == w {
		delete(h.waiters, w.id)
	}
	if k := h.keys[w.key]; k != nil {
		delete(k.waiters, w)
		if len(k.waiters) == 0 {
			delete(h.keys, w.key)
		}
	}
}

// turn wakes the waiter whose turn it is. If it has left meanwhile, the turn is
// given up at once, so that the next need not wait for it to run out.
func (h *hub) turn(id, lock string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.waiters[id]; w != nil {
		w.place = "" // should it let its turn pass, it goes to the end
		select {
		case w.wake <- struct{}{}:
		default:
		}
		return
	}
	if key, ok := h.b.keyOf(lock); ok {
		h.declined = append(h.declined, h.b.leaveCall(id, h.b.names(key)))
		h.wakeRun()
	}
}

func (h *hub) onLoss(f func(key, id string)) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nextLoss
	h.nextLoss++
	h.losses[n] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.losses, n)
	}
}

func (h *hub) lost(id, lock string) {
	key, ok := h.b.keyOf(lock)
	if !ok {
		return
	}
	h.mu.Lock()
	fs := make([]func(key, id string), 0, len(h.losses))
	for _, f := range h.losses {
		fs = append(fs, f)
	}
	h.mu.Unlock()
	for _, f := range fs {
		f(key, id)
	}
}

// wakeRun makes run look again. Called with mu held or not.
func (h *hub) wakeRun() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// every is how often each key is tended.
func (h *hub) every(keys int) time.Duration { return tendEvery + time.Duration(keys)*tendCost }

func (h *hub) queueLife() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(queueLife, 10*h.every(len(h.keys)))
}

func (h *hub) placeOf(w *waiter) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return w.place
}

// minPause is how long run sleeps at least: it looks at every key each time.
const minPause = 5 * time.Millisecond

// run declines turns and tends the keys that are due.
func (h *hub) run() {
	timer := time.NewTimer(tendEvery)
	defer timer.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-h.kick:
		case <-timer.C:
		}
		declined, due := h.take(time.Now())
		if len(declined) > 0 {
			h.send(func(ctx context.Context) { pipeline(ctx, h.b.client, leaveScript(), declined) })
		}
		for chunk := range slices.Chunk(due, tendChunk) {
			h.send(func(ctx context.Context) { h.tend(ctx, chunk) })
		}
		timer.Reset(h.pause(time.Now()))
	}
}

// tendChunk is how many keys are tended in one pipeline.
const tendChunk = 256

// dueKey is a key to be tended, with those who wait for it.
type dueKey struct {
	key     string
	waiters []*waiter
}

// take returns what there is to do now.
func (h *hub) take(now time.Time) (declined []call, due []dueKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	declined, h.declined = h.declined, nil
	for key, k := range h.keys {
		if k.due.After(now) {
			continue
		}
		d := dueKey{key: key}
		for w := range k.waiters {
			d.waiters = append(d.waiters, w)
		}
		due = append(due, d)
		k.due = now.Add(h.every(len(h.keys)))
	}
	return declined, due
}

func (h *hub) pause(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause := time.Hour // add kicks
	for _, k := range h.keys {
		pause = min(pause, k.due.Sub(now))
	}
	return max(pause, minPause)
}

// send bounds f, which talks to the server. Whatever fails is tried again with
// the next tending, and the engine's own retries do not depend on it.
func (h *hub) send(f func(context.Context)) {
	ctx, cancel := context.WithTimeout(h.ctx, 5*time.Second)
	defer cancel()
	f(ctx)
}

func (h *hub) tend(ctx context.Context, due []dueKey) {
	calls := make([]call, len(due))
	for i, d := range due {
		calls[i] = h.b.waitCall(d.key, d.waiters)
	}
	for i, cmd := range pipeline(ctx, h.b.client, waitScript(), calls) {
		if reply, err := cmd.Result(); err == nil {
			h.tended(due[i].key, due[i].waiters, reply)
		}
	}
}

// tended notes wait.lua's answer {now, ms, mine, heard}.
func (h *hub) tended(key string, ws []*waiter, reply any) {
	list, ok := reply.([]any)
	if !ok || len(list) != 4 {
		return
	}
	place, _ := list[0].(string)
	ms, _ := list[1].(int64)
	h.mu.Lock()
	defer h.mu.Unlock()
	if list[3] == int64(0) && !h.closed {
		// Closing waits for a connection that is being made.
		if ps := h.sub.unheard(); ps != nil {
			h.wg.Go(func() { closePubSub(ps) })
		}
	}
	for _, w := range ws {
		if w.place == "" {
			w.place = place
		}
	}
	k := h.keys[key]
	if k == nil {
		return
	}
	if list[2] == int64(1) && ms >= 0 {
		// The first in the queue is ours: look again when the lock or the turn runs
		// out, to be served then.
		if at := time.Now().Add(time.Duration(ms+1) * time.Millisecond); at.Before(k.due) {
			k.due = at
			h.wakeRun()
		}
	}
}

// parseMessage splits "turn <id> <lock>" and "lost <id> <lock>".
func parseMessage(payload string) (verb, id, lock string) {
	verb, rest, _ := strings.Cut(payload, " ")
	id, lock, _ = strings.Cut(rest, " ")
	return verb, id, lock
}
