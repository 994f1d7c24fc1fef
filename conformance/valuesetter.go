package conformance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hasplock/hasp/backend"
)

// valueSetterRules say who may set a value, and in which order.
var valueSetterRules = []Rule{
	{ID: "value-only-holder", Statement: "SetValue by a claim that does not hold the key, or has released it, gives ErrLost and is never seen", needs: values, rests: []string{"value-found"}, run: valueOnlyHolder},
	{ID: "value-overtaken", Statement: "SetValue by a holder that was overtaken gives ErrLost and is never seen", needs: values, rests: []string{"value-found"}, run: valueOvertaken},
	{ID: "value-broken", Statement: "SetValue by a holder that was broken gives ErrLost and is never seen", needs: []backend.Capability{backend.CapValues, backend.CapBreak}, rests: []string{"value-found"}, run: valueBroken},
	{ID: "value-at-expiry", Statement: "at the moment in which a TTL runs out either SetValue comes first, and the next holder finds the value, or the takeover does, and nobody ever finds it", needs: values, phase: busy, rests: []string{"value-found", "value-overtaken", "stale-after-ttl"}, run: valueAtExpiry},
	{ID: "value-repeat", Statement: "SetValue of the value that is set is no error, with the grant from before it too, and changes nothing", needs: values, rests: []string{"value-found"}, run: valueRepeat},
	{ID: "value-order", Statement: "a value that does not come after the one that is set, by token and then by sequence, gives ErrOldValue and changes nothing", needs: values, rests: []string{"value-found"}, run: valueOrder},
	{ID: "value-late", Statement: "SetValue that was given up never undoes a later one, and gives ErrUnavailable or its context's error", needs: values, phase: busy, rests: []string{"value-found", "value-order"}, run: valueLate},
	{ID: "value-whole", Statement: "who reads while values are set gets one of them, whole, and never an older one than before", needs: values, phase: busy, rests: []string{"value-found", "value-exact"}, run: valueWhole},
	{ID: "value-keeps-lock", Statement: "SetValue shortens no TTL and changes neither token, holder nor claim", needs: values, rests: []string{"value-found", "stale-not-before-ttl"}, run: valueKeepsLock},
	{ID: "value-grant", Statement: "the grant that SetValue returns renews, sets and releases, and so does the one from before it, and one without State", needs: values, rests: []string{"value-found", "value-repeat", "grant-without-state"}, run: valueGrant},
}

// tooLate checks that SetValue by g, which does not hold its key, is refused and
// leaves want. Its value would come after any: it is not by its age that it must be
// refused.
func (x *trial) tooLate(by backend.Backend, g backend.Grant, want backend.Value, when string) {
	late := backend.Value{Data: []byte("late"), Token: 1<<64 - 1, Seq: 1}
	if _, err := backend.SetValue(x.ctx, by, g, late); !errors.Is(err, backend.ErrLost) {
		x.failf("%s SetValue gave %v and not ErrLost", when, err)
	}
	x.hasValue(by, g.Key, want, when+" SetValue was refused, and")
	x.cleanup(func(ctx context.Context) { // and whatever was under way has had its time
		if got, err := backend.ReadValue(ctx, by, g.Key); err == nil && !sameValue(got, want) && got.Compare(late) == 0 {
			x.errorf("%s SetValue was refused, and its value is there in the end", when)
		}
	})
}

func valueOnlyHolder(x *trial) {
	a, b := x.client(), x.client()
	key := x.key()
	none := backend.Value{}
	stranger := func(token uint64) backend.Grant {
		return backend.Grant{Key: key, ID: rand.Text(), Token: token, TTL: x.long()}
	}
	x.tooLate(a, stranger(1), none, "at a key that was never locked")
	g := x.acquire(a, key, x.long())
	x.tooLate(b, stranger(g.Token), none, "by another claim than the holder's")
	x.tooLate(a, stranger(g.Token), none, "by another claim of the holder's client")
	x.stillHolds(b, g, "SetValue by others")
	v := text(g, 1, "decided")
	g = x.setValue(a, g, v)
	x.tooLate(b, stranger(g.Token), v, "by another claim than the holder's")
	x.release(a, g)
	x.tooLate(a, g, v, "after Release")
	x.tooLate(b, stranger(g.Token), v, "by a claim that never held the key, which is free,")
	x.isFree(b, key, "SetValue after Release")
	next := x.acquire(b, key, x.long())
	x.tooLate(a, g, v, "after Release and the next Acquire")
	x.stillHolds(a, next, "the former holder's SetValue")
	v = text(next, 1, "next")
	next = x.setValue(b, next, v)
	x.tooLate(a, g, v, "after Release and the next SetValue")
	x.tooLate(a, backend.Grant{Key: key, ID: g.ID, TTL: g.TTL}, v, "with a released claim's ID alone")
	x.release(b, next)
}

func valueOvertaken(x *trial) {
	a, b := x.client(), x.client()
	s := x.holdSilently(a, x.key(), x.ttl())
	next, _ := x.takeover(b, s, x.long())
	x.tooLate(a, s.Grant, backend.Value{}, "after a takeover")
	x.stillHolds(a, next, "the former holder's SetValue")
	v := text(next, 1, "decided")
	next = x.setValue(b, next, v)
	x.tooLate(a, s.Grant, v, "after a takeover and the next SetValue")
	x.release(b, next)
	x.tooLate(a, s.Grant, v, "after a takeover and a release")
	x.isFree(b, s.Key, "a late SetValue")
}

func valueBroken(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	v := text(g, 1, "decided")
	g = x.setValue(a, g, v)
	x.breakKey(b, g)
	x.tooLate(a, g, v, "after Break")
	x.isFree(b, g.Key, "Break and a late SetValue")
	next := x.acquire(b, g.Key, x.long())
	x.tooLate(a, g, v, "after Break and the next Acquire")
	x.stillHolds(a, next, "the broken holder's SetValue")
}

func valueAtExpiry(x *trial) {
	n := 24
	if x.cfg.brief {
		n = 16
	}
	as, bs := x.clients(3), x.clients(3)
	held := make([]silent, n)
	for i := range held {
		held[i] = x.holdSilently(as[i%3], x.key(), x.ttl())
	}
	var wg sync.WaitGroup
	var first, second, taken atomic.Int64
	for i, s := range held {
		// Most of them around the end of the TTL; the store may be late, so the
		// others after it.
		at := s.asked.Add(s.TTL + s.TTL/20*time.Duration(2*i-n)/time.Duration(n))
		if i%3 == 2 {
			at = s.asked.Add(s.TTL + x.cfg.Slack*time.Duration(i)/time.Duration(n))
		}
		v := text(s.Grant, 1, "at the last moment")
		var setErr error
		set := make(chan struct{})
		x.spawn(&wg, func() {
			defer close(set)
			if !x.pause(time.Until(at)) {
				return
			}
			_, setErr = backend.SetValue(x.ctx, as[i%3], s.Grant, v)
		})
		x.spawn(&wg, func() {
			b, c := bs[i%3], x.claim(x.long())
			if !x.pause(time.Until(s.asked.Add(s.TTL * 9 / 10))) {
				return
			}
			var err error
			for { // SetValue may have begun the TTL anew
				if _, err = x.attempt(b, s.Key, c); err == nil || time.Since(s.end()) > s.TTL+2*x.slack(s.end())+x.cfg.Slack {
					break
				}
				if !errors.Is(err, backend.ErrHeld) || !x.pause(x.poll()/5) {
					break
				}
			}
			if err != nil {
				<-set
				return
			}
			taken.Add(1)
			before, err := backend.ReadValue(x.ctx, b, s.Key)
			if err != nil {
				x.errorf("the next holder's Value gave %q", err)
			}
			<-set
			x.pause(50 * time.Millisecond) // for what is under way in the store
			after, err := backend.ReadValue(x.ctx, b, s.Key)
			switch {
			case err != nil:
				x.errorf("the next holder's Value gave %q", err)
			case !sameValue(before, after):
				x.errorf("the next holder found %s when it had the key, and a moment later %s, which its former holder set", sketch(before), sketch(after))
			case setErr == nil && !sameValue(after, v):
				x.errorf("SetValue at the end of the TTL succeeded, and the next holder finds %s", sketch(after))
			case errors.Is(setErr, backend.ErrLost) && after.Token != 0:
				x.errorf("SetValue at the end of the TTL gave %q, and the next holder finds %s", setErr, sketch(after))
			case setErr == nil:
				first.Add(1)
			default:
				second.Add(1)
			}
		})
	}
	wg.Wait()
	if taken.Load() == 0 && !x.failed() {
		x.restf("stale-after-ttl", "none of %d keys could be taken over", n)
	}
	x.notef("of %d values %d came before the takeover, %d after it", n, first.Load(), second.Load())
}

// pause is sleep for other goroutines than the rule's own: false if the trial is over.
func (x *trial) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.ctx.Done():
		return false
	}
}

func valueRepeat(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	for n, v := range []backend.Value{text(g, 1, "decided"), text(g, 2, ""), {Token: g.Token, Seq: 3, Deleted: true}, text(g, 4, "again")} {
		before := g
		for try, with := range []func() backend.Grant{func() backend.Grant { return before }, func() backend.Grant { return g }, func() backend.Grant { return before }} {
			next, err := backend.SetValue(x.ctx, a, with(), v)
			if err != nil && try == 0 && n == 0 {
				x.restf("value-found", "SetValue by the holder gave %q", err)
			}
			if err != nil {
				x.failf("SetValue of %s, repetition %d, gave %q", sketch(v), try, err)
			}
			g = next
			x.hasValue(b, g.Key, v, fmt.Sprintf("SetValue, repetition %d,", try))
		}
	}
	x.stillHolds(b, g, "SetValue that was repeated")
}

func valueOrder(x *trial) {
	a, b := x.client(), x.client()
	type step struct {
		token, seq uint64
		old        bool
	}
	check := func(what string, steps []step) {
		g := x.acquire(a, x.key(), x.long())
		var last backend.Value
		for i, st := range steps {
			v := backend.Value{Data: []byte(fmt.Sprint("step ", i)), Token: st.token, Seq: st.seq}
			next, err := backend.SetValue(x.ctx, a, g, v)
			switch {
			case st.old && !errors.Is(err, backend.ErrOldValue):
				x.failf("%s: after %s SetValue of %s gave %v and not ErrOldValue", what, sketch(last), sketch(v), err)
			case !st.old && err != nil:
				x.failf("%s: after %s SetValue of %s gave %q", what, sketch(last), sketch(v), err)
			case !st.old:
				g, last = next, v
			}
			x.hasValue(b, g.Key, last, fmt.Sprintf("%s, step %d,", what, i+1))
		}
		del := backend.Value{Token: last.Token, Seq: last.Seq, Deleted: true}
		if _, err := backend.SetValue(x.ctx, a, g, del); !errors.Is(err, backend.ErrOldValue) {
			x.failf("%s: after %s a deletion with its token and sequence gave %v and not ErrOldValue", what, sketch(last), err)
		}
		x.hasValue(b, g.Key, last, what+", and a deletion that came too late,")
		if _, err := a.Renew(x.ctx, g); err != nil {
			x.failf("after older values were refused Renew gave %q", err)
		}
		x.release(a, g)
		next := x.acquire(b, g.Key, x.long())
		if _, err := backend.SetValue(x.ctx, b, next, backend.Value{Data: []byte("copy"), Token: last.Token - 1, Seq: last.Seq + 1}); !errors.Is(err, backend.ErrOldValue) {
			x.failf("%s: by the next holder SetValue of an older value gave %v and not ErrOldValue", what, err)
		}
		x.hasValue(a, g.Key, last, what+", and the next holder's older one,")
	}
	const exact = 1 << 53 // greater numbers are not all exact in floating point
	check("sequence", []step{{20, 1, false}, {20, 3, false}, {20, 2, true}, {20, 1, true}, {20, 3, true}, {20, 4, false}})
	check("token before sequence", []step{{20, 5, false}, {21, 1, false}, {20, 9, true}, {21, 2, false}, {19, 100, true}, {22, 1, false}})
	check("as numbers and not as text", []step{{9, 9, false}, {9, 10, false}, {9, 9, true}, {10, 1, false}, {9, 11, true}, {100, 1, false}, {99, 1, true}})
	check("great tokens", []step{{exact, 1, false}, {exact + 1, 1, false}, {exact, 2, true}, {1<<64 - 2, 1, false}, {1<<64 - 3, 1, true}, {1<<64 - 1, 1, false}, {1<<64 - 2, 2, true}})
	check("great sequences", []step{{5, exact, false}, {5, exact + 1, false}, {5, exact, true}, {5, 1<<64 - 2, false}, {5, 1<<64 - 3, true}})
	// the true ones, of the store's own tokens
	g := x.acquire(a, x.key(), x.long())
	g = x.setValue(a, g, text(g, 7, "former"))
	x.release(a, g)
	next := x.acquire(b, g.Key, x.long())
	next = x.setValue(b, next, text(next, 1, "next"))
	if _, err := backend.SetValue(x.ctx, b, next, text(g, 8, "former")); !errors.Is(err, backend.ErrOldValue) {
		x.failf("after token %d SetValue with token %d gave %v and not ErrOldValue", next.Token, g.Token, err)
	}
	x.hasValue(a, g.Key, text(next, 1, "next"), "an older token's value")
}

func valueLate(x *trial) {
	a, b := x.client(), x.client()
	rounds := 40
	if x.cfg.brief {
		rounds = 15
	}
	g := x.acquire(a, x.key(), x.long())
	seq := uint64(0)
	middle := aim{usual(func() {
		seq++
		g = x.setValue(a, g, text(g, seq, "usual"))
	})}
	cancelled := 0
	var last backend.Value
	// The last one has to be given up: the look at the end is for what comes of it. A store
	// that does not heed a context has none.
	givenUp := false
	for i := 0; i < rounds || !givenUp && i < 2*rounds; i++ {
		ctx, cancel := middle.context(x.ctx)
		seq++
		next, err := backend.SetValue(ctx, a, g, text(g, seq, "given up"))
		cancel()
		givenUp = err != nil
		middle.saw(givenUp)
		switch {
		case err == nil:
			g = next
		case !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, context.Canceled):
			x.failf("SetValue whose context was cancelled gave %q", err)
		default:
			cancelled++
		}
		seq++
		last = text(g, seq, "later")
		next, err = backend.SetValue(x.ctx, a, g, last)
		if err != nil {
			x.failf("after SetValue that was given up the next one gave %q", err)
		}
		g = next
		x.hasValue(b, g.Key, last, "SetValue that was given up, and a later one,")
	}
	x.notef("%d were given up before they had succeeded", cancelled)
	x.sleep(300 * time.Millisecond) // nothing of it comes late
	x.hasValue(b, g.Key, last, "a while")
}

func valueWhole(x *trial) {
	rounds := 60
	if x.cfg.brief {
		rounds = 25
	}
	a := x.client()
	first := x.acquire(a, x.key(), x.long())
	var set atomic.Uint64 // the last sequence that is known to be set
	var over atomic.Bool
	var wg sync.WaitGroup
	var reads atomic.Int64
	for _, b := range x.clients(3) {
		x.spawn(&wg, func() {
			var last uint64
			for !over.Load() && !x.failed() {
				atLeast := max(set.Load(), last)
				v, err := backend.ReadValue(x.ctx, b, first.Key)
				if err != nil {
					x.errorf("Value, while another sets values, gave %q", err)
					return
				}
				if v.Token == 0 && atLeast == 0 {
					continue
				}
				reads.Add(1)
				if v.Seq < atLeast {
					x.errorf("the value with sequence %d was found after that with %d was set or found", v.Seq, atLeast)
				}
				last = v.Seq
				want := wholeValue(first, v.Seq)
				if !sameValue(v, want) {
					x.errorf("%s was found, and the value with its sequence is %s", sketch(v), sketch(want))
				}
			}
		})
	}
	g := first
	for n := range uint64(rounds) {
		next, err := backend.SetValue(x.ctx, a, g, wholeValue(g, n+1))
		if err != nil {
			x.errorf("SetValue, while others read, gave %q", err)
			break
		}
		g = next
		set.Store(n + 1)
	}
	over.Store(true)
	wg.Wait()
	x.notef("%d reads while %d values were set", reads.Load(), rounds)
}

// wholeValue is the n-th of a row of long values, no byte of which is another's.
func wholeValue(g backend.Grant, n uint64) backend.Value {
	data := make([]byte, backend.MaxValueLen-int(n%3)*1000)
	for i := range data {
		data[i] = byte(n)
	}
	return backend.Value{Data: data, Token: g.Token, Seq: n}
}

func valueKeepsLock(x *trial) {
	a, b := x.client(), x.client()
	g := x.acquire(a, x.key(), x.long())
	before := x.inspect(b, g.Key)
	set := x.setValue(a, g, text(g, 1, "decided"))
	after := x.inspect(b, g.Key)
	if after.State != backend.Held || after.Token != before.Token || after.ID != before.ID || after.Holder != before.Holder || after.TTL < before.TTL {
		x.failf("the key was %s, and after SetValue it is %s", before, after)
	}
	x.refused(b, g.Key)
	x.release(a, set)
	// and of what is left of the TTL nothing is gone
	s := x.holdSilently(a, x.key(), x.ttl())
	x.setSilently(a, s, text(s.Grant, 1, "decided"))
	x.early(b, s, x.long())
}

func valueGrant(x *trial) {
	a, b := x.client(), x.client()
	set := func(g backend.Grant, seq uint64) backend.Grant {
		next := x.setValue(a, g, text(g, seq, "decided"))
		if next.Key != g.Key || next.ID != g.ID || next.Token != g.Token || next.TTL < g.TTL || next.Holder != g.Holder {
			x.failf("SetValue with the grant of %q, claim %s, token %d, TTL %v returned that of %q, claim %s, token %d, TTL %v", g.Key, g.ID, g.Token, g.TTL, next.Key, next.ID, next.Token, next.TTL)
		}
		return next
	}
	for what, pick := range map[string]func(before, after backend.Grant) backend.Grant{
		"the grant that SetValue returned": func(_, after backend.Grant) backend.Grant { return after },
		// as if SetValue's answer was lost
		"the grant from before SetValue": func(before, _ backend.Grant) backend.Grant { return before },
		"a grant without State":          func(_, after backend.Grant) backend.Grant { after.State = nil; return after },
	} {
		g := x.acquire(a, x.key(), x.long())
		use := pick(g, set(g, 1))
		if next, err := backend.SetValue(x.ctx, a, use, text(g, 2, "more")); err != nil {
			x.failf("SetValue with %s gave %q", what, err)
		} else {
			use = pick(use, next)
		}
		next, err := a.Renew(x.ctx, use)
		if err != nil {
			x.failf("Renew with %s gave %q", what, err)
		}
		use = pick(use, next)
		x.refused(b, g.Key)
		if err := a.Release(x.ctx, use); err != nil {
			x.failf("Release with %s gave %q", what, err)
		}
		x.isFree(b, g.Key, "Release with "+what)
	}
}
