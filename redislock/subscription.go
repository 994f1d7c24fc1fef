package redislock

import (
	"time"

	"github.com/redis/go-redis/v9"
)

// subscription is a Backend's one connection for messages. hub.mu guards it.
type subscription struct {
	ps    *redis.PubSub
	since time.Time // when it was confirmed
}

// take returns the connection, to be closed outside the lock, and forgets it.
func (s *subscription) take() *redis.PubSub {
	ps := s.ps
	s.ps, s.since = nil, time.Time{}
	return ps
}

// unheard is called when the server says that nobody listens on the channel: the
// connection may lead to a server that is no longer the primary, or nowhere. One
// that was confirmed just now is left alone, since the answer may be older.
func (s *subscription) unheard() *redis.PubSub {
	if s.since.IsZero() || time.Since(s.since) < tendEvery {
		return nil
	}
	return s.take()
}

func closePubSub(ps *redis.PubSub) {
	if ps != nil {
		_ = ps.Close() // the connection is given up either way
	}
}

// open returns the subscription to receive from; nil once it is closed.
func (h *hub) open() *redis.PubSub {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	ps, fresh := h.sub.ps, h.sub.ps == nil
	if fresh {
		ps = h.b.client.Subscribe(h.ctx) // to nothing yet: that needs no connection
		h.sub.ps = ps
	}
	h.mu.Unlock()
	if fresh {
		// Not with the mutex held, which those wait for whose context may end. An
		// error shows, and is dealt with, when receiving.
		_ = ps.Subscribe(h.ctx, h.b.channel)
	}
	return ps
}

// receive hands messages to the waiters until the hub is closed. After a break
// in the connection it looks after all waiters, because messages are not stored.
func (h *hub) receive() {
	pause := 10 * time.Millisecond
	for {
		ps := h.open()
		if ps == nil {
			return
		}
		msg, err := ps.Receive(h.ctx)
		if err != nil {
			h.broken()
			select {
			case <-h.ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 10 * time.Millisecond
		switch msg := msg.(type) {
		case *redis.Subscription:
			if msg.Kind == "subscribe" {
				h.confirmed()
			}
		case *redis.Message:
			switch verb, id, lock := parseMessage(msg.Payload); verb {
			case "turn":
				h.turn(id, lock)
			case "lost":
				h.lost(id, lock)
			}
		}
	}
}

func (h *hub) confirmed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sub.since = time.Now()
	select {
	case <-h.ready:
	default:
		close(h.ready)
	}
	now := time.Now()
	for _, k := range h.keys {
		k.due = now
	}
	h.wakeRun()
}

func (h *hub) broken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sub.since = time.Time{}
	select {
	case <-h.ready:
		h.ready = make(chan struct{})
	default:
	}
}
