//go:build unix

package efs

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
)

// nonces make the names of this process's attempts new: a random prefix and a
// counter, which is cheaper than asking for randomness each time.
var (
	noncePrefix = rand.Text()[:10]
	nonceCount  atomic.Uint64
)

func nonce() string { return noncePrefix + strconv.FormatUint(nonceCount.Add(1), 36) }

// read lists the state directory afresh and returns the baton, and the time of
// the directory's last change as the server knew it before the listing: the
// baton has had its name at least since then, or longer.
func (p *place) read() (b baton, changed time.Time, err error) {
	var names []string
	for i := range 12 {
		// A listing taken while the baton is renamed can show none, or two.
		time.Sleep(time.Duration(i) * time.Millisecond)
		st, err := p.b.sys.stat(p.stateDir, "")
		if err != nil {
			return b, changed, err
		}
		if names, err = p.b.sys.names(p.stateDir); err != nil {
			return b, changed, err
		}
		found := 0
		for _, n := range names {
			if x, ok := parseBaton(n); ok {
				b = x
				found++
			} else if !strings.HasPrefix(n, ".") { // file systems and desktops leave such
				return b, changed, corrupt("%s has a file %q that hasp did not put there; remove it, or use a version of hasp that knows it", p.statePath(), n)
			}
		}
		if found == 1 {
			return b, st.mtime, nil
		}
		if found == 0 {
			if cur, err := p.b.sys.stat(p.parentDir, p.state); isGone(err) || err == nil && cur.id != p.stateID {
				return b, changed, errGone
			}
		}
	}
	if len(names) == 0 {
		return b, changed, corrupt("%s is empty: the file that stands for the lock was removed; if no process holds the lock, remove the directory, and it is made anew", p.statePath())
	}
	return b, changed, corrupt("%s has more than one file that stands for the lock (%s); if no process holds the lock, remove the directory, and it is made anew", p.statePath(), strings.Join(names, ", "))
}

func (p *place) statePath() string { return p.b.path(p.dir, p.state) }

// swap renames the baton from one name to the next, which is the compare-and-swap
// that everything rests on. Whatever rename answered, swapped is right if err is
// nil; if err is not nil, cur is unknown.
//
// An error is no answer: the request may have been carried out and its reply
// lost, in which case a repetition says that there is no such file. So a fresh
// listing decides.
func (p *place) swap(from, to baton) (swapped bool, cur baton, err error) {
	fromName, toName := from.name(), to.name()
	rerr := p.b.sys.rename(p.stateDir, fromName, toName)
	if rerr == nil {
		p.last = toName
		return true, to, nil
	}
	p.last = ""
	cur, _, err = p.read()
	if err != nil {
		if isGone(err) {
			return false, cur, errGone
		}
		return false, cur, backend.Unavailable(fmt.Errorf("%w, and then: %w", rerr, err))
	}
	switch cur.name() {
	case toName:
		p.last = toName
		return true, cur, nil
	case fromName:
		// It was not carried out. After some errors it may be yet: the request can
		// still be on its way.
		return false, cur, classifyRename(rerr)
	}
	return false, cur, nil // somebody else's turn
}

// classifyRename: "no such file" although the file is there comes from a reply
// that was computed before, or from a cached name; nothing is known then.
func classifyRename(err error) error {
	if isNotExist(err) {
		return backend.Unavailable(err)
	}
	return classify(err)
}

// slack is how long after its TTL a lock is taken over: for the tick of file
// times and for drift between two readings of the server's clock.
func slack(ttl time.Duration) time.Duration {
	return 12*time.Millisecond + min(ttl/100, 250*time.Millisecond)
}

// record describes the baton. now is the server's time, zero if unknown.
func (p *place) record(b baton, changed, now time.Time) backend.Record {
	r := backend.Record{Key: p.key, State: backend.Free, Token: b.gen}
	if !b.held {
		return r
	}
	r.State, r.ID, r.Holder, r.TTL = backend.Held, b.claim, b.holder, b.ttl
	if now.IsZero() {
		return r
	}
	age := max(0, now.Sub(changed))
	r.Remaining = b.ttl + slack(b.ttl) - age
	if r.Remaining <= 0 {
		r.State, r.Remaining = backend.Stale, 0
	}
	// The token is the server's time when it was granted, as a rule.
	if since := time.UnixMicro(int64(min(b.gen, 1<<62))); b.seq > 0 && since.Before(now) && now.Sub(since) < 10*365*24*time.Hour {
		r.HeldFor = max(age, now.Sub(since))
	} else {
		r.HeldFor = age
	}
	return r
}

// judge returns nil if the baton is free or stale, so that it may be taken, and
// else a *backend.HeldError.
func (p *place) judge(b baton, changed time.Time) error {
	if !b.held {
		return nil
	}
	now, err := p.now(maxClockAge)
	if err != nil {
		r := p.record(b, changed, time.Time{})
		r.Note = fmt.Sprintf("whether it is stale cannot be told, since the file server's clock cannot be read: %v", err)
		return &backend.HeldError{Record: r, RetryAfter: b.ttl + slack(b.ttl)}
	}
	r := p.record(b, changed, now)
	if r.State == backend.Held {
		return &backend.HeldError{Record: r, RetryAfter: r.Remaining}
	}
	// The listing may be younger than the time that was read before it, and the
	// baton younger than it seemed. A second look, after the name is known,
	// cannot err that way.
	again, changed, err := p.read()
	if err != nil {
		return err
	}
	if again.name() != b.name() {
		return p.judge(again, changed)
	}
	if now, err = p.now(maxClockAge); err != nil {
		return err
	}
	if r = p.record(b, changed, now); r.State == backend.Held {
		return &backend.HeldError{Record: r, RetryAfter: r.Remaining}
	}
	return nil
}

// take makes the baton c's, and returns the one that it replaced besides.
func (p *place) take(ctx context.Context, c backend.Claim) (mine, old baton, err error) {
	p.last = p.lastFree()
	for range 16 {
		if err := ctx.Err(); err != nil {
			return mine, old, backend.Unavailable(err)
		}
		cur, remembered := parseBaton(p.last)
		var changed time.Time
		if !remembered {
			if cur, changed, err = p.read(); err != nil {
				if isGone(err) {
					if err := p.reopen(true); err != nil {
						return mine, old, err
					}
					continue
				}
				return mine, old, err
			}
		}
		if cur.held && cur.claim == c.ID {
			// an earlier attempt took it, and its answer was lost
			next := cur.beaten()
			next.ttl = c.TTL
			swapped, _, err := p.swap(cur, next)
			if err != nil && !isGone(err) {
				return mine, old, err
			}
			if swapped {
				return next, cur, nil
			}
			continue
		}
		if err := p.judge(cur, changed); err != nil {
			if isGone(err) {
				p.last = ""
				continue
			}
			return mine, old, err
		}
		if cur.held {
			p.sweep(cur.gen, c.TTL)
		}
		now, err := p.now(maxTokenAge)
		if err != nil {
			now = time.Time{} // the full disk that hides the clock stops no rename
		}
		gen, err := backend.NextToken(cur.freed().gen, c.TokenFloor, now)
		if err != nil {
			return mine, old, err
		}
		mine = baton{gen: gen, held: true, ttl: c.TTL, claim: c.ID, nonce: nonce(), holder: c.Holder}
		swapped, _, err := p.swap(cur, mine)
		if err != nil && !isGone(err) {
			return mine, old, fmt.Errorf("take the lock in %s: %w", p.statePath(), err)
		}
		if swapped {
			return mine, cur, nil
		}
	}
	cur, changed, err := p.read()
	if err != nil {
		return mine, old, err
	}
	r := p.record(cur, changed, time.Time{})
	r.State, r.Note = backend.Held, "others were faster each time"
	return mine, old, &backend.HeldError{Record: r, RetryAfter: time.Millisecond}
}

// lastFree is the remembered name if it is a free baton's. A held one is no use:
// its heartbeats rename it.
func (p *place) lastFree() string {
	if strings.HasSuffix(p.last, freeSuffix) {
		return p.last
	}
	return ""
}

// find returns the baton if claim holds it; ok is false if not.
func (p *place) find(claim string) (b baton, ok bool, err error) {
	if b, _, err = p.read(); err != nil {
		return b, false, err
	}
	return b, b.held && b.claim == claim, nil
}

// free renames claim's baton, called name when it was last heard of, to free.
// It returns ErrLost if claim does not hold it, unless it has been freed before.
func (p *place) free(name, claim string) error {
	b, ok := parseBaton(name)
	for range 8 {
		if !ok {
			var mine bool
			var err error
			b, mine, err = p.find(claim)
			if err != nil {
				return err
			}
			if !mine {
				if was, known := parseBaton(name); known && !b.held && b.gen == was.freed().gen {
					p.last = b.name()
					return nil
				}
				return backend.ErrLost
			}
		}
		swapped, _, err := p.swap(b, b.freed())
		if err != nil || swapped {
			return err
		}
		ok = false
	}
	return backend.Unavailable(fmt.Errorf("the lock's state in %s changes faster than it can be read", p.statePath()))
}
