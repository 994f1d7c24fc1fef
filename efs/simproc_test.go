//go:build unix

package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/simfs"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

func (p *proc) claim() backend.Claim {
	p.claims++
	c := backend.Claim{ID: fmt.Sprintf("%s-%d", p.name, p.claims), TTL: p.w.ttl, Holder: backend.Holder{Owner: p.name, Host: "sim", PID: 1}}
	if p.w.seed >= withStrangers && p.rng.IntN(8) == 0 { // what has no room in a name is cut
		c.Holder.Owner, c.Holder.Host = strings.Repeat(p.name, 60)+"\n", strings.Repeat("h.", 40)
		c.ID += strings.Repeat("-", p.rng.IntN(backend.MaxIDLen-len(c.ID)))
	}
	return c
}

func (p *proc) upTo(d time.Duration) time.Duration { return time.Duration(p.rng.Int64N(int64(d)) + 1) }

// runHasp is what the engine does: it takes the lock, holds it for a while with
// heartbeats, and releases it, or forgets it.
func runHasp(p *proc) {
	b := p.backend()
	p.sleep(p.upTo(p.w.ttl))
	for range 1 + p.rng.IntN(3) {
		p.exposed = p.w.maimed
		p.readNow(b)
		g, ok := p.acquire(b)
		if !ok {
			continue
		}
		if p.rng.IntN(10) == 0 { // it stops, or is killed by somebody
			p.sleep(p.upTo(2 * p.w.ttl))
			if p.in = false; p.rng.IntN(2) == 0 {
				continue
			}
		} else if !p.hold(b, &g) {
			p.in = false
			p.withdraw(b, g) // as the engine does, once its holder has been told
			continue
		}
		p.in = false
		p.release(b, g)
		p.sleep(p.upTo(p.w.ttl / 4))
	}
	p.exposed = false
}

// grant notes what p may believe of a grant that was asked for at start.
func (p *proc) grant(start time.Time) bool {
	if p.w.variant.has("deadline after the answer") {
		start = time.Now()
	}
	p.beat, p.deadline = start, start.Add(p.w.ttl-p.w.ttl/10)
	return time.Now().Before(p.deadline)
}

func (p *proc) acquire(b *Backend) (g backend.Grant, ok bool) {
	w := p.w
	c := p.claim()
	wait := &statedir.Wait{Claim: c}
	waiting := p.rng.IntN(3) == 0
	for try := range 30 {
		w.refused.mark(c.ID, false)
		start := time.Now()
		sealed := w.sealed
		ctx, cancel := p.context()
		g, err := b.Acquire(ctx, simKey, c)
		cancel()
		w.note("%-8s acquire %s: token %d, %v", p.name, c.ID, g.Token, err)
		var held *backend.HeldError
		switch {
		case err == nil && sealed && w.sealed:
			w.fail("%s was granted a lock that is sealed", p.name)
			return g, true
		case err == nil:
			if p.grant(start) {
				if g.Token <= w.tokens && !w.broken.has(g.Token) {
					w.fail("%s was granted token %d after %d", p.name, g.Token, w.tokens)
				}
				if !p.exposed { // its state may have been removed since, and with it the last token
					w.tokens = max(w.tokens, g.Token)
				}
				p.token, p.in = g.Token, true
				if waiting && w.seed >= withStrangers { // its watch may go on for a moment
					wait.Over = true
					_ = b.with(ctxBG, simKey, func(pl *place) error { pl.worthTrying(wait); return nil })
				}
				return g, true
			}
			p.release(b, g) // its lease is over already
			return g, false
		case errors.Is(err, backend.ErrUnavailable):
			if p.rng.IntN(2) == 0 || try > 20 {
				p.withdraw(b, backend.Grant{Key: simKey, ID: c.ID})
				return g, false
			}
		case errors.As(err, &held):
			w.refused.mark(c.ID, true)
			p.sleep(min(max(held.RetryAfter, 1), p.upTo(w.ttl/3)))
			p.readNow(b)
			if waiting {
				_ = b.with(ctxBG, simKey, func(pl *place) error { pl.worthTrying(wait); return nil })
			}
		case errors.Is(err, backend.ErrMoved) && w.seals:
			w.refused.mark(c.ID, true)
			p.sleep(p.upTo(w.ttl))
			return g, false
		default:
			w.refused.mark(c.ID, true)
			if errors.Is(err, backend.ErrCorrupt) && !w.hands && !w.strange(start) {
				w.fail("%s calls the lock corrupt: %v", p.name, err)
			}
			if w.strangers && errors.Is(err, backend.ErrCorrupt) { // somebody may see to it
				p.sleep(p.upTo(w.ttl))
				continue
			}
			return g, false
		}
	}
	if waiting {
		_ = b.with(ctxBG, simKey, func(pl *place) error { return pl.dir.Leave(wait) })
	}
	return g, false
}

// withdraw undoes an Acquire of unknown outcome, or lets go of what is left of a lost grant.
func (p *proc) withdraw(b *Backend, g backend.Grant) {
	for range 5 {
		err := b.Release(ctxBG, g)
		p.w.note("%-8s withdraw %s: %v", p.name, g.ID, err)
		if err == nil || errors.Is(err, backend.ErrLost) {
			return
		}
		p.sleep(p.upTo(p.w.ttl / 10))
	}
}

// hold returns false if there is nothing to release.
func (p *proc) hold(b *Backend, g *backend.Grant) bool {
	w := p.w
	until := time.Now().Add(p.upTo(w.ttl * 3 / 2))
	for {
		p.sleep(min(w.ttl/3, max(time.Until(until), 1)))
		if !time.Now().Before(p.deadline) {
			return true // its lease is over, and it releases
		}
		if time.Now().After(until) {
			return true
		}
		if w.values && p.rng.IntN(2) == 0 && !p.setValue(b, g) {
			return false
		}
		start := time.Now()
		next, err := b.Renew(ctxBG, *g)
		w.note("%-8s renew %s: %v", p.name, g.ID, err)
		late := !time.Now().Before(p.deadline)
		switch {
		case err == nil:
			*g = next
			if late {
				return true
			}
			p.grant(start)
		case errors.Is(err, backend.ErrLost):
			if !late && !w.broken.has(p.token) && !p.misjudged() && !p.exposed && w.lockFile != File {
				w.fail("%s lost the lock: %v", p.name, err)
			}
			return false
		default:
			if errors.Is(err, backend.ErrCorrupt) && !w.hands && !w.strange(start) {
				w.fail("%s calls the lock corrupt: %v", p.name, err)
			}
			p.sleep(p.upTo(w.ttl / 20))
		}
	}
}

// valueData is what a value of the simulation has to have.
func valueData(v backend.Value) string {
	return fmt.Sprintf("the %d. value of token %d", v.Seq, v.Token)
}

// setValue returns false if p holds nothing any more. Who gets no answer asks again, or
// goes on.
func (p *proc) setValue(b *Backend, g *backend.Grant) bool {
	w := p.w
	p.set++
	v := backend.Value{Token: g.Token, Seq: p.set}
	if v.Deleted = p.rng.IntN(4) == 0; !v.Deleted {
		v.Data = []byte(valueData(v))
	}
	for try := range 3 {
		start := time.Now()
		next, err := b.SetValue(ctxBG, *g, v)
		w.note("%-8s set value %d of token %d: %v", p.name, v.Seq, v.Token, err)
		late := !time.Now().Before(p.deadline)
		switch {
		case err == nil:
			if v.Compare(w.value) > 0 && w.removedState.Before(start) {
				w.value = v
			}
			if *g = next; !late {
				p.grant(start)
			}
			if w.seed >= withStrangers && p.rng.IntN(4) == 0 {
				p.setOld(b, g, v)
			}
			return true
		case errors.Is(err, backend.ErrLost):
			if try == 0 {
				w.never.mark(valueData(v), true)
			}
			if !late && !w.broken.has(p.token) && !p.misjudged() && !p.exposed && w.lockFile != File {
				w.fail("%s lost the lock when it set a value: %v", p.name, err)
			}
			return false
		case errors.Is(err, backend.ErrOldValue), errors.Is(err, backend.ErrCorrupt) && !w.hands && !w.strange(start):
			w.fail("%s could not set value %d of token %d: %v", p.name, v.Seq, v.Token, err)
		}
		if p.rng.IntN(3) == 0 || late {
			break
		}
		p.sleep(p.upTo(w.ttl / 20))
	}
	return true
}

// setOld sets a value that comes before the last: that is refused.
func (p *proc) setOld(b *Backend, g *backend.Grant, last backend.Value) {
	old := backend.Value{Token: last.Token, Seq: last.Seq - 1, Data: []byte("old")}
	_, err := b.SetValue(ctxBG, *g, old)
	p.w.note("%-8s set an old value: %v", p.name, err)
	if err == nil {
		p.w.fail("%s has set value %d after value %d of token %d", p.name, old.Seq, last.Seq, last.Token)
	}
}

func (p *proc) readNow(b *Backend) {
	if p.w.values && p.rng.IntN(3) == 0 {
		p.read(b)
	}
}

// read reads the value, which is never older than one that was set, or seen, before.
func (p *proc) read(b *Backend) {
	w := p.w
	before, start := w.value, time.Now()
	v, err := b.Value(ctxBG, simKey)
	w.note("%-8s reads value %d of token %d: %v", p.name, v.Seq, v.Token, err)
	switch {
	case errors.Is(err, backend.ErrCorrupt) && w.strange(start):
		return
	case errors.Is(err, backend.ErrCorrupt):
		w.fail("%s calls the value corrupt: %v", p.name, err)
		return
	case err != nil:
		return
	case !w.removedState.Before(start): // and with it what was there before
		return
	case v.Compare(before) < 0:
		w.fail("%s saw value %d of token %d after value %d of token %d", p.name, v.Seq, v.Token, before.Seq, before.Token)
	case v.Exists() && string(v.Data) != valueData(v), v.Deleted && len(v.Data) > 0:
		w.fail("%s saw the value %q", p.name, v.Data)
	case w.never.has(valueData(v)):
		w.fail("%s saw value %d of token %d, which was not set", p.name, v.Seq, v.Token)
	}
	if v.Compare(w.value) > 0 {
		w.value = v
	}
}

func (p *proc) release(b *Backend, g backend.Grant) {
	w := p.w
	for try := range 4 {
		if s, ok := g.State.(*grantState); ok && w.variant.has("release without the alive check") {
			s.hold.Beat = time.Now()
		}
		late := !time.Now().Before(p.deadline)
		p.twice = false
		err := b.Release(ctxBG, g)
		w.note("%-8s release %s: %v", p.name, g.ID, err)
		late = late || !time.Now().Before(p.deadline)
		if errors.Is(err, backend.ErrLost) && try == 0 && !late && !p.twice && !w.broken.has(g.Token) && !p.misjudged() && !p.exposed && w.lockFile != File {
			w.fail("%s lost the lock before its release: %v", p.name, err)
		}
		if err == nil || errors.Is(err, backend.ErrLost) {
			return
		}
		p.sleep(p.upTo(w.ttl / 10))
	}
}

// runEfsLock is a process of the EfsLock protocol, as testdata/legacy.py has it.
func runEfsLock(p *proc) {
	w := p.w
	garbage := p.rng.IntN(2) == 0 // a file that cannot be understood is removed
	p.sleep(p.upTo(w.ttl))
	for range 1 + p.rng.IntN(3) {
		for range 40 {
			if p.create() {
				break
			}
			if p.stale(garbage) {
				if err := p.client.Remove(lockPath); err == nil || errors.Is(err, fs.ErrNotExist) {
					continue
				}
			}
			p.sleep(p.upTo(w.ttl / 2))
		}
		if p.ticket == nil {
			continue
		}
		p.sleep(p.upTo(w.ttl))
		if p.ticket.ended = true; p.rng.IntN(6) == 0 {
			return // it is killed
		}
		_ = p.client.Remove(lockPath)
		p.ticket = nil
	}
}

func (p *proc) create() bool {
	t := &ticket{p: p, since: time.Now()}
	p.ticket, p.client.Who = t, t
	stamp := fmt.Sprintf("%.6f\n1\nsim\nLinux\n", float64(time.Now().UnixMicro())/1e6)
	mode := fs.FileMode(0o666)
	if p.user != 0 { // its umask is 077
		mode = 0o600
	}
	if err := p.client.Create(lockPath, []byte(stamp), mode); err != nil {
		t.ended, p.ticket = true, nil
		return false
	}
	t.in = true
	if p.w.sealed && !p.w.hands && !t.robbed { // an answer may come when its file has long been removed
		p.w.fail("%s is in although the lock is sealed", p.name)
	}
	p.w.note("%-8s is in", p.name)
	return true
}

func (p *proc) stale(garbage bool) bool {
	content, _, err := p.client.Read(lockPath, fsys.MaxRead)
	if err != nil {
		return true
	}
	line, _, _ := strings.Cut(string(content), "\n")
	stamp, err := strconv.ParseFloat(line, 64)
	if err != nil {
		return garbage
	}
	return float64(time.Now().UnixMicro())/1e6-stamp > p.w.timeout.Seconds()
}

// runOperator does what people do.
func runOperator(p *proc) {
	w := p.w
	b := p.backend()
	hands, clock := p.rng.IntN(3) == 0, p.rng.IntN(4) == 0
	for range 1 + p.rng.IntN(5) {
		p.sleep(p.upTo(2 * w.ttl))
		var err error
		if w.seals && p.rng.IntN(2) == 0 {
			if p.rng.IntN(2) == 0 {
				p.unseal(b)
			} else {
				to := "elsewhere"
				if w.seed >= withStrangers { // more than a name has room for
					to = strings.Repeat("elsewhere/", p.rng.IntN(40))
				}
				err = b.Seal(ctxBG, simKey, to)
				w.sealed = w.sealed || err == nil
				w.note("%-8s seal: %v", p.name, err)
			}
			continue
		}
		if w.seed >= withStrangers && p.rng.IntN(4) == 0 {
			p.operateMore(b)
			continue
		}
		if w.removals && p.rng.IntN(2) == 0 {
			_ = p.client.Do(&simfs.Request{Op: "remove all", Path: stateDir, Resolve: func() error { return nil }, Apply: p.removeState})
			continue
		}
		what := []string{"break", "clear", "clear stale", "raise", "hands", "clock", "inspect"}[p.rng.IntN(7)]
		switch what {
		case "break":
			var r backend.Record
			if r, err = b.Inspect(ctxBG, simKey); err == nil && r.State != backend.Free {
				if w.broken.mark(r.Token, true); w.variant.has("break to free") {
					err = b.with(ctxBG, simKey, breakToFree)
				} else {
					err = b.Break(ctxBG, simKey, r.Token)
				}
			}
		case "clear", "clear stale":
			_, _, err = b.clearKey(ctxBG, simKey, what == "clear stale")
		case "raise":
			floor := w.last + p.rng.Uint64N(100)
			if err = b.RaiseToken(ctxBG, simKey, floor); err == nil {
				w.tokens = max(w.tokens, 0)
			}
		case "inspect":
			_, err = b.Inspect(ctxBG, simKey)
		case "hands":
			if hands {
				err = p.client.Do(&simfs.Request{Op: "remove all", Path: lockPath, Resolve: func() error { return nil }, Apply: p.removeGuard})
			}
		case "clock":
			if clock {
				err = p.client.Do(&simfs.Request{Op: "set clock", Resolve: func() error { return nil }, Apply: func() error {
					was := w.off
					if w.off += []time.Duration{10 * time.Minute, -10 * time.Minute, w.ttl, -w.ttl}[w.rng.IntN(4)]; w.off == 0 && was < 0 {
						w.righted = time.Now()
					}
					return nil
				}})
			}
		}
		w.note("%-8s %s: %v", p.name, what, err)
	}
}

// unseal tells whether the lock is not sealed any more.
func (p *proc) unseal(b *Backend) bool {
	p.w.sealed = false
	err := b.Unseal(ctxBG, simKey)
	p.w.note("%-8s unseal: %v", p.name, err)
	return err == nil || errors.Is(err, backend.ErrNotHeld)
}

// removeGuard is done by hand.
func (p *proc) removeGuard() error {
	w := p.w
	if n := w.server.At(lockPath); n == nil || !n.IsDir() {
		return nil
	}
	w.server.RemoveAll(lockPath)
	w.took()
	w.hands = true
	for _, p := range w.procs {
		p.exposed = true
	}
	return nil
}

// removeState is done by hand. With it go the last token and the value. Who holds the
// lock finds out at the next heartbeat, and nobody else gets it before that.
func (p *proc) removeState() error {
	w := p.w
	if w.server.At(stateDir) == nil {
		return nil
	}
	for _, path := range w.server.Tree(stateDir) { // a live file that was moved aside by mistake goes with it
		if t, ok := w.server.At(path).Tag.(*ticket); ok {
			t.robbed = true
		}
	}
	w.server.RemoveAll(stateDir)
	w.wiped()
	return nil
}

// wiped notes that the state directory has gone, or has been replaced.
func (w *world) wiped() {
	w.took()
	w.noBaton, w.spoiled, w.mended, w.removedState = false, nil, time.Now(), time.Now()
	w.last, w.tokens, w.value, w.sealed = 0, 0, backend.Value{}, false
	for _, p := range w.procs {
		p.exposed = true
	}
}

// breakToFree is a wrong Break.
func breakToFree(p *place) error {
	cur, _, err := p.dir.Read()
	if err != nil || cur.State != statedir.Held {
		return err
	}
	h := &statedir.Hold{Dir: p.dir, Baton: cur}
	_, err = h.Free(true)
	return err
}
