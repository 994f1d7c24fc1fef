package redistest_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/realtest/redistest"
)

// blinded are a primary, its replica and two sentinels, the first of which is kept from
// the servers and from the other one, so that it never learns of a failover.
type blinded struct {
	tb               testing.TB
	primary, replica *redistest.Server
	blind, sees      *redistest.Server
	door             *redistest.Proxy // to the one that sees
}

const secret = "secret"

func startBlinded(t *testing.T) *blinded {
	t.Helper()
	o := &redistest.Options{Password: secret, Rewritable: true, Config: []string{
		"--masterauth", secret, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
	}}
	b := &blinded{tb: t, primary: redistest.Start(t, o), replica: redistest.Start(t, o)}
	b.follow(b.replica, b.primary)
	for _, s := range []*redistest.Server{b.primary, b.replica} {
		s.Do("acl", "setuser", "lens", "on", ">lens", "allcommands", "allkeys", "allchannels")
	}
	// The other one would tell it by PUBLISH, within two seconds of a failover.
	b.blind = redistest.StartSentinel(t, b.primary, "main", "sentinel auth-user main lens", "sentinel auth-pass main lens",
		"user default on nopass sanitize-payload ~* &* +@all -publish")
	b.sees = redistest.StartSentinel(t, b.primary, "main", "sentinel auth-pass main "+secret)
	b.door = redistest.StartProxy(t, "127.0.0.1:1") // nobody answers there yet
	b.await("a sentinel that knows the replica", func() bool {
		info, _ := b.sees.Do("info", "sentinel").(string)
		return strings.Contains(info, "slaves=1,")
	})
	return b
}

func (b *blinded) await(what string, ready func() bool) {
	b.tb.Helper()
	for deadline := time.Now().Add(time.Minute); !ready(); {
		if time.Now().After(deadline) {
			b.tb.Fatal("there is still not: ", what)
		}
		time.Sleep(20 * time.Millisecond) // no server tells when it is ready
	}
}

func (b *blinded) follow(replica, primary *redistest.Server) {
	b.tb.Helper()
	host, port, _ := strings.Cut(primary.Addr(), ":")
	replica.Do("replicaof", host, port)
	b.await("a replica", func() bool {
		info, _ := replica.Do("info", "replication").(string)
		return strings.Contains(info, "master_link_status:up")
	})
}

// url has both sentinels, of which the library uses the first that answers, and keeps to it.
func (b *blinded) url() string {
	q := url.Values{"master_name": {"main"}, "password": {secret}}
	return "redis://" + b.blind.Addr() + "," + b.door.Addr() + "/0?" + q.Encode()
}

// failOver makes the one blind and has the other promote the replica.
func (b *blinded) failOver() {
	b.tb.Helper()
	for _, s := range []*redistest.Server{b.primary, b.replica} {
		s.Do("acl", "deluser", "lens") // and its connections
	}
	client := b.sees.Client()
	b.await("a sentinel that finds the replica good", func() bool {
		return client.Do(context.Background(), "sentinel", "failover", "main").Err() == nil
	})
	b.await("a failover", func() bool {
		now, _ := b.sees.Do("sentinel", "get-master-addr-by-name", "main").([]any)
		return len(now) == 2 && strings.HasSuffix(b.replica.Addr(), ":"+now[1].(string))
	})
	b.door.Retarget(b.sees.Addr())
}

func (b *blinded) names(s *redistest.Server) bool {
	b.tb.Helper()
	now, _ := b.blind.Do("sentinel", "get-master-addr-by-name", "main").([]any)
	return len(now) == 2 && strings.HasSuffix(s.Addr(), ":"+now[1].(string))
}

// A sentinel that has not heard of a failover does not keep a client from the primary,
// whether the former one is a replica now or gone.
func TestBlindSentinel(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after func(*blinded)
	}{
		{"the former primary is a replica", func(b *blinded) {
			b.follow(b.primary, b.replica) // as the sentinel would have it do in ten seconds
			b.primary.Do("client", "kill", "type", "normal")
		}},
		{"the former primary is gone", func(b *blinded) { b.primary.Kill() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := startBlinded(t)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			l, err := hasp.Open(ctx, b.url(), &hasp.Options{MaxWait: patient})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			before, err := l.Acquire(ctx, "before")
			if err != nil {
				t.Fatal(err)
			}
			if err := before.Release(ctx); err != nil {
				t.Fatal(err)
			}
			b.failOver()
			tc.after(b)
			if !b.names(b.primary) {
				t.Fatal("the blind sentinel sees")
			}
			start := time.Now()
			after, err := l.Acquire(ctx, "after")
			if err != nil {
				t.Fatalf("%v after the failover: %v", time.Since(start), err)
			}
			t.Logf("acquired %v after the failover", time.Since(start))
			if err := after.Release(ctx); err != nil {
				t.Error(err)
			}
			// And who begins there.
			again, err := hasp.Open(ctx, b.url(), &hasp.Options{MaxWait: patient})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			lease, err := again.Acquire(ctx, "after")
			if err != nil {
				t.Fatal(err)
			}
			if err := lease.Release(ctx); err != nil {
				t.Error(err)
			}
			if !b.names(b.primary) {
				t.Error("the blind sentinel has been told of the failover")
			}
		})
	}
}
