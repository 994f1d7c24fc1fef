package redislock

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// proxyTimeout bounds one question to what may be a proxy.
const proxyTimeout = 2 * time.Second

// refusedByProxy asks on connections of its own, without the client library's greeting. It
// returns the commands on which the connection was closed, if PING was answered. What the
// answer is does not matter: it can be that a password is wanted.
func (x *examiner) refusedByProxy(ctx context.Context) (refused []string) {
	c, ok := x.b.client.(*redis.Client)
	if !ok {
		return nil
	}
	answers := func(command ...string) bool {
		ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
		defer cancel()
		conn, err := c.Options().Dialer(ctx, c.Options().Network, c.Options().Addr)
		if err != nil {
			return false
		}
		defer conn.Close()
		if at, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(at) // a connection that cannot have one does not answer either
		}
		var request strings.Builder
		fmt.Fprintf(&request, "*%d\r\n", len(command))
		for _, arg := range command {
			fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(arg), arg)
		}
		if _, err := conn.Write([]byte(request.String())); err != nil {
			return false
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		return err == nil && len(line) > 1
	}
	if !answers("PING") {
		return nil
	}
	for _, command := range [][]string{{"HELLO", "3"}, {"INFO"}, {"SUBSCRIBE", x.b.channel}} {
		if !answers(command...) {
			refused = append(refused, command[0])
		}
	}
	return refused
}

// pathConnections is how many connections are compared.
const pathConnections = 4

// examinePath looks whether something stands between this host and the server: connections
// that end in different servers, or that the server sees come from elsewhere.
func (x *examiner) examinePath(ctx context.Context, y backend.Finder) {
	c, ok := x.b.client.(*redis.Client)
	if !ok || c.Options().Addr == "FailoverClient" {
		return // several servers are to be expected
	}
	var servers, from, seen []string
	for range pathConnections {
		way := x.way(ctx, c)
		if way == nil {
			return
		}
		servers, from, seen = add(servers, way.server), add(from, way.from), add(seen, way.seen)
	}
	const advice = "give the address of the server itself, or see that the proxy leads each connection to the one primary"
	switch {
	case len(servers) > 1:
		y.Problem("proxy", advice, "%d connections to %s came to %d different servers: each can grant the same lock", pathConnections, x.b.where, len(servers))
	case len(seen) > 0 && !slices.Equal(from, seen):
		y.Warn("proxy", advice+"; there is nothing to do if it only translates addresses", "the server sees a connection come from %s that left here as %s: a proxy or a translation of addresses is in between", seen[0], from[0])
	case len(seen) > 0:
		y.OK("proxy", "none is to be seen: %d connections came to one server, from where they left", pathConnections)
	case len(servers) == 1:
		y.OK("proxy", "%d connections came to one server; from where, this user may not ask", pathConnections)
	}
}

// add adds what is not there yet.
func add(set []string, s string) []string {
	if s == "" || slices.Contains(set, s) {
		return set
	}
	return append(set, s)
}

// way is where one connection began and ended; empty is what is not known.
type way struct{ server, from, seen string }

func (x *examiner) way(ctx context.Context, c *redis.Client) *way {
	o := *c.Options()
	dial := o.Dialer
	var mu sync.Mutex
	var local net.Addr
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			mu.Lock()
			local = conn.LocalAddr()
			mu.Unlock()
		}
		return conn, err
	}
	o.PoolSize, o.MinIdleConns, o.MaxRetries = 1, 0, -1
	own := redis.NewClient(&o)
	defer own.Close()
	w := &way{}
	text, err := own.Info(ctx, "server").Result()
	if x.allowed(err, "+info") {
		w.server = parseInfo(text)["run_id"]
	} else if !permitted(err) {
		return nil
	}
	line, err := own.Do(ctx, "client", "info").Text()
	mu.Lock()
	defer mu.Unlock()
	if tcp, ok := local.(*net.TCPAddr); ok && x.allowed(err, "+client|info") {
		w.from = tcp.String()
		for field := range strings.FieldsSeq(line) {
			if addr, ok := strings.CutPrefix(field, "addr="); ok {
				w.seen = addr
			}
		}
	}
	return w
}

// examineCluster looks at slots.
func (x *examiner) examineCluster(ctx context.Context, y backend.Finder) {
	if x.b.exact {
		x.examineAlone(ctx, y)
		return
	}
	ns, err := x.masters(ctx)
	if err != nil {
		return // it has been told
	}
	moving := map[string]bool{}
	state := parseInfo("")
	for _, n := range ns {
		if text, err := n.client.ClusterInfo(ctx).Result(); x.allowed(err, "+cluster") {
			if i := parseInfo(text); state["cluster_state"] == "" || i["cluster_state"] != "ok" {
				state = i
			}
		}
		if text, err := n.client.ClusterNodes(ctx).Result(); x.allowed(err, "+cluster") {
			addSlotsOnTheMove(moving, text)
		}
	}
	switch s := state["cluster_state"]; {
	case s == "":
	case s != "ok" || state["cluster_slots_assigned"] != "16384":
		y.Problem("cluster", "redis-cli --cluster check, and --cluster fix, at one of its servers", "the cluster is in state %s, with %s of 16384 slots assigned and %s failing: locks in the others are refused", s, state["cluster_slots_assigned"], state["cluster_slots_fail"])
	default:
		y.OK("cluster", "%d masters have all 16384 slots", len(ns))
	}
	if len(moving) > 0 {
		y.Warn("slots", "if nobody is moving slots now, end it: redis-cli --cluster fix, at one of its servers",
			"on the move: %s. Locks in such a slot work, but who waits for one has no turn, and looks twice a second instead", strings.Join(sorted(moving), "; "))
	} else if state["cluster_state"] != "" {
		y.OK("slots", "none is on the move")
	}
}

// examineAlone looks whether a server that was given alone is one of a cluster.
func (x *examiner) examineAlone(ctx context.Context, y backend.Finder) {
	text, err := x.b.client.Info(ctx, "cluster").Result()
	if err == nil && parseInfo(text)["cluster_enabled"] == "1" {
		x.usable = false
		y.Problem("cluster", "add cluster=true to the URL", "%s", inCluster)
	}
}

// addSlotsOnTheMove reads from CLUSTER NODES what the server that answered says of its own
// slots: [SLOT->-TARGET] and [SLOT-<-SOURCE], with the IDs of servers.
func addSlotsOnTheMove(moving map[string]bool, nodes string) {
	addrs := map[string]string{}
	var own []string
	for line := range strings.Lines(nodes) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		addr, _, _ := strings.Cut(f[1], "@")
		addrs[f[0]] = addr
		if strings.Contains(f[2], "myself") {
			own = f
		}
	}
	if own == nil {
		return
	}
	for _, s := range own[8:] {
		s, ok := strings.CutPrefix(strings.TrimSuffix(s, "]"), "[")
		if !ok {
			continue
		}
		if slot, to, ok := strings.Cut(s, "->-"); ok {
			moving[fmt.Sprintf("slot %s from %s to %s", slot, addrs[own[0]], orID(addrs[to], to))] = true
		} else if slot, source, ok := strings.Cut(s, "-<-"); ok {
			moving[fmt.Sprintf("slot %s from %s to %s", slot, orID(addrs[source], source), addrs[own[0]])] = true
		}
	}
}

func orID(addr, id string) string {
	if addr == "" {
		return id
	}
	return addr
}
