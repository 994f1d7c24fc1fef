package etcdtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Cluster is several members that elect a leader.
type Cluster struct {
	tb      testing.TB
	Members []*Server
}

// StartCluster starts n members and stops them when the test ends.
func StartCluster(tb testing.TB, n int, opts *Options) *Cluster {
	tb.Helper()
	if opts == nil {
		opts = &Options{}
	}
	var err error
	// A port may be taken between being found and being used.
	for range 3 {
		c := &Cluster{tb: tb}
		var initial []string
		for i := range n {
			name := fmt.Sprintf("m%d", i)
			s := &Server{tb: tb, member: member{
				Name: name, Client: freeAddr(tb), Peer: freeAddr(tb),
				Quota: opts.Quota, Fsync: opts.Fsync, CertFile: opts.CertFile, KeyFile: opts.KeyFile,
			}}
			s.member.Dir, s.log = dataDir(tb, name)
			initial = append(initial, name+"=http://"+s.member.Peer)
			c.Members = append(c.Members, s)
		}
		for _, s := range c.Members {
			s.member.Cluster = strings.Join(initial, ",")
		}
		if err = c.start(); err == nil {
			tb.Cleanup(c.kill)
			return c
		}
		c.kill()
	}
	tb.Fatalf("etcdtest: %v", err)
	return nil
}

func (c *Cluster) start() error {
	for _, s := range c.Members {
		if err := s.start(); err != nil {
			return err
		}
	}
	for _, s := range c.Members {
		if err := s.expect("ready"); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) kill() {
	for _, s := range c.Members {
		s.Kill()
	}
}

// Endpoints are where clients reach the members.
func (c *Cluster) Endpoints() []string {
	var eps []string
	for _, s := range c.Members {
		eps = append(eps, s.Endpoint())
	}
	return eps
}

// URL names the cluster for backend.Open, with a prefix, which may be empty.
func (c *Cluster) URL(prefix string) string {
	var hosts []string
	for _, s := range c.Members {
		hosts = append(hosts, s.Addr())
	}
	return "etcd://" + strings.Join(hosts, ",") + "/" + prefix
}

// Client returns a client of all members, closed when the test ends.
func (c *Cluster) Client() *clientv3.Client { return dial(c.tb, c.Endpoints()...) }

// Leader returns the member that leads, waiting until one does.
func (c *Cluster) Leader() *Server {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client := c.Client()
	for ctx.Err() == nil {
		for _, s := range c.Members {
			sctx, cancel := context.WithTimeout(ctx, time.Second)
			st, err := client.Status(sctx, s.Endpoint())
			cancel()
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				return s
			}
		}
	}
	c.tb.Fatalf("etcdtest: no member became leader within %v", startTimeout)
	return nil
}

// Follower returns a member that does not lead.
func (c *Cluster) Follower() *Server {
	c.tb.Helper()
	leader := c.Leader()
	for _, s := range c.Members {
		if s != leader {
			return s
		}
	}
	c.tb.Fatal("etcdtest: a cluster of one has no follower")
	return nil
}

// Restart kills all members and starts them again with their data.
func (c *Cluster) Restart() {
	c.tb.Helper()
	c.kill()
	if err := c.start(); err != nil {
		c.tb.Fatalf("etcdtest: %v", err)
	}
}

// Wipe kills all members and starts them again without their data.
func (c *Cluster) Wipe() {
	c.tb.Helper()
	c.kill()
	for _, s := range c.Members {
		if err := os.RemoveAll(s.member.Dir); err != nil {
			c.tb.Fatalf("etcdtest: %v", err)
		}
	}
	if err := c.start(); err != nil {
		c.tb.Fatalf("etcdtest: %v", err)
	}
}
