package redislock

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// every is how often each key is tended.
func (n *notifier) every(keys int) time.Duration { return tendEvery + time.Duration(keys)*tendCost }

// headEvery is how often one is tended where the next turn is ours: so often that
// the client finds out while it lasts, if the message does not reach it.
func (n *notifier) headEvery(keys int) time.Duration {
	return min(tendEvery, max(n.b.patience, headLeast))/2 + time.Duration(keys)*tendCost
}

func (n *notifier) queueLife() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return max(queueLife, 10*n.every(len(n.keys)))
}

// minPause is how long run sleeps at least: it looks at every key each time.
const minPause = 5 * time.Millisecond

// run declines turns and tends the keys that are due.
func (n *notifier) run() {
	timer := time.NewTimer(tendEvery)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.kick:
		case <-timer.C:
		}
		n.listen(time.Now())
		declined, due := n.take(time.Now())
		if len(declined) > 0 {
			n.send(func(ctx context.Context) { pipeline(ctx, n.b.client, leaveScript(), declined) })
			if n.ctx.Err() != nil { // it may not have been sent: close says it once more
				n.mu.Lock()
				n.declined = append(n.declined, declined...)
				n.mu.Unlock()
			}
		}
		for chunk := range slices.Chunk(due, tendChunk) {
			n.send(func(ctx context.Context) { n.tend(ctx, chunk) })
		}
		timer.Reset(n.pause(time.Now()))
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
func (n *notifier) take(now time.Time) (declined []call, due []dueKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	declined, n.declined = n.declined, nil
	for key, k := range n.keys {
		if k.due.After(now) {
			continue
		}
		d := dueKey{key: key}
		for w := range k.waiters {
			d.waiters = append(d.waiters, w)
		}
		due = append(due, d)
		k.due = now.Add(n.every(len(n.keys)))
	}
	return declined, due
}

func (n *notifier) pause(now time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	pause := n.sub.pause(now, len(n.keys) > 0) // add kicks
	for _, k := range n.keys {
		pause = min(pause, k.due.Sub(now))
	}
	return max(pause, minPause)
}

// send bounds f, which talks to the server. Whatever fails is tried again with
// the next tending, and the engine's own retries do not depend on it.
func (n *notifier) send(f func(context.Context)) {
	ctx, cancel := context.WithTimeout(n.ctx, 5*time.Second)
	defer cancel()
	f(ctx)
}

func (n *notifier) tend(ctx context.Context, due []dueKey) {
	calls := make([]call, len(due))
	for i, d := range due {
		calls[i] = n.b.waitCall(d.key, d.waiters)
	}
	for i, cmd := range pipeline(ctx, n.b.client, waitScript(), calls) {
		if reply, err := cmd.Result(); err == nil {
			n.tended(due[i].key, due[i].waiters, reply)
		}
		n.left(due[i])
	}
}

// left takes off the queue, once more, who has left it meanwhile: the script may have
// come later, and put the waiter back.
func (n *notifier) left(d dueKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range d.waiters {
		if n.waiters[w.id] != w {
			n.declined = append(n.declined, n.b.leaveCall(w.id, n.b.names(d.key)))
			n.wakeRun()
		}
	}
}

// tended notes wait.lua's answer {end, ms, mine, heard, turn}.
func (n *notifier) tended(key string, ws []*waiter, reply any) {
	list, ok := reply.([]any)
	if !ok || len(list) != 5 {
		return
	}
	place, _ := list[0].(string)
	ms, _ := list[1].(int64)
	whose, _ := list[4].(string)
	switch whose {
	case "", "-":
	case "*":
		n.wakeOne(key)
	default:
		// As a rule the message has come before: then this wakes it once too often.
		n.turn(whose, n.b.lockName(key))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if list[3] == int64(0) && n.sub.settled() {
		n.resubscribe()
	}
	for _, w := range ws {
		if w.place == "" {
			w.place = place
		}
	}
	k := n.keys[key]
	if k == nil {
		return
	}
	if whose == "-" {
		// Should the turn be let pass, somebody has to find out. Not all at once.
		n.lookIn(k, span(ms+1+rand.N(n.b.patience/4+1).Milliseconds()))
	}
	if list[2] == int64(1) {
		// The first in the queue is ours: look again when the lock or the turn runs
		// out, to be served then.
		d := n.headEvery(len(n.keys))
		if ms >= 0 {
			d = min(d, span(ms+1))
		}
		n.lookIn(k, d)
	}
}

// lookIn makes run tend a key in d at the latest. Called with mu held.
func (n *notifier) lookIn(k *waitedKey, d time.Duration) {
	if at := time.Now().Add(d); at.Before(k.due) {
		k.due = at
		n.wakeRun()
	}
}
