package redistest

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Cluster is a Redis Cluster of three masters without replicas.
type Cluster struct {
	tb    testing.TB
	Nodes []*Server
	// Proxies lead to the nodes, one to each, if ClusterOptions asked for them.
	Proxies []*Proxy
}

// ClusterOptions say what cluster to start.
type ClusterOptions struct {
	// Persist is as in Options.
	Persist bool
	// NodeTimeout is for how long a node may say nothing before the others give it up:
	// then nobody serves, until twice that time after it is back. 0 is a minute, which no
	// node is silent for that is only short of processors, or waits for its disk.
	NodeTimeout time.Duration
	// Proxied has each node tell its clients, and URL say, the address of a proxy in
	// front of it. Nodes reach each other without.
	Proxied bool
}

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// StartCluster starts a cluster and waits until all of it serves.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	return StartClusterWith(tb, ClusterOptions{})
}

// StartClusterWith starts a cluster and waits until all of it serves.
func StartClusterWith(tb testing.TB, o ClusterOptions) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	const masters = 3
	timeout := cmp.Or(o.NodeTimeout, time.Minute)
	for i := range masters {
		config := []string{"--cluster-node-timeout", fmt.Sprint(timeout.Milliseconds())}
		if o.Proxied {
			p := StartProxy(tb, "")
			c.Proxies = append(c.Proxies, p)
			config = append(config, "--cluster-announce-port", portOf(p.Addr()))
		}
		s := Start(tb, &Options{Cluster: true, Persist: o.Persist, Config: config})
		if o.Proxied {
			c.Proxies[i].Retarget(s.addr)
		}
		first, last := i*slots/masters, (i+1)*slots/masters-1
		s.Do("cluster", "addslotsrange", first, last)
		s.Do("cluster", "set-config-epoch", i+1)
		c.Nodes = append(c.Nodes, s)
	}
	for _, s := range c.Nodes[1:] {
		s.Do("cluster", "meet", "127.0.0.1", c.Nodes[0].port(), c.Nodes[0].bus)
	}
	c.Await()
	return c
}

// Await waits until every node knows that all slots are served.
func (c *Cluster) Await() {
	c.tb.Helper()
	for _, s := range c.Nodes {
		c.await(s)
	}
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// await waits until a node knows that all slots are served.
func (c *Cluster) await(s *Server) {
	c.tb.Helper()
	client := s.Client()
	defer client.Close()
	deadline := time.Now().Add(30 * time.Second)
	for {
		info, err := client.ClusterInfo(context.Background()).Result()
		if err == nil && c.complete(info) {
			return
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("the cluster is not ready: %v\n%s", err, info)
		}
		time.Sleep(20 * time.Millisecond) // nodes gossip; they do not tell when they are done
	}
}

// complete tells whether a node that says so of itself knows that all slots are served.
func (c *Cluster) complete(info string) bool {
	return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes))) &&
		strings.Contains(info, fmt.Sprintf("cluster_slots_ok:%d", slots))
}

// Serves tells whether every node knows now that all slots are served. All of them must be up.
func (c *Cluster) Serves() bool {
	c.tb.Helper()
	for _, s := range c.Nodes {
		if !c.complete(s.Do("cluster", "info").(string)) {
			return false
		}
	}
	return true
}

// URL is what to open a backend with.
func (c *Cluster) URL(options ...string) string {
	var addrs []string
	for i, s := range c.Nodes {
		if c.Proxies != nil {
			addrs = append(addrs, c.Proxies[i].Addr())
		} else {
			addrs = append(addrs, s.addr)
		}
	}
	return "redis://" + strings.Join(addrs, ",") + "/" + query(append([]string{"cluster=true"}, options...))
}

// Wipe makes all nodes forget everything.
func (c *Cluster) Wipe() {
	c.tb.Helper()
	for _, s := range c.Nodes {
		s.Wipe()
	}
}

// Keys returns the names of all keys in the cluster.
func (c *Cluster) Keys() []string {
	c.tb.Helper()
	var out []string
	for _, s := range c.Nodes {
		out = append(out, s.Keys()...)
	}
	return out
}

// Slot is the hash slot of a key of Redis.
func (c *Cluster) Slot(name string) int {
	c.tb.Helper()
	return int(c.Nodes[0].Do("cluster", "keyslot", name).(int64))
}

// Owner is the node that has a slot.
func (c *Cluster) Owner(slot int) *Server {
	c.tb.Helper()
	for _, r := range c.Nodes[0].Do("cluster", "slots").([]any) {
		r := r.([]any)
		if int64(slot) < r[0].(int64) || int64(slot) > r[1].(int64) {
			continue
		}
		for _, s := range c.Nodes { // not by its port: that may be the proxy's
			if s.Do("cluster", "myid") == r[2].([]any)[2] {
				return s
			}
		}
	}
	c.tb.Fatalf("nobody has slot %d", slot)
	return nil
}

// Move is a slot on its way from one node to another.
type Move struct {
	c        *Cluster
	slot     int
	From, To *Server
}

// BeginMove opens a slot: from now on until Finish it is on the move to another
// node.
func (c *Cluster) BeginMove(slot int) *Move {
	c.tb.Helper()
	m := &Move{c: c, slot: slot, From: c.Owner(slot)}
	for _, s := range c.Nodes {
		if s != m.From {
			m.To = s
		}
	}
	m.To.Do("cluster", "setslot", slot, "importing", m.From.Do("cluster", "myid"))
	m.From.Do("cluster", "setslot", slot, "migrating", m.To.Do("cluster", "myid"))
	return m
}

// Key moves one key, if it exists. What fails because a node was slow, or seemed to the
// others to be gone, is repeated: with REPLACE, for the target may have its copy by then.
func (m *Move) Key(name string) {
	m.c.tb.Helper()
	client := m.From.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	args := []any{"migrate", "127.0.0.1", m.To.port(), name, 0, 5000}
	for {
		err := client.Do(ctx, args...).Err()
		if err == nil {
			return
		}
		passes := strings.HasPrefix(err.Error(), "IOERR") || strings.Contains(err.Error(), "CLUSTERDOWN")
		if !passes || ctx.Err() != nil {
			m.c.tb.Fatalf("migrate %s: %v", name, err)
		}
		args = append(args[:6], "replace")
		time.Sleep(20 * time.Millisecond) // nobody tells when it has passed
	}
}

// Finish moves all that is left, and gives the slot to its new node.
func (m *Move) Finish() {
	m.c.tb.Helper()
	for {
		keys := m.From.Do("cluster", "getkeysinslot", m.slot, 100).([]any)
		if len(keys) == 0 {
			break
		}
		for _, k := range keys {
			m.Key(k.(string))
		}
	}
	id := m.To.Do("cluster", "myid")
	m.To.Do("cluster", "setslot", m.slot, "node", id)
	m.From.Do("cluster", "setslot", m.slot, "node", id)
	for _, s := range m.c.Nodes {
		if s != m.To && s != m.From {
			s.Do("cluster", "setslot", m.slot, "node", id)
		}
	}
}

// Reshard has redis-cli move so many slots, the first that a node has.
func (c *Cluster) Reshard(from, to *Server, n int) error {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-cli", "--cluster", "reshard", from.Addr(),
		"--cluster-from", from.Do("cluster", "myid").(string), "--cluster-to", to.Do("cluster", "myid").(string),
		"--cluster-slots", fmt.Sprint(n), "--cluster-yes").CombinedOutput()
	if err != nil {
		return fmt.Errorf("redis-cli --cluster reshard: %w\n%s", err, out[max(0, len(out)-1000):])
	}
	return nil
}
