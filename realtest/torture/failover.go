package torture

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/redistest"
)

// newSentinels starts a primary and two replicas, and sentinels.
func newSentinels(tb testing.TB) *store { return sentinels(tb, "redis sentinel") }

// newSentinelsWait is the same, and a grant counts when a replica has it.
func newSentinelsWait(tb testing.TB) *store {
	return sentinels(tb, "the same, replicas=1", "replicas=1", "replicas_timeout=300ms")
}

func sentinels(tb testing.TB, name string, options ...string) *store {
	tb.Helper()
	c := redistest.StartSentineled(tb)
	url := c.URL(options...) // clients are told the servers' addresses, which are proxies'
	s := &store{name: name, urls: []string{url, c.DoorURL(options...)}, direct: url, bound: 40 * time.Second, long: 3 * ttl, healthy: c.Await, group: c}
	for i, n := range c.Nodes {
		s.servers = append(s.servers, redisNode(n))
		s.links = append(s.links, []*redistest.Proxy{c.Proxies[i]})
	}
	for _, n := range c.Sentinels {
		srv := redisNode(n)
		srv.longestStop = time.Second // after 2 s it does nothing for 30
		s.servers = append(s.servers, srv)
	}
	s.links = append(s.links, c.Proxies)
	s.left = func() []string { return leftInRedis(c.Nodes...) }
	return s
}

// detectAfter is how long a primary is silent before the sentinels take it for dead.
const detectAfter = 1500 * time.Millisecond

// change is one of the primary. It is done in steps, with other faults in between; but not
// those of servers and connections, so that what a replica lacks is known.
type change struct {
	t      *torturer
	c      *redistest.Sentineled
	kind   kind
	spell  time.Duration
	former int
	next   int
	know   map[int]map[string]kept // by server: what it would begin with
	begun  time.Time
}

// changePrimary begins a change, if all are well.
func (t *torturer) changePrimary(f fault) bool {
	c := t.s.group
	if t.downs > 0 || !c.Active() {
		return false
	}
	t.downs++
	t.calm = true
	ch := &change{t: t, c: c, kind: f.kind, spell: f.spell, next: -1, know: map[int]map[string]kept{}}
	t.poll("one primary, which all follow", func() bool {
		if len(t.busy) > 0 || !c.Ready() {
			return false
		}
		ch.former = c.Primary()
		t.journal.begin(ch.former)
		if f.kind == cutPrimary {
			ch.depose()
			return true
		}
		// What the replicas do not hear of until the primary is away is lost.
		c.Proxies[ch.former].Lag()
		t.later(f.spell, ch.depose)
		return true
	})
	return true
}

// depose takes the primary away from its replicas and sentinels.
func (ch *change) depose() {
	former := ch.c.Nodes[ch.former]
	ch.begun = time.Now()
	switch ch.kind {
	case failOver, killPrimary:
		former.Kill()
	case stopPrimary:
		former.Pause()
	case cutPrimary:
		// Every other process is on its side, and is told nothing by the sentinels.
		ch.c.Proxies[ch.former].Isolate()
		for _, p := range ch.c.Doors {
			p.Cut()
		}
	}
	ch.t.poll("what was on its way", func() bool {
		if time.Since(ch.begun) < 50*time.Millisecond {
			return false
		}
		ch.ask()
		return true
	})
}

// ask asks the replicas what they know: nothing changes there until one is promoted.
func (ch *change) ask() {
	for i, n := range ch.c.Nodes {
		if i == ch.former {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		held, err := heldIn(ctx, n.Client())
		cancel()
		if err != nil {
			ch.t.tb.Fatal("ask a replica: ", err)
		}
		ch.t.journal.knows(i, held)
		ch.know[i] = map[string]kept{}
		for key, h := range held {
			ch.know[i][key] = h.kept
		}
	}
	if ch.kind != failOver {
		ch.c.Detect(detectAfter)
	}
	asked := ch.kind != failOver
	ch.t.poll("a new primary", func() bool {
		asked = asked || ch.c.Promote()
		if !asked {
			return false
		}
		if ch.next = ch.c.Promoted(ch.former); ch.next < 0 {
			return false
		}
		ch.promoted()
		return true
	})
}

// promoted: there is a new primary, and neither all sentinels know it nor clients.
func (ch *change) promoted() {
	ch.note("server %d is the primary, and no longer server %d", ch.next, ch.former)
	ch.t.w.judge.failedOver(ch.know[ch.next])
	ch.t.journal.promoted()
	if ch.kind == stopPrimary { // clients still have connections to it
		ch.t.later(ch.spell/4, func() {
			ch.c.Nodes[ch.former].Resume()
			ch.note("server %d wakes", ch.former)
		})
	}
	// A sentinel that is killed before it has told the others forgets what it has done.
	ch.t.poll("sentinels that agree", func() bool {
		if ch.c.Primary() != ch.next {
			return false
		}
		ch.note("the sentinels agree")
		ch.c.Proxies[ch.former].LoseLag()
		ch.t.later(ch.spell, ch.comeBack)
		return true
	})
}

// comeBack ends what was done to the former primary, which has to become a replica.
func (ch *change) comeBack() {
	switch ch.kind {
	case failOver:
		ch.c.Nodes[ch.former].Restart()
		ch.c.Follow(ch.former, ch.next) // as a sentinel would have it do in some ten seconds
	case killPrimary:
		ch.c.Nodes[ch.former].Restart()
	case cutPrimary:
		ch.c.Proxies[ch.former].Rejoin()
		for _, p := range ch.c.Doors {
			p.Heal()
		}
	}
	ch.t.poll("a former primary that follows", func() bool {
		if ch.kind == failOver || ch.c.Ready() {
			ch.settled()
			return true
		}
		return false
	})
}

func (ch *change) settled() {
	if ch.kind != failOver {
		ch.note("server %d follows it", ch.former)
		ch.c.Detect(0)
	}
	ch.t.journal.settled()
	ch.t.downs--
	ch.t.calm = false
}

func (ch *change) note(format string, args ...any) {
	ch.t.history = append(ch.t.history, fmt.Sprintf("%v: %s, %v after it began", time.Since(ch.t.begun).Round(time.Millisecond),
		fmt.Sprintf(format, args...), time.Since(ch.begun).Round(time.Millisecond)))
}

// poll tries a step again and again until it is done, between other faults: servers do
// not tell when they are ready for it.
func (t *torturer) poll(what string, step func() bool) {
	deadline := time.Now().Add(2 * time.Minute)
	var try func()
	try = func() {
		switch {
		case step():
		case time.Now().After(deadline):
			t.tb.Fatalf("there is still not: %s\n%s", what, t.lately())
		default:
			t.later(50*time.Millisecond, try)
		}
	}
	try()
}
