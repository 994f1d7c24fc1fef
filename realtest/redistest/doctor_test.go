package redistest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/internal/port"
	"github.com/hasplock/hasp/realtest/redistest"
)

// diagnosis is what was found in a store.
type diagnosis []backend.Finding

func (d diagnosis) String() string {
	var b strings.Builder
	for _, f := range d {
		fmt.Fprintf(&b, "\n%s %s %s: %s [%s]", f.Level, f.ID, f.Subject, f.Seen, f.Advice)
	}
	return b.String()
}

func (d diagnosis) has(level backend.Level, id string, words ...string) bool {
	return slices.ContainsFunc(d, func(f backend.Finding) bool {
		return f.Level == level && f.ID == id && !slices.ContainsFunc(words, func(w string) bool {
			return !strings.Contains(f.Subject+" "+f.Seen+" "+f.Advice, w)
		})
	})
}

func (d diagnosis) mustHave(t *testing.T, level backend.Level, id string, words ...string) {
	t.Helper()
	if !d.has(level, id, words...) {
		t.Errorf("no %s of %q with %q:%v", level, id, words, d)
	}
}

func (d diagnosis) mustHaveNoProblem(t *testing.T) {
	t.Helper()
	for _, f := range d {
		if f.Level == backend.LevelProblem {
			t.Errorf("%s: %s", f.ID, f.Seen)
		}
		if f.Level != backend.LevelOK && f.Advice == "" {
			t.Errorf("it is not said what to do about %s: %s", f.ID, f.Seen)
		}
	}
}

// examine looks a store over, and tells whether it can be tried.
func examine(t *testing.T, url string) (d diagnosis, usable bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	x, err := backend.OpenExaminer(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.Examine(ctx, func(f backend.Finding) { d = append(d, f) }); err != nil {
		t.Errorf("examine: %v", err)
	}
	b, remove, err := x.Scratch(ctx)
	if err != nil {
		t.Errorf("scratch: %v", err)
	}
	if b != nil {
		release(t, b, acquire(t, b, "k", claim(time.Minute)))
		if err := remove(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, f := range d {
		if strings.Contains(fmt.Sprint(f), "tresor") {
			t.Errorf("a password is shown: %+v", f)
		}
	}
	return d, b != nil
}

// A good server has no problem, and nothing is left in it.
func TestDoctorGood(t *testing.T) {
	eachServer(t, redistest.Options{Persist: true}, func(t *testing.T, s *redistest.Server) {
		d, usable := examine(t, s.URL())
		d.mustHaveNoProblem(t)
		if !usable {
			t.Error("nothing was tried")
		}
		for _, id := range []string{"reach", "scripts", "server", "eviction", "persistence", "replication", "clock", "proxy"} {
			d.mustHave(t, backend.LevelOK, id)
		}
		if slices.ContainsFunc(d, func(f backend.Finding) bool { return f.Level != backend.LevelOK }) {
			t.Errorf("not all is well:%v", d)
		}
		eventually(t, "nothing is left", func() bool { return len(s.Keys()) == 0 && s.Connections() == 0 })
	})
}

// Which server it is, is told.
func TestDoctorNamesServer(t *testing.T) {
	for program, want := range map[string]string{"redis-server": "redis ", "valkey-server": "valkey "} {
		s := redistest.Start(t, &redistest.Options{Program: program})
		out, err := exec.Command(program, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		_, version, _ := strings.Cut(string(out), " v=")
		version, _, _ = strings.Cut(version, " ")
		d, _ := examine(t, s.URL())
		d.mustHave(t, backend.LevelOK, "server", want+version)
	}
}

// Memory that is full removes locks unless the policy says otherwise; one that is nearly
// full refuses them soon.
func TestDoctorEviction(t *testing.T) {
	eachServer(t, redistest.Options{Persist: true}, func(t *testing.T, s *redistest.Server) {
		for _, policy := range []string{"allkeys-lru", "allkeys-random", "volatile-ttl"} {
			s.Do("config", "set", "maxmemory-policy", policy)
			s.Do("config", "set", "maxmemory", "0")
			d, _ := examine(t, s.URL())
			d.mustHave(t, backend.LevelWarning, "eviction", policy, "noeviction")
			s.Do("config", "set", "maxmemory", "1gb")
			d, _ = examine(t, s.URL())
			d.mustHave(t, backend.LevelProblem, "eviction", policy, "removes locks", "CONFIG SET maxmemory-policy noeviction")
		}
		s.Do("config", "set", "maxmemory-policy", "noeviction")
		d, _ := examine(t, s.URL())
		d.mustHave(t, backend.LevelOK, "eviction")
		s.Do("set", "filler", strings.Repeat("x", 4<<20))
		var used int
		for line := range strings.Lines(s.Do("info", "memory").(string)) {
			_, _ = fmt.Sscanf(line, "used_memory:%d", &used) // one of them is it
		}
		s.Do("config", "set", "maxmemory", used+used/30)
		d, _ = examine(t, s.URL())
		d.mustHave(t, backend.LevelWarning, "memory", "raise maxmemory")
	})
}

func TestDoctorPersistence(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Binary: true})
	d, _ := examine(t, s.URL())
	d.mustHave(t, backend.LevelWarning, "persistence", "forgets every lock", "appendfsync always")
	s.Do("config", "set", "save", "60 1")
	d, _ = examine(t, s.URL())
	d.mustHave(t, backend.LevelWarning, "persistence", "last snapshot", "appendfsync always")
	s.Do("config", "set", "appendonly", "yes")
	s.Do("config", "set", "appendfsync", "everysec")
	d, _ = examine(t, s.URL())
	d.mustHave(t, backend.LevelWarning, "persistence", "everysec", "appendfsync always")
	d.mustHaveNoProblem(t)
}

// What a user lacks is named; what doctor itself may not see, too, and is no problem.
func TestDoctorRights(t *testing.T) {
	eachServer(t, redistest.Options{Persist: true}, func(t *testing.T, s *redistest.Server) {
		d, usable := examine(t, user(s, "plain", documented...))
		d.mustHaveNoProblem(t)
		d.mustHave(t, backend.LevelWarning, "unseen", "plain", "+info", "+client|info")
		d.mustHave(t, backend.LevelOK, "scripts")
		if !usable {
			t.Errorf("nothing was tried:%v", d)
		}
		for _, lacking := range []struct{ rule, instead, word string }{
			{"+subscribe", "", "+subscribe"},
			{"+zpopmin", "", "+zpopmin"},
			{"+publish", "", "+publish"},
			{"~hasp:*", "~other:*", "~hasp:*"},
			{"&hasp:*", "&other:*", "&hasp:*"},
			{"+evalsha", "", "+evalsha"},
		} {
			rules := slices.Clone(documented)
			i := slices.Index(rules, any(lacking.rule))
			if lacking.instead == "" {
				rules = slices.Delete(rules, i, i+1)
			} else {
				rules[i] = lacking.instead
			}
			d, usable := examine(t, user(s, "lacking", rules...))
			d.mustHave(t, backend.LevelProblem, "rights", `"lacking"`, lacking.word, "ACL SETUSER lacking")
			if usable {
				t.Errorf("without %s: locks can be tried", lacking.rule)
			}
		}
		d, usable = examine(t, user(s, "nolist", slices.DeleteFunc(slices.Clone(documented), func(r any) bool { return r == "+scan" })...))
		d.mustHave(t, backend.LevelWarning, "rights", "+scan", "cannot be listed")
		if !usable {
			t.Errorf("without +scan:%v", d)
		}
		d, _ = examine(t, user(s, "nowait", slices.DeleteFunc(slices.Clone(documented), func(r any) bool { return r == "+wait" })...)+"?replicas=1")
		d.mustHave(t, backend.LevelProblem, "rights", "+wait", "replicas=1")
		wrong := strings.Replace(user(s, "plain", documented...), ":tresor@", ":wrong@", 1)
		d, _ = examine(t, wrong)
		d.mustHave(t, backend.LevelProblem, "reach", "password is wrong", "see whether user and password are right")
	})
}

func TestDoctorReplication(t *testing.T) {
	r := redistest.StartReplicated(t)
	r.Sync()
	d, _ := examine(t, r.Primary.URL())
	d.mustHave(t, backend.LevelWarning, "replication", "1 replicas", "replicas=1")
	d, _ = examine(t, r.Primary.URL("replicas=1"))
	d.mustHave(t, backend.LevelOK, "replication")
	d, _ = examine(t, r.Primary.URL("replicas=2"))
	d.mustHave(t, backend.LevelProblem, "replication", "no lock is granted", "lower the option")
	d, usable := examine(t, r.Replica.URL())
	d.mustHave(t, backend.LevelProblem, "replication", "read-only replica", "master_name=")
	if usable {
		t.Error("locks can be tried on a replica")
	}
}

// A cluster without a fault has none; then a slot is on the move; then one of its servers is
// given alone.
func TestDoctorCluster(t *testing.T) {
	c := redistest.StartCluster(t)
	d, usable := examine(t, c.URL())
	d.mustHaveNoProblem(t)
	d.mustHave(t, backend.LevelOK, "cluster", "16384")
	d.mustHave(t, backend.LevelOK, "slots", "none")
	if !usable {
		t.Error("nothing was tried")
	}
	m := c.BeginMove(c.Slot("hasp:{k}"))
	d, _ = examine(t, c.URL())
	d.mustHave(t, backend.LevelWarning, "slots", fmt.Sprint("slot ", c.Slot("hasp:{k}")), "from "+m.From.Addr()+" to "+m.To.Addr(), "--cluster fix")
	d.mustHaveNoProblem(t)
	m.Finish()
	d, _ = examine(t, c.URL())
	d.mustHave(t, backend.LevelOK, "slots", "none")
	d, usable = examine(t, c.Nodes[0].URL())
	d.mustHave(t, backend.LevelProblem, "cluster", "cluster=true")
	if usable {
		t.Error("locks can be tried on one server of a cluster alone")
	}
	slot := c.Slot("lost")
	for _, n := range c.Nodes {
		n.Do("cluster", "delslots", slot)
		n.Do("config", "set", "cluster-require-full-coverage", "no")
	}
	d, _ = examine(t, c.URL())
	d.mustHave(t, backend.LevelProblem, "cluster", "16383 of 16384", "--cluster fix")
}

// A proxy that passes on what it gets shows by where the server sees connections come from;
// one that spreads them shows by the servers that they come to.
func TestDoctorProxy(t *testing.T) {
	a, b := redistest.Start(t, &redistest.Options{Persist: true}), redistest.Start(t, &redistest.Options{Persist: true})
	p := redistest.StartProxy(t, a.Addr())
	d, _ := examine(t, "redis://"+p.Addr())
	d.mustHave(t, backend.LevelWarning, "proxy", "in between", "address of the server itself")
	d.mustHaveNoProblem(t)
	d, _ = examine(t, "redis://"+startBalancer(t, a.Addr(), b.Addr()))
	d.mustHave(t, backend.LevelProblem, "proxy", "2 different servers", "one primary")
}

// startTwemproxy starts a proxy that knows a part of Redis's commands.
func startTwemproxy(t *testing.T, target string) (addr string) {
	t.Helper()
	if _, err := exec.LookPath("nutcracker"); err != nil {
		t.Skip("nutcracker is not installed")
	}
	dir := t.TempDir()
	for range 5 {
		addr = port.Free(t)
		_, stats, _ := strings.Cut(port.Free(t), ":")
		conf := fmt.Sprintf("alpha:\n  listen: %s\n  redis: true\n  hash_tag: \"{}\"\n  servers:\n   - %s:1\n", addr, target)
		if err := os.WriteFile(dir+"/conf.yml", []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("nutcracker", "-c", dir+"/conf.yml", "-a", "127.0.0.1", "-s", stats, "-o", dir+"/log")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		up := false
		eventually(t, "twemproxy is up or has ended", func() bool {
			select {
			case <-ended:
				return true
			default:
			}
			up = answersPing(addr)
			return up
		})
		if up {
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
			})
			return addr
		}
	}
	t.Fatal("twemproxy does not start")
	return ""
}

func TestDoctorTwemproxy(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Persist: true})
	d, usable := examine(t, "redis://"+startTwemproxy(t, s.Addr()))
	d.mustHave(t, backend.LevelProblem, "proxy", "twemproxy", "HELLO", "SUBSCRIBE", "address of the Redis server itself")
	if usable {
		t.Error("locks can be tried through it")
	}
}

// A server that is not there, or does not answer, is told in time.
func TestDoctorAway(t *testing.T) {
	d, usable := examine(t, "redis://"+port.Nobody)
	d.mustHave(t, backend.LevelProblem, "reach", "connection refused", "see whether the server runs")
	if usable {
		t.Error("it can be tried")
	}
	s := redistest.Start(t, &redistest.Options{Binary: true})
	s.Pause()
	defer s.Resume()
	start := time.Now()
	d, _ = examine(t, s.URL("read_timeout=500ms"))
	d.mustHave(t, backend.LevelProblem, "reach", "no answer")
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}

func answersPing(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second)) // else reading waits longer
	answer := make([]byte, 5)
	_, err = conn.Write([]byte("*1\r\n$4\r\nPING\r\n"))
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	return err == nil && string(answer) == "+PONG"
}

// startBalancer starts a proxy that leads each connection to the next server.
func startBalancer(t *testing.T, targets ...string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for i := 0; ; i++ {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", targets[i%len(targets)])
			if err != nil {
				down.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				_, _ = io.Copy(to, from) // until one of them is closed
				to.Close()
				from.Close()
			}
			wg.Go(func() { pass(up, down) })
			wg.Go(func() { pass(down, up) })
		}
	})
	return l.Addr().String()
}
