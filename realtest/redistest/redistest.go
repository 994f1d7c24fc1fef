// Package redistest starts real Redis servers for tests and lets them be
// killed, restarted, paused and cut off.
//
// A plain server runs in a container where a Docker engine runs and has the image
// redis:7 (scripts/test-images makes it), otherwise it is the redis-server binary
// as a child process. A server that is to be killed and restarted, a cluster, a
// replicated pair and what sentinels watch are always children. The environment
// variable HASP_TEST_REDIS forces one of them: "docker" or "binary". Valkey and the
// like are children too.
package redistest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Image is the Docker image of plain servers.
const Image = "redis:7"

// Options say what server to start. The zero value is a plain one on a TCP port.
type Options struct {
	// Binary asks for a child process even where there is Docker, because the test
	// wants Kill, Restart or Pause. The options below ask for it too.
	Binary bool
	// Program is the server's program; "" is redis-server. Programs lists others.
	Program string
	// Loading lets Start and Restart return while the server still loads its data.
	Loading bool
	// Password is what the default user must give.
	Password string
	// TLS makes the port speak TLS only, with a certificate that Server.TLSRoots
	// trusts.
	TLS bool
	// Unix makes the server listen on a socket besides its port.
	Unix bool
	// Persist makes the server write each change to disk before it answers, so
	// that a restart forgets nothing.
	Persist bool
	// Cluster makes the server one of a Redis Cluster.
	Cluster bool
	// Rewritable gives the server a file for its configuration, in which it keeps what it
	// is told with CONFIG REWRITE, as sentinels do.
	Rewritable bool
	// Config are further arguments of redis-server, such as "--maxmemory", "2mb".
	Config []string
}

func (o Options) binary() bool {
	return o.Binary || o.Program != "" || o.Password != "" || o.TLS || o.Unix || o.Persist || o.Cluster || o.Rewritable || len(o.Config) > 0
}

func (o Options) program() string {
	if o.Program == "" {
		return "redis-server"
	}
	return o.Program
}

// Programs are the servers that speak Redis's protocol and that tests of what they
// say differently run against: redis-server and valkey-server; redict-server, if it is
// installed; and what HASP_TEST_REDIS_PROGRAM names, such as another version.
func Programs() []string {
	out := []string{"redis-server", "valkey-server"}
	if _, err := exec.LookPath("redict-server"); err == nil {
		out = append(out, "redict-server")
	}
	if p := os.Getenv("HASP_TEST_REDIS_PROGRAM"); p != "" {
		out = append(out, p)
	}
	return out
}

// Server is a running Redis server.
type Server struct {
	tb   testing.TB
	opts Options
	addr string // host:port
	bus  string // a cluster's port
	dir  string // of a child's files
	file string // a sentinel's configuration
	proc *process
	tls  *certificate
}

// Start starts a server and stops it when the test ends.
func Start(tb testing.TB, opts *Options) *Server {
	tb.Helper()
	var o Options
	if opts != nil {
		o = *opts
	}
	if useDocker(tb, o) {
		return startContainer(tb)
	}
	return startProcess(tb, o)
}

// Addr is the server's host:port.
func (s *Server) Addr() string { return s.addr }

// URL is what to open a backend with. Options are given as in "prefix=x:".
func (s *Server) URL(options ...string) string {
	u := "redis://"
	if s.opts.TLS {
		u = "rediss://"
	}
	if s.opts.Password != "" {
		u += "default:" + s.opts.Password + "@"
	}
	return u + s.addr + "/0" + query(options)
}

// UnixURL is the URL of the server's socket.
func (s *Server) UnixURL(options ...string) string {
	return "redis+unix://" + s.socket() + query(options)
}

func query(options []string) string {
	if len(options) == 0 {
		return ""
	}
	return "?" + strings.Join(options, "&")
}

// answerWithin bounds how long a server may take for a test's own command.
const answerWithin = 2 * time.Minute

// Client returns a client for looking at the server, closed when the test ends.
func (s *Server) Client() *redis.Client {
	o := &redis.Options{
		Addr: s.addr, Password: s.opts.Password, ContextTimeoutEnabled: true,
		PoolSize: 4, DialerRetries: 1, ClientName: "redistest",
		// A command whose answer is late, since the server waits for its disk, is not sent
		// again: what is done twice can be an error.
		ReadTimeout: answerWithin, MaxRetries: -1,
	}
	if s.opts.TLS {
		o.TLSConfig = s.tls.client()
	}
	c := redis.NewClient(o)
	s.tb.Cleanup(func() { c.Close() })
	return c
}

// Do runs a command and fails the test if it fails.
func (s *Server) Do(args ...any) any {
	s.tb.Helper()
	c := s.Client()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	v, err := c.Do(ctx, args...).Result()
	if err != nil && err != redis.Nil {
		s.tb.Fatalf("redis %v: %v", args, err)
	}
	return v
}

// Wipe makes the server forget everything (FLUSHALL).
func (s *Server) Wipe() { s.tb.Helper(); s.Do("flushall") }

// Keys returns the names of all keys in the server.
func (s *Server) Keys() []string {
	s.tb.Helper()
	var out []string
	for _, k := range s.Do("keys", "*").([]any) {
		out = append(out, k.(string))
	}
	return out
}

// Channels returns the channels that have subscribers.
func (s *Server) Channels() []string {
	s.tb.Helper()
	var out []string
	for _, k := range s.Do("pubsub", "channels").([]any) {
		out = append(out, k.(string))
	}
	return out
}

// Connections counts the clients of the server that are neither this package's nor sentinels.
func (s *Server) Connections() int {
	s.tb.Helper()
	n := 0
	for line := range strings.Lines(s.Do("client", "list", "type", "normal").(string) + s.Do("client", "list", "type", "pubsub").(string)) {
		if !strings.Contains(line, "name=redistest") && !strings.Contains(line, "name=sentinel-") {
			n++
		}
	}
	return n
}

// Commands returns how many commands the server has processed so far, those
// inside scripts not counted, without the call itself.
func (s *Server) Commands() map[string]int64 {
	s.tb.Helper()
	out := map[string]int64{}
	for line := range strings.Lines(s.Do("info", "commandstats").(string)) {
		name, stats, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		var calls int64
		if _, err := fmt.Sscanf(stats, "calls=%d,", &calls); ok && err == nil {
			out[name] = calls
		}
	}
	return out
}

// useDocker decides where a server runs.
func useDocker(tb testing.TB, o Options) bool {
	tb.Helper()
	switch force := os.Getenv("HASP_TEST_REDIS"); force {
	case "":
		return !o.binary() && dockerHas(Image)
	case "docker":
		if o.binary() {
			return false // a container is not for killing
		}
		if !dockerHas(Image) {
			tb.Fatalf("HASP_TEST_REDIS=docker, but there is no Docker engine with the image %s: run scripts/test-images", Image)
		}
		return true
	case "binary":
		return false
	default:
		tb.Fatalf("HASP_TEST_REDIS=%q: want docker or binary", force)
		return false
	}
}
