package torture

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/redistest"
)

// failover is a change of the primary to a replica that lags.
type failover struct {
	// from is the least token that the new primary may give, and no token of the former
	// one's is as great: tokens are the servers' time, and here they have one clock.
	from uint64
	kept map[string]kept // by key: what the new primary began with
}

// kept is a lock that is held, as a replica knows it.
type kept struct {
	token uint64
	until time.Duration // by now's clock
}

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
	s := &store{name: name, urls: []string{url}, direct: url, bound: 40 * time.Second, long: 3 * ttl, healthy: c.Await, group: c}
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

// failOver holds replication back for a spell, kills the primary, and has the sentinels
// promote a replica, which knows nothing of what was granted, renewed and released in that
// time. It is done in steps, with other faults in between; but not those of servers and
// connections, so that what a replica lacks is known.
func (t *torturer) failOver(lag time.Duration) bool {
	c := t.s.group
	if t.downs > 0 || !c.Active() {
		return false
	}
	t.downs++
	t.calm = true
	t.poll("one primary, which all follow", func() bool {
		if len(t.busy) > 0 || !c.Ready() {
			return false
		}
		former := c.Primary()
		c.Proxies[former].Lag()
		t.later(lag, func() { t.replace(former) })
		return true
	})
	return true
}

// replace kills the primary, whose replicas lag, and has one of them promoted. The former
// primary comes back as a replica.
func (t *torturer) replace(former int) {
	c := t.s.group
	know := map[int]map[string]kept{}
	for i, n := range c.Nodes {
		if i != former {
			know[i] = keptBy(t.tb, n) // nothing changes there until it is promoted
		}
	}
	c.Nodes[former].Kill()
	killed := time.Now()
	from := uint64(killed.UnixMicro())
	asked := false
	t.poll("a new primary", func() bool {
		asked = asked || c.Promote()
		if !asked {
			return false
		}
		next := c.Promoted(former)
		if next < 0 {
			return false
		}
		t.w.failedOver(failover{from, know[next]})
		t.history = append(t.history, fmt.Sprintf("%v: server %d is the primary, %v after server %d was killed", time.Since(t.begun).Round(time.Millisecond),
			next, time.Since(killed).Round(time.Millisecond), former))
		c.Proxies[former].LoseLag()
		// A sentinel that is killed before it has told the others forgets what it has done.
		t.poll("sentinels that agree", func() bool {
			if c.Primary() != next {
				return false
			}
			c.Nodes[former].Restart()
			c.Follow(former, next) // as a sentinel would have it do in some ten seconds
			t.downs--
			t.calm = false
			return true
		})
		return true
	})
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
			t.tb.Fatal("there is still not: ", what)
		default:
			t.later(50*time.Millisecond, try)
		}
	}
	try()
}

// keptBy reads what a replica knows of the locks that are held.
func keptBy(tb testing.TB, n *redistest.Server) map[string]kept {
	tb.Helper()
	out := map[string]kept{}
	for i := range keys {
		name := "hasp:{" + keyName(i) + "}"
		text, _ := n.Do("get", name).(string)
		at := now()
		life := n.Do("pttl", name).(int64)
		f := strings.SplitN(text, " ", 8) // as redislock's record.lua says
		if len(f) < 8 {
			continue
		}
		token, err := strconv.ParseUint(f[0], 10, 64)
		memory, err2 := strconv.ParseInt(f[3], 10, 64)
		if err != nil || err2 != nil {
			tb.Fatalf("%s is %q: no record of a lock", name, text)
		}
		out[keyName(i)] = kept{token, at + time.Duration(life-memory)*time.Millisecond}
	}
	return out
}
