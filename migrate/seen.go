package migrate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Seen is when a host was last heard of in a phase. It is for people: that a host is
// not listed says nothing.
type Seen struct {
	Phase Phase  `json:"phase"`
	Owner string `json:"owner"`
	Host  string `json:"host"`
	PID   int    `json:"pid"`
	// At is by that host's own clock.
	At time.Time `json:"at"`
}

// seen tells of this process, now and then, in the first store that it takes.
type seen struct {
	mu   sync.Mutex
	next time.Time
	busy bool
}

const (
	seenEvery = 5 * time.Minute
	seenMost  = 64 // hosts, each in its latest phases
	seenTTL   = 10 * time.Second
)

// tell notes, beside the caller and at most every few minutes, that this process takes
// locks in its phase. Whether that succeeds matters to nobody.
func (b *Backend) tell(c backend.Claim) {
	b.seen.mu.Lock()
	now := time.Now()
	if b.seen.busy || now.Before(b.seen.next) || b.closed.Load() {
		b.seen.mu.Unlock()
		return
	}
	b.seen.busy, b.seen.next = true, now.Add(seenEvery)
	b.tasks.Add(1)
	b.seen.mu.Unlock()
	me := Seen{b.phase, c.Holder.Owner, c.Holder.Host, c.Holder.PID, now.UTC()}
	go func() {
		defer b.tasks.Done()
		ctx, cancel := context.WithTimeout(b.life, seenTTL/2)
		defer cancel()
		h := marked(c.Holder, b.name, b.phase)
		b.write(ctx, me, h)
		if len(b.legs) == 2 {
			b.learnLead(ctx, h)
		}
		b.seen.mu.Lock()
		b.seen.busy = false
		b.seen.mu.Unlock()
	}()
}

// write puts me into the list, unless it is there or another writes it just now.
func (b *Backend) write(ctx context.Context, me Seen, h backend.Holder) {
	s := b.legs[0]
	list, err := readSeen(ctx, s.b)
	if err != nil {
		return
	}
	for _, x := range list {
		if x.Host == me.Host && x.Phase == me.Phase && me.At.Sub(x.At).Abs() < seenEvery {
			return
		}
	}
	g, err := s.b.Acquire(ctx, seenKey, backend.Claim{ID: rand.Text(), Holder: h, TTL: seenTTL})
	if err != nil {
		return
	}
	if list, err = readSeen(ctx, s.b); err == nil {
		list = slices.DeleteFunc(list, func(x Seen) bool { return x.Host == me.Host && x.Phase == me.Phase })
		list = append([]Seen{me}, list...)
		data, _ := json.Marshal(list[:min(len(list), seenMost)])
		if ng, err := backend.SetValue(ctx, s.b, g, backend.Value{Data: data, Token: g.Token, Seq: 1}); err == nil {
			g = ng
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.b.Release(ctx, g)
}

func readSeen(ctx context.Context, b backend.Backend) (list []Seen, err error) {
	v, err := backend.ReadValue(ctx, b, seenKey)
	if err != nil || !v.Exists() {
		return nil, err
	}
	if json.Unmarshal(v.Data, &list) != nil {
		return nil, nil // somebody else's, and to be written over
	}
	return list, nil
}
