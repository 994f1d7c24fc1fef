package redistest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/internal/port"
)

// StartSentinel starts a sentinel that knows primary by name, and waits until it tells
// where it is. Its clients use URLs with master_name. More are lines of its configuration.
func StartSentinel(tb testing.TB, primary *Server, name string, more ...string) *Server {
	tb.Helper()
	return startSentinel(tb, fmt.Sprintf("sentinel monitor %s 127.0.0.1 %s 1\n%s\n", name, primary.port(), strings.Join(more, "\n")))
}

func startSentinel(tb testing.TB, config string) *Server {
	tb.Helper()
	s := &Server{tb: tb, addr: port.Free(tb), dir: tb.TempDir()}
	s.file = filepath.Join(s.dir, "sentinel.conf") // it writes to it
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\n%s", s.port(), s.dir, config)
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	if err := s.launch(); err != nil {
		tb.Fatal("sentinel: ", err)
	}
	return s
}

// Sentineled is a primary and two replicas, which have their changes on disk before they
// answer, and three sentinels that watch over them. A proxy is in front of each server;
// clients, replicas and sentinels know no other way to it.
//
// The sentinels take no server for dead by themselves unless Detect says so, and who is
// to be the primary changes when Promote says so: a test knows what each primary began with.
type Sentineled struct {
	tb        testing.TB
	Nodes     []*Server
	Proxies   []*Proxy // one to each of Nodes
	Sentinels []*Server
	Doors     []*Proxy // one to each of Sentinels, for clients with DoorURL
}

// patient is how long a server is silent before the sentinels take it for dead, unless
// Detect says otherwise: longer than a test lasts.
const patient = 10 * time.Minute

const sentineledName = "main"

// StartSentineled starts them all and waits until they know of each other.
func StartSentineled(tb testing.TB) *Sentineled {
	tb.Helper()
	c := &Sentineled{tb: tb}
	for range 3 {
		p := StartProxy(tb, "")
		s := Start(tb, &Options{Persist: true, Rewritable: true, Config: []string{
			"--replica-announce-ip", "127.0.0.1", "--replica-announce-port", portOf(p.Addr()),
			"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
		}})
		p.Retarget(s.addr)
		c.Nodes, c.Proxies = append(c.Nodes, s), append(c.Proxies, p)
	}
	for i := range c.Nodes[1:] {
		c.Follow(i+1, 0)
	}
	c.await("replicas", func() bool { return c.following(0) })
	// A failover that nobody orders has to be twice failover-timeout after the one before.
	config := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]s 2\nsentinel down-after-milliseconds %[1]s %[3]d\nsentinel failover-timeout %[1]s 5000\n",
		sentineledName, portOf(c.Proxies[0].Addr()), patient.Milliseconds())
	for range 3 {
		s := startSentinel(tb, config)
		c.Sentinels, c.Doors = append(c.Sentinels, s), append(c.Doors, StartProxy(tb, s.addr))
	}
	c.Await()
	return c
}

func (c *Sentineled) await(what string, ready func() bool) {
	c.tb.Helper()
	for deadline := time.Now().Add(time.Minute); !ready(); {
		if time.Now().After(deadline) {
			c.tb.Fatalf("the sentinels and their servers are not ready: %s", what)
		}
		time.Sleep(50 * time.Millisecond) // neither tells when it is done
	}
}

// URL is what to open a backend with.
func (c *Sentineled) URL(options ...string) string {
	var addrs []string
	for _, s := range c.Sentinels {
		addrs = append(addrs, s.addr)
	}
	return sentineledURL(addrs, options)
}

// DoorURL is the same for clients whose ways to the sentinels are Doors.
func (c *Sentineled) DoorURL(options ...string) string {
	var addrs []string
	for _, p := range c.Doors {
		addrs = append(addrs, p.Addr())
	}
	return sentineledURL(addrs, options)
}

func sentineledURL(addrs, options []string) string {
	return "redis://" + strings.Join(addrs, ",") + "/0" + query(append([]string{"master_name=" + sentineledName}, options...))
}

// Primary is the one of Nodes that all sentinels name; -1 if they do not agree.
func (c *Sentineled) Primary() int {
	c.tb.Helper()
	primary := -1
	for i, s := range c.Sentinels {
		addr, ok := s.Do("sentinel", "get-master-addr-by-name", sentineledName).([]any)
		if !ok {
			return -1
		}
		n := slices.IndexFunc(c.Proxies, func(p *Proxy) bool { return portOf(p.Addr()) == addr[1] })
		if i > 0 && n != primary {
			return -1
		}
		primary = n
	}
	return primary
}

// following tells whether the others follow primary.
func (c *Sentineled) following(primary int) bool {
	info, _ := c.ask(c.Nodes[primary], "info", "replication").(string)
	return strings.Contains(info, "role:master") && strings.Count(info, "state=online") == len(c.Nodes)-1
}

// ask is Do of a server that may close the connection: it does when a sentinel makes
// another of it. The answer is nil then.
func (c *Sentineled) ask(s *Server, args ...any) any {
	c.tb.Helper()
	client := s.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	v, err := client.Do(ctx, args...).Result()
	if err != nil && ctx.Err() != nil {
		c.tb.Fatalf("redis %v: %v", args, err)
	}
	return v
}

// Ready tells whether all sentinels name one primary, and all other servers follow it.
func (c *Sentineled) Ready() bool {
	c.tb.Helper()
	primary := c.Primary()
	return primary >= 0 && c.following(primary)
}

// Await waits until they are ready, and every sentinel could have a replica promoted.
func (c *Sentineled) Await() {
	c.tb.Helper()
	c.await("one primary, and all follow", c.Ready)
	for _, s := range c.Sentinels {
		c.await("a sentinel that knows all", func() bool {
			var info string
			info, _ = s.Do("info", "sentinel").(string)
			return strings.Contains(info, "status=ok") && strings.Contains(info, "slaves=2,sentinels=3")
		})
	}
}

// Follow makes a server a replica of another, and keep that.
func (c *Sentineled) Follow(replica, primary int) {
	c.tb.Helper()
	s := c.Nodes[replica]
	s.Do("replicaof", "127.0.0.1", portOf(c.Proxies[primary].Addr()))
	s.Do("config", "rewrite")
}

// active are the sentinels that act. One that stood still, for 2 s, does not for 30 s.
func (c *Sentineled) active() []*Server {
	c.tb.Helper()
	return slices.DeleteFunc(slices.Clone(c.Sentinels), func(s *Server) bool {
		return !strings.Contains(s.Do("info", "sentinel").(string), "sentinel_tilt:0")
	})
}

// Active tells whether all sentinels act. They must be up.
func (c *Sentineled) Active() bool { c.tb.Helper(); return len(c.active()) == len(c.Sentinels) }

// Detect has the sentinels take a server for dead that is silent for this long, and fail
// over by themselves if it is the primary; after 0, for as long as at the beginning.
func (c *Sentineled) Detect(after time.Duration) {
	c.tb.Helper()
	for _, s := range c.Sentinels {
		s.Do("sentinel", "set", sentineledName, "down-after-milliseconds", cmp.Or(after, patient).Milliseconds())
	}
}

// Promote asks a sentinel to have a replica of its choice promoted, as if it had found the
// primary dead and the others had agreed. false if none would now.
func (c *Sentineled) Promote() bool {
	c.tb.Helper()
	active := c.active()
	if len(active) == 0 {
		return false
	}
	client := active[0].Client()
	defer client.Close()
	err := client.Do(context.Background(), "sentinel", "failover", sentineledName).Err()
	if err != nil && !strings.HasPrefix(err.Error(), "NOGOODSLAVE") && !strings.HasPrefix(err.Error(), "INPROG") {
		c.tb.Fatal("sentinel failover: ", err)
	}
	return err == nil
}

// Promoted is the server besides former that says that it is a primary; -1 if none does.
func (c *Sentineled) Promoted(former int) int {
	c.tb.Helper()
	for i, s := range c.Nodes {
		if i == former {
			continue
		}
		if role, ok := c.ask(s, "role").([]any); ok && role[0] == "master" {
			return i
		}
	}
	return -1
}
