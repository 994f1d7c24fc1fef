package redistest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Replicated is a primary and its replica, with a Proxy in front that leads to
// whichever is to be used: a failover is a change of where it leads.
type Replicated struct {
	tb      testing.TB
	Primary *Server
	Replica *Server
	Proxy   *Proxy
}

// StartReplicated starts both and waits until the replica follows.
func StartReplicated(tb testing.TB) *Replicated {
	tb.Helper()
	r := &Replicated{tb: tb}
	r.Primary = Start(tb, &Options{Binary: true, Config: []string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}})
	r.Replica = Start(tb, &Options{Binary: true, Config: []string{"--replicaof", "127.0.0.1 " + r.Primary.port()}})
	r.await(func() bool {
		return strings.Contains(r.Replica.Do("info", "replication").(string), "master_link_status:up")
	})
	r.Proxy = StartProxy(tb, r.Primary.Addr())
	return r
}

func (r *Replicated) await(ready func() bool) {
	r.tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ready(); {
		if time.Now().After(deadline) {
			r.tb.Fatalf("the replica does not follow:\n%s", r.Replica.Do("info", "replication"))
		}
		time.Sleep(20 * time.Millisecond) // Redis does not tell when it is done
	}
}

// URL leads through the proxy.
func (r *Replicated) URL(options ...string) string {
	return "redis://" + r.Proxy.Addr() + "/0" + query(options)
}

// Sync waits until the replica has everything.
func (r *Replicated) Sync() {
	r.tb.Helper()
	c := r.Primary.Client()
	defer c.Close()
	r.await(func() bool {
		offset := func(s *Server) string {
			for line := range strings.Lines(s.Do("info", "replication").(string)) {
				for _, name := range []string{"slave_repl_offset:", "master_repl_offset:"} {
					if v, ok := strings.CutPrefix(line, name); ok {
						return v
					}
				}
			}
			return ""
		}
		_ = c.Ping(context.Background())
		return offset(r.Primary) == offset(r.Replica)
	})
}

// Disconnect makes the replica miss what the primary does from now on, for good.
func (r *Replicated) Disconnect() {
	r.tb.Helper()
	// Stopping its process would not do: what the primary sends would wait for it in
	// the kernel.
	r.Replica.Do("replicaof", "no", "one")
}

// Failover kills the primary, promotes the replica, and leads clients there.
func (r *Replicated) Failover() {
	r.tb.Helper()
	r.Primary.Kill()
	r.Replica.Do("replicaof", "no", "one")
	r.Proxy.Retarget(r.Replica.Addr())
}
