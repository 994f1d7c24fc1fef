package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/internal/port"
	"github.com/hasplock/hasp/realtest/redistest"
)

// A server that is there and cannot serve now is waited for at Open, as Acquire would.
func TestOpenWaitsForPassingStates(t *testing.T) {
	for _, program := range redistest.Programs() {
		start := func(t *testing.T, config ...string) *redistest.Server {
			return redistest.Start(t, &redistest.Options{Program: program, Config: config})
		}
		for name, state := range map[string]struct {
			begin func(t *testing.T) (url string, end func())
			word  string
		}{
			"READONLY": {func(t *testing.T) (string, func()) {
				s := start(t)
				s.Do("replicaof", "127.0.0.1", start(t).Addr()[len("127.0.0.1:"):])
				eventually(t, "it follows", func() bool { return strings.Contains(fmt.Sprint(s.Do("info", "replication")), "master_link_status:up") })
				return s.URL(), func() { s.Do("replicaof", "no", "one") }
			}, "read-only replica"},
			"MASTERDOWN": {func(t *testing.T) (string, func()) {
				s := start(t, "--replica-serve-stale-data", "no")
				s.Do("replicaof", "127.0.0.1", "1")
				return s.URL(), func() { s.Do("replicaof", "no", "one") }
			}, "lost its primary"},
			"NOREPLICAS": {func(t *testing.T) (string, func()) {
				s := start(t, "--min-replicas-to-write", "1")
				return s.URL(), func() { s.Do("config", "set", "min-replicas-to-write", "0") }
			}, "fewer good replicas"},
			"BUSY": {func(t *testing.T) (string, func()) {
				s := start(t, "--lua-time-limit", "10")
				// on a connection of its own, which gets no answer before the end
				conn, err := net.Dial("tcp", s.Addr())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				fmt.Fprintf(conn, "eval 'while true do end' 0\r\n")
				c := s.Client()
				eventually(t, "it is busy", func() bool {
					err := c.Ping(t.Context()).Err()
					return err != nil && strings.HasPrefix(err.Error(), "BUSY")
				})
				return s.URL(), func() {
					conn, err := net.Dial("tcp", s.Addr())
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { conn.Close() })
					fmt.Fprintf(conn, "script kill\r\n")
				}
			}, "busy with a script"},
			"OOM": {func(t *testing.T) (string, func()) {
				s := start(t)
				s.Do("config", "set", "maxmemory", "1")
				return s.URL(), func() { s.Do("config", "set", "maxmemory", "0") }
			}, "out of memory"},
			"MISCONF": {func(t *testing.T) (string, func()) {
				s := start(t, "--enable-protected-configs", "yes")
				s.Do("config", "set", "save", "3600 1000000")
				dir := t.TempDir()
				s.Do("config", "set", "dir", dir)
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				s.Do("set", "a", "b")
				s.Do("bgsave")
				eventually(t, "it cannot save", func() bool {
					return strings.Contains(fmt.Sprint(s.Do("info", "persistence")), "rdb_last_bgsave_status:err")
				})
				return s.URL(), func() { s.Do("config", "set", "stop-writes-on-bgsave-error", "no") }
			}, "cannot save its data"},
			"no room": {func(t *testing.T) (string, func()) {
				s := start(t, "--maxclients", "2")
				var conns []net.Conn
				for begun := time.Now(); len(conns) < 2; {
					conn, err := net.Dial("tcp", s.Addr())
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { conn.Close() })
					// refused while who has asked whether the server runs is still connected
					fmt.Fprintf(conn, "ping\r\n")
					answer := make([]byte, 5)
					if _, err := io.ReadFull(conn, answer); err == nil && string(answer) == "+PONG" {
						conns = append(conns, conn)
					} else if time.Since(begun) > patient {
						t.Fatalf("%v %q", err, answer)
					}
				}
				return s.URL(), func() { fmt.Fprintf(conns[0], "config set maxclients 100\r\n") }
			}, "maxclients"},
			"LOADING": {func(t *testing.T) (string, func()) {
				s := redistest.Start(t, &redistest.Options{Program: program, Loading: true,
					Config: []string{"--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"}})
				s.Do("eval", "for i = 1, 2000 do redis.call('SET', i, string.rep('x', 2000)) end", 0)
				s.Do("save")
				s.Restart() // it would load for minutes
				return s.URL(), func() { s.Do("config", "set", "key-load-delay", "0") }
			}, "still loading"},
			"a proxy without a server": {func(t *testing.T) (string, func()) {
				s := start(t)
				p := redistest.StartProxy(t, port.Nobody)
				return "redis://" + p.Addr(), func() { p.Retarget(s.Addr()) }
			}, "proxy"},
		} {
			t.Run(filepath.Base(program)+"/"+name, func(t *testing.T) {
				t.Parallel()
				url, end := state.begin(t)
				testPassing(t, url, state.word, end)
			})
		}
	}
}

// testPassing opens url, which must not do before end is called.
func testPassing(t *testing.T, url, word string, end func()) {
	t.Helper()
	for least := 700 * time.Millisecond; ; least *= 2 {
		ctx, cancel := context.WithTimeout(context.Background(), least)
		start := time.Now()
		b, err := backend.Open(ctx, url)
		took := time.Since(start)
		cancel()
		if err == nil {
			b.Close()
			t.Fatal("it was opened")
		}
		if took < least/2 {
			t.Fatalf("Open gave up after %v, its context had %v: %v", took, least, err)
		}
		if errors.Is(err, backend.ErrUnavailable) && strings.Contains(err.Error(), word) {
			break
		}
		// A server that is busy with other things may not have said anything yet.
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) || least > patient {
			t.Errorf("%v\nwant ErrUnavailable, and %q in it", err, word)
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	opened := make(chan error, 1)
	go func() {
		b, err := backend.Open(ctx, url)
		if err == nil {
			g, aerr := b.Acquire(ctx, "k", claim(time.Minute))
			if aerr == nil {
				aerr = b.Release(ctx, g)
			}
			err = errors.Join(aerr, b.Close())
		}
		opened <- err
	}()
	end()
	if err := <-opened; err != nil {
		t.Errorf("when it had passed: %v", err)
	}
}

// A cluster that does not serve all its slots serves none.
func TestOpenWaitsForCluster(t *testing.T) {
	c := redistest.StartCluster(t)
	for _, s := range c.Nodes {
		s.Do("cluster", "delslots", 0)
	}
	eventually(t, "it does not serve", func() bool {
		for _, s := range c.Nodes {
			if !strings.Contains(fmt.Sprint(s.Do("cluster", "info")), "cluster_state:fail") {
				return false
			}
		}
		return true
	})
	testPassing(t, c.URL(), "the cluster does not serve", func() {
		for _, s := range c.Nodes[1:] {
			s.Do("cluster", "setslot", 0, "node", c.Nodes[0].Do("cluster", "myid"))
		}
		c.Nodes[0].Do("cluster", "addslots", 0)
	})
}

// It is not waited for forever, and an address at which nobody is not at all.
func TestOpenGivesUp(t *testing.T) {
	p := redistest.StartProxy(t, port.Nobody)
	for url, most := range map[string][2]time.Duration{
		"redis://" + p.Addr():    {5 * time.Second, patient},
		"redis://" + port.Nobody: {0, 4 * time.Second},
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			_, err := backend.Open(context.Background(), url)
			if !errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("%v, want ErrUnavailable", err)
			}
			if took := time.Since(start); took < most[0] || took > most[1] {
				t.Errorf("it took %v, want %v to %v", took, most[0], most[1])
			}
		})
	}
}
