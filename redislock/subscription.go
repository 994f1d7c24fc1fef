package redislock

import (
	"errors"
	"io/fs"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// pingEvery is how often the server is asked whether it is still there, on a
	// subscription on which nothing else comes. A connection can be half open for
	// hours: then the server counts it, and the client hears nothing.
	pingEvery = time.Second
	// pingIdle is the same while nobody waits: what could be missed then is only that
	// a lock was broken, of which the next heartbeat tells as well.
	pingIdle = 10 * time.Second
	// pongWithin is how long an answer may take before the connection is given up,
	// and confirmWithin how long it may take to be made.
	pongWithin    = 2 * time.Second
	confirmWithin = 10 * time.Second
)

// subscription is a Backend's one connection for messages. notifier.mu guards it.
type subscription struct {
	ps    *redis.PubSub
	since time.Time // when it was confirmed; zero if it is not
	heard time.Time // when something came
	asked time.Time // since when an answer is owed; zero if none is
}

// take returns the connection, to be closed outside the lock, and forgets it.
func (s *subscription) take() *redis.PubSub {
	ps := s.ps
	*s = subscription{}
	return ps
}

// settled tells whether it was confirmed some time ago, so that a server which says
// that nobody listens on the channel speaks of this connection. It may lead to a
// server that is no longer the primary, or nowhere.
func (s *subscription) settled() bool {
	return !s.since.IsZero() && time.Since(s.since) >= tendEvery
}

// hears notes that something came.
func (s *subscription) hears(now time.Time) { s.heard, s.asked = now, time.Time{} }

// deafAt is when the connection is to be given up.
func (s *subscription) deafAt() (time.Time, bool) {
	switch {
	case s.ps == nil || s.asked.IsZero():
		return time.Time{}, false
	case s.since.IsZero():
		return s.asked.Add(confirmWithin), true
	}
	return s.asked.Add(pongWithin), true
}

// pingAt is when to ask next.
func (s *subscription) pingAt(waiting bool) (time.Time, bool) {
	if s.since.IsZero() || !s.asked.IsZero() {
		return time.Time{}, false
	}
	if waiting {
		return s.heard.Add(pingEvery), true
	}
	return s.heard.Add(pingIdle), true
}

// pause is how long there is nothing to do about it.
func (s *subscription) pause(now time.Time, waiting bool) time.Duration {
	if at, ok := s.deafAt(); ok {
		return at.Sub(now)
	}
	if at, ok := s.pingAt(waiting); ok {
		return at.Sub(now)
	}
	return time.Hour // confirmed kicks
}

func closePubSub(ps *redis.PubSub) {
	if ps != nil {
		_ = ps.Close() // the connection is given up either way
	}
}

// listen asks the server on the subscription whether it is there, when that is due,
// and gives up a connection on which it does not answer.
func (n *notifier) listen(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.sub.deafAt(); ok && !at.After(now) {
		n.resubscribe()
		return
	}
	if at, ok := n.sub.pingAt(len(n.keys) > 0); ok && !at.After(now) && !n.closed {
		n.sub.asked = now
		ps := n.sub.ps
		// Writing may take its time-out, and tending cannot wait for it. What comes of
		// it shows when receiving.
		n.wg.Go(func() { _ = ps.Ping(n.ctx) })
	}
}

// resubscribe gives the connection up; receive makes another. Called with mu held.
func (n *notifier) resubscribe() {
	if n.closed {
		return
	}
	ps := n.sub.take()
	// Closing waits for a connection that is being made.
	n.wg.Go(func() { closePubSub(ps) })
}

// open returns the subscription to receive from; nil once it is closed.
func (n *notifier) open() *redis.PubSub {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	ps, fresh := n.sub.ps, n.sub.ps == nil
	if fresh {
		ps = n.b.client.Subscribe(n.ctx) // to nothing yet: that needs no connection
		n.sub.ps, n.sub.asked = ps, time.Now()
		n.wakeRun()
	}
	n.mu.Unlock()
	if fresh {
		// Not with the mutex held, which those wait for whose context may end. An
		// error shows, and is dealt with, when receiving.
		_ = ps.Subscribe(n.ctx, n.b.channel)
	}
	return ps
}

// receive hands messages to the waiters until the notifier is closed. After a break
// in the connection it looks after all waiters, because messages are not stored.
func (n *notifier) receive() {
	pause := 10 * time.Millisecond
	for {
		ps := n.open()
		if ps == nil {
			return
		}
		msg, err := ps.Receive(n.ctx)
		if err != nil {
			n.broken(ps, err)
			select {
			case <-n.ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 10 * time.Millisecond
		n.mu.Lock()
		if n.sub.ps == ps {
			n.sub.hears(time.Now())
		}
		n.mu.Unlock()
		switch msg := msg.(type) {
		case *redis.Subscription:
			if msg.Kind == "subscribe" {
				n.confirmed(ps)
			}
		case *redis.Message:
			switch verb, id, lock := parseMessage(msg.Payload); verb {
			case "turn":
				n.turn(id, lock)
			case "call":
				n.called(lock)
			case "lost":
				n.lost(id, lock)
			}
		}
	}
}

func (n *notifier) confirmed(ps *redis.PubSub) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sub.ps != ps {
		return // given up in the meantime
	}
	n.sub.since = time.Now()
	n.refused = nil
	select {
	case <-n.ready:
	default:
		close(n.ready)
	}
	now := time.Now()
	for _, k := range n.keys {
		k.due = now
	}
	n.wakeRun()
}

// broken is called when the subscription is not confirmed, or not any more. The
// library connects again by itself, unless the connection was given up.
func (n *notifier) broken(ps *redis.PubSub, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sub.ps == ps {
		n.sub.since, n.sub.asked = time.Time{}, time.Now()
		n.wakeRun()
	}
	select {
	case <-n.ready:
		n.ready = make(chan struct{})
	default:
	}
	if _, err := n.b.explain(err); errors.Is(err, fs.ErrPermission) {
		n.refused = err
		select {
		case <-n.no:
		default:
			close(n.no)
		}
	}
}
