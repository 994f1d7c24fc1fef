package etcdtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/internal/port"
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
				Name: name, Client: port.Free(tb), Peer: port.Free(tb),
				Quota: opts.Quota, AuthTokenTTL: opts.AuthTokenTTL, Fsync: opts.Fsync, CertFile: opts.CertFile, KeyFile: opts.KeyFile,
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

// Add starts one member more, and waits until it serves.
func (c *Cluster) Add() *Server {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s := &Server{tb: c.tb, member: c.Members[0].member}
	s.member.Name = fmt.Sprintf("m%d", len(c.Members))
	s.member.Client, s.member.Peer, s.member.Join = port.Free(c.tb), port.Free(c.tb), true
	s.member.Dir, s.log = dataDir(c.tb, s.member.Name)
	client := c.Client()
	for {
		// etcd refuses while the members are not known to be healthy
		_, err := client.MemberAdd(ctx, []string{"http://" + s.member.Peer})
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			c.tb.Fatalf("etcdtest: add a member: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.member.Cluster += "," + s.member.Name + "=http://" + s.member.Peer
	err := s.start()
	if err == nil {
		err = s.expect("ready")
	}
	c.tb.Cleanup(s.Kill)
	if err != nil {
		c.tb.Fatalf("etcdtest: add a member: %v", err)
	}
	c.Members = append(c.Members, s)
	return s
}

// Remove takes a member out of the cluster and ends it.
func (c *Cluster) Remove(s *Server) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client := c.Client()
	list, err := client.MemberList(ctx)
	if err != nil {
		c.tb.Fatalf("etcdtest: list the members: %v", err)
	}
	for _, m := range list.Members {
		if m.Name != s.member.Name {
			continue
		}
		for {
			if _, err = client.MemberRemove(ctx, m.ID); err == nil {
				break
			}
			if ctx.Err() != nil {
				c.tb.Fatalf("etcdtest: remove a member: %v", err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	s.Kill()
	c.Members = slices.DeleteFunc(c.Members, func(m *Server) bool { return m == s })
}
