package memlock

import (
	"context"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Op names a verb, for faults.
type Op string

// The verbs.
const (
	OpAcquire    Op = "acquire"
	OpRenew      Op = "renew"
	OpRelease    Op = "release"
	OpInspect    Op = "inspect"
	OpWatch      Op = "watch"
	OpBreak      Op = "break"
	OpList       Op = "list"
	OpRaiseToken Op = "raise-token"
	OpValue      Op = "value"
	OpSetValue   Op = "set-value"
	OpListValues Op = "list-values"
	OpAny        Op = ""
)

// Fault is what happens to a request. At most one of its fields but Delay and
// Times is set.
type Fault struct {
	Delay time.Duration // before the store sees the request; ends early with its context
	// Err is returned and the store does not see the request.
	Err error
	// LoseReply lets the store act and returns this error instead of the answer.
	LoseReply error
	// Hang keeps the request from returning, whatever its context says, until the
	// channel is closed; the store acts then, as a server does on a request that
	// was stuck in the network.
	Hang <-chan struct{}
	// Times is how many requests are hit; 0 means one, negative all.
	Times int
}

type rule struct {
	op  Op
	key string // "" for any
	f   Fault
}

type faults struct {
	mu      sync.Mutex
	rules   []*rule
	clients map[*Client]struct{}
	counts  map[Op]int
}

// Inject makes the next requests of this kind on this key ("" for any) fail as f
// says. Faults injected earlier come first. The returned function takes it back.
func (s *Store) Inject(op Op, key string, f Fault) (remove func()) {
	if f.Times == 0 {
		f.Times = 1
	}
	r := &rule{op, key, f}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.rules = append(s.faults.rules, r)
	return func() {
		s.faults.mu.Lock()
		defer s.faults.mu.Unlock()
		s.faults.remove(r)
	}
}

// Count returns how many requests of this kind clients have made so far,
// successful or not.
func (s *Store) Count(op Op) int {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	return s.faults.counts[op]
}

// Waiters returns how many clients' watches are registered on key: none once
// every Acquire of it has returned.
func (s *Store) Waiters(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[key]; e != nil {
		return len(e.watches)
	}
	return 0
}

// Expire makes key's holder stale now, as if its TTL had run out.
func (s *Store) Expire(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entry(key); e.held {
		e.renewed = time.Now().Add(-e.ttl)
		e.wake()
	}
}

// Forget makes the store forget all it knows of key, tokens and value
// included, as a flushed server does. The holder is not told.
func (s *Store) Forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(key)
	e.forget()
}

// Wipe forgets every key.
func (s *Store) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		e.forget()
	}
}

// Partition cuts the client off from the store, or puts it back. Requests of a
// client that is cut off fail when their context ends.
func (c *Client) Partition(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
}

func (f *faults) remove(r *rule) {
	for i, x := range f.rules {
		if x == r {
			f.rules = append(f.rules[:i], f.rules[i+1:]...)
			return
		}
	}
}

// pick returns the fault that hits this request, and counts it.
func (f *faults) pick(op Op, key string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = map[Op]int{}
	}
	f.counts[op]++
	f.counts[OpAny]++
	for _, r := range f.rules {
		if (r.op == OpAny || r.op == op) && (r.key == "" || r.key == key) {
			if r.f.Times > 0 {
				if r.f.Times--; r.f.Times == 0 {
					f.remove(r)
				}
			}
			return r.f, true
		}
	}
	return Fault{}, false
}

// before applies a fault; after, if not nil, replaces the answer.
func (f *faults) before(ctx context.Context, c *Client, op Op, key string) (after func() error, err error) {
	fault, hit := f.pick(op, key)
	c.mu.Lock()
	cut := c.cut
	c.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, backend.Unavailable(context.Cause(ctx))
	}
	if ctx.Err() != nil {
		return nil, backend.Unavailable(context.Cause(ctx))
	}
	if !hit {
		return nil, nil
	}
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, backend.Unavailable(context.Cause(ctx))
		}
	}
	if fault.Hang != nil {
		<-fault.Hang
	}
	if fault.Err != nil {
		return nil, fault.Err
	}
	if fault.LoseReply != nil {
		return func() error { return fault.LoseReply }, nil
	}
	return nil, nil
}

func (f *faults) subscribe(c *Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clients == nil {
		f.clients = map[*Client]struct{}{}
	}
	f.clients[c] = struct{}{}
}

func (f *faults) unsubscribe(c *Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.clients, c)
}

// lost tells every client that a grant is gone.
func (f *faults) lost(key, id string) {
	f.mu.Lock()
	var cs []*Client
	for c := range f.clients {
		cs = append(cs, c)
	}
	f.mu.Unlock()
	for _, c := range cs {
		c.notify(key, id)
	}
}
