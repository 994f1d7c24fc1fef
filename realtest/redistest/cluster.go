package redistest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Cluster is a Redis Cluster of three masters without replicas.
type Cluster struct {
	tb    testing.TB
	Nodes []*Server
}

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// StartCluster starts a cluster and waits until all of it serves.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	const masters = 3
	for i := range masters {
		s := Start(tb, &Options{Binary: true, Config: []string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--cluster-port", portOf(freeAddr(tb)),
		}})
		first, last := i*slots/masters, (i+1)*slots/masters-1
		s.Do("cluster", "addslotsrange", first, last)
		s.Do("cluster", "set-config-epoch", i+1)
		c.Nodes = append(c.Nodes, s)
	}
	for _, s := range c.Nodes[1:] {
		s.Do("cluster", "meet", "127.0.0.1", s0port(c), busPort(c.Nodes[0]))
	}
	for _, s := range c.Nodes {
		c.await(s)
	}
	return c
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

func s0port(c *Cluster) string { return c.Nodes[0].port() }

func busPort(s *Server) string {
	for i, a := range s.opts.Config {
		if a == "--cluster-port" {
			return s.opts.Config[i+1]
		}
	}
	return ""
}

// await waits until a node knows that all slots are served.
func (c *Cluster) await(s *Server) {
	c.tb.Helper()
	client := s.Client()
	defer client.Close()
	deadline := time.Now().Add(30 * time.Second)
	for {
		info, err := client.ClusterInfo(context.Background()).Result()
		if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes))) &&
			strings.Contains(info, fmt.Sprintf("cluster_slots_ok:%d", slots)) {
			return
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("the cluster is not ready: %v\n%s", err, info)
		}
		time.Sleep(20 * time.Millisecond) // nodes gossip; they do not tell when they are done
	}
}

// URL is what to open a backend with.
func (c *Cluster) URL(options ...string) string {
	var addrs []string
	for _, s := range c.Nodes {
		addrs = append(addrs, s.addr)
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
