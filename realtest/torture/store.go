package torture

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/redistest"
)

// store is what is contended on: servers that keep what they have acknowledged when
// they are killed, and proxies in front of them.
type store struct {
	name    string
	urls    []string // for the processes, in turn; through proxies
	direct  string   // without
	servers []server
	links   [][]*redistest.Proxy    // that fail together
	long    time.Duration           // the TTL of some of the processes, others have ttl
	bound   time.Duration           // how long after the faults a key may take to be acquired
	move    func(name string) *move // opens the slot of a key of Redis, in a cluster; nil while not all serve
	group   *redistest.Sentineled   // nil if there are no sentinels
	healthy func()                  // waits until all servers serve
	left    func() []string         // what processes that have ended left behind
}

// server is one that can fail.
type server struct {
	kill, restart func()
	stop, resume  func()
	longestStop   time.Duration
	cut, mend     func() // nil if it cannot be
}

// move is a slot on its way.
type move struct {
	key    func(name string) // moves one key
	finish func()            // and the others, and the slot
}

const lanes = 4 // ways to the servers, of a few processes each

// newRedis starts one server that has each change on disk before it answers.
func newRedis(tb testing.TB) *store { return redisServer(tb, true) }

// redisServer starts one that, if it does not persist, forgets everything when it is
// killed.
func redisServer(tb testing.TB, persist bool) *store {
	tb.Helper()
	srv := redistest.Start(tb, &redistest.Options{Binary: true, Persist: persist})
	s := &store{name: "redis", direct: srv.URL(), bound: 30 * time.Second, long: ttl, healthy: func() {}}
	s.servers = []server{redisNode(srv)}
	for range lanes {
		p := redistest.StartProxy(tb, srv.Addr())
		s.urls = append(s.urls, "redis://"+p.Addr()+"/0")
		s.links = append(s.links, []*redistest.Proxy{p})
	}
	s.left = func() []string { return leftInRedis(srv) }
	return s
}

func newRedisCluster(tb testing.TB) *store { return redisCluster(tb, false) }

// redisCluster starts one that, if it forgets, moves slots without their locks.
func redisCluster(tb testing.TB, forgets bool) *store {
	tb.Helper()
	c := redistest.StartClusterWith(tb, redistest.ClusterOptions{Persist: true, Proxied: true, NodeTimeout: ttl})
	// Clients learn the nodes' addresses from the nodes, which know one proxy each.
	s := &store{name: "redis cluster", urls: []string{c.URL()}, direct: c.URL(), bound: 40 * time.Second, long: ttl, healthy: c.Await}
	for i, n := range c.Nodes {
		s.servers = append(s.servers, redisNode(n))
		s.links = append(s.links, []*redistest.Proxy{c.Proxies[i]})
	}
	s.links = append(s.links, c.Proxies)
	s.move = func(name string) *move {
		if !c.Serves() { // a server was down until now
			return nil
		}
		m := c.BeginMove(c.Slot(name))
		key := m.Key
		if forgets {
			client := m.From.Client()
			key = func(name string) { client.Del(context.Background(), name) } // an error says that it is not there
		}
		return &move{key: key, finish: m.Finish}
	}
	s.left = func() []string { return leftInRedis(c.Nodes...) }
	return s
}

func redisNode(n *redistest.Server) server {
	return server{kill: n.Kill, restart: n.Restart, stop: n.Pause, resume: n.Resume, longestStop: 2 * ttl}
}

// leftInRedis: the record of a free lock stays for an hour, with its last token.
func leftInRedis(nodes ...*redistest.Server) []string {
	var out []string
	for _, n := range nodes {
		for _, k := range n.Keys() {
			if !strings.HasSuffix(k, "}") {
				out = append(out, "key "+k)
			}
		}
		for _, c := range n.Channels() {
			if !strings.HasPrefix(c, "__sentinel__:") {
				out = append(out, "channel "+c)
			}
		}
		if c := n.Connections(); c > 0 {
			out = append(out, fmt.Sprintf("%d connections", c))
		}
	}
	return out
}

func newEtcd(tb testing.TB) *store {
	tb.Helper()
	c := etcdtest.StartCluster(tb, 3, nil)
	// Waiters with a long TTL have a presence of their own.
	s := &store{name: "etcd", direct: c.URL(""), long: 13 * time.Second, bound: 60 * time.Second}
	for _, m := range c.Members {
		s.servers = append(s.servers, server{
			kill: m.Kill, restart: m.Restart, stop: m.Freeze, resume: m.Thaw, cut: m.CutOff, mend: m.Rejoin,
			// A leader that was stopped for longer than an election takes may revoke
			// leases that others have renewed since: no client can do anything about it.
			longestStop: 300 * time.Millisecond,
		})
	}
	for range lanes {
		var lane []*redistest.Proxy
		var addrs []string
		for _, m := range c.Members {
			p := redistest.StartProxy(tb, m.Addr())
			lane, addrs = append(lane, p), append(addrs, p.Addr())
			s.links = append(s.links, []*redistest.Proxy{p})
		}
		s.urls = append(s.urls, "etcd://"+strings.Join(addrs, ",")+"/")
		s.links = append(s.links, lane, lane) // as often as not all ways at once
	}
	client := c.Client()
	s.healthy = func() { c.Leader() }
	s.left = func() []string {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		keys, idle, err := etcdtest.Left(ctx, client)
		if err != nil {
			return []string{err.Error()}
		}
		var out []string
		for _, k := range keys {
			if !strings.HasSuffix(k, "token-base") {
				out = append(out, "key "+k)
			}
		}
		for _, l := range idle {
			out = append(out, fmt.Sprintf("lease %x", l))
		}
		slices.Sort(out)
		return out
	}
	return s
}
