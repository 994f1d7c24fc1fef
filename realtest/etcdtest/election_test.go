package etcdtest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/etcdtest"
)

// Open waits while the store has no leader, as it does for a moment whenever the leader
// is restarted.
func TestOpenDuringElection(t *testing.T) {
	t.Parallel()
	cl := etcdtest.StartCluster(t, 3, nil)
	ctx := testContext(t)
	leader := cl.Leader()
	leader.CutOff()
	c := leader.Client()
	// It steps down when it has not heard of the others for an election timeout, and
	// says of watches that need a leader that there is none a little later.
	for noLeader := false; !noLeader; {
		if ctx.Err() != nil {
			t.Fatal("the member that is cut off has a leader still")
		}
		wctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), time.Second)
		for resp := range c.Watch(wctx, "x", clientv3.WithCreatedNotify()) {
			noLeader = resp.Err() != nil && strings.Contains(resp.Err().Error(), "no leader")
			break
		}
		cancel()
	}
	opened := make(chan error, 1)
	go func() {
		b, err := backend.Open(ctx, leader.URL("")+"?timeout=50s")
		if err == nil {
			err = b.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("open while there is no leader: %v", err)
	case <-time.After(time.Second):
	}
	leader.Rejoin()
	if err := <-opened; err != nil {
		t.Errorf("open when there is a leader again: %v", err)
	}
}
