package migrate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// settleTokens returns the token that is handed out for what h holds: the greatest of
// the stores'. It exceeds every token handed out before, whichever phase that was in,
// since each of them was the last one of its key in some store.
//
// In every store whose own token is less, the next one has to exceed it as well: it is
// raised there, and only if a renewal after that finds the lock still held may the
// token be handed out. A raise by a process that has been overtaken comes too late for
// the one that overtook it, and nothing but the renewal tells.
func (b *Backend) settleTokens(ctx context.Context, c backend.Claim, h *held) (uint64, error) {
	token := h.parts[0].g.Token
	for i := range h.parts {
		token = max(token, h.parts[i].g.Token)
	}
	if len(h.parts) > 1 && !isSealed(h.parts[0].g) {
		b.lead.note(h.parts[0].g.Token, h.parts[1].g.Token)
	}
	for i, s := range b.legs {
		p := &h.parts[i]
		if p.g.Token == token || isSealed(p.g) {
			continue
		}
		if err := backend.RaiseToken(ctx, s.b, p.g.Key, token); err != nil {
			return 0, sided(s.side, fmt.Errorf("the tokens of the two stores cannot be brought together: %w", err))
		}
		g, err := s.b.Renew(ctx, p.g)
		switch {
		case errors.Is(err, backend.ErrLost):
			// It is not that a lease was lost: none has been made yet.
			return 0, backend.Unavailable(sided(s.side, errors.New("the lock was taken over before it could be handed out")))
		case err != nil:
			return 0, sided(s.side, err)
		}
		p.g = g
	}
	return token, nil
}

// lead makes phase both cheap. The new store is asked after the old one, and its clock may
// run ahead besides, so that its token would be the greater one as a rule, and each
// Acquire would have to raise the old store's and renew. So the old store is asked for
// tokens that are ahead of the new one's clock, and the new one then grants the same.
//
// How far that is is learned from a grant of a key that nobody else uses, and never from
// those of users' keys: theirs have histories, tokens would run ahead of tokens, and the
// floor that a step computes from the stores' clocks would not be above them all. What
// is asked for is less than floorMargin above that clock. It is rounded up to some
// seconds, because a store may have to write whenever it is asked for more than the
// last time.
type lead struct {
	mu     sync.Mutex
	token  uint64    // the new store's
	at     time.Time // when it was granted, or later
	missed int       // how often in a row it was asked for, and not enough
}

const (
	leadRound  = 1 << 24 // µs: 17 s
	leadSlack  = time.Second
	leadLasts  = 2 * seenEvery
	leadMisses = 3
)

// floor is what the old store's next token has to exceed; 0 if nothing is known.
func (l *lead) floor() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := time.Since(l.at)
	if l.token == 0 || l.missed >= leadMisses || since > leadLasts || l.token > math.MaxInt64 {
		return 0
	}
	ahead := l.token + uint64((since + leadSlack).Microseconds())
	return (ahead + leadRound - 1) / leadRound * leadRound
}

// learn takes in what the new store has just granted.
func (l *lead) learn(token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.at, l.missed = token, time.Now(), 0
}

// note counts what the two stores have granted. A store whose tokens do not follow a
// clock is not asked for a lead any more until it is learned anew.
func (l *lead) note(old, new uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if new <= old {
		l.missed = 0
	} else if l.token != 0 {
		l.missed++
	}
}

// learnLead asks the new store for a token of a key that is not used otherwise.
func (b *Backend) learnLead(ctx context.Context, h backend.Holder) {
	s := b.sides[1]
	g, err := s.b.Acquire(ctx, clockKey, backend.Claim{ID: rand.Text(), Holder: h, TTL: seenTTL})
	if err != nil {
		return
	}
	b.lead.learn(g.Token)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = s.b.Release(ctx, g)
}

// raiseOther raises in the store that this phase does not take, if there is one: what a
// user has asked for before a step holds after it. Where that store has been let go
// nothing is lost.
func (b *Backend) raiseOther(ctx context.Context, key string, floor uint64) error {
	if len(b.legs) == 2 {
		return nil
	}
	own := b.legs[0]
	other := b.store(own.side.other())
	_, err := beside(ctx, b, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, backend.RaiseToken(ctx, other.b, key, floor)
	})
	if err == nil {
		return nil
	}
	rec, rerr := readRecord(ctx, own.b)
	if rerr == nil && rec.Complete {
		return nil
	}
	return sided(other.side, err)
}

// RaiseToken implements backend.TokenRaiser: in both stores, in every phase.
func (b *Backend) RaiseToken(ctx context.Context, key string, floor uint64) error {
	if err := b.begin(key); err != nil {
		return err
	}
	errs := make([]error, len(b.legs))
	each(b.legs, func(i int, s *store) { errs[i] = sided(s.side, backend.RaiseToken(ctx, s.b, key, floor)) })
	if err := joined(errs...); err != nil {
		return err
	}
	return b.raiseOther(ctx, key, floor)
}
