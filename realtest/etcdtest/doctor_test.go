package etcdtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/etcdtest"
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

// lookOver says what is found in a store.
func lookOver(t *testing.T, ctx context.Context, url string) (backend.Examiner, diagnosis) {
	t.Helper()
	x, err := backend.OpenExaminer(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	var d diagnosis
	if err := x.Examine(ctx, func(f backend.Finding) { d = append(d, f) }); err != nil {
		t.Errorf("examine: %v", err)
	}
	return x, d
}

// examine looks a store over, and tells whether it can be tried.
func examine(t *testing.T, url string) (d diagnosis, usable bool) {
	t.Helper()
	ctx := testContext(t)
	x, d := lookOver(t, ctx, url)
	b, remove, err := x.Scratch(ctx)
	if err != nil {
		t.Errorf("scratch: %v", err)
	}
	if b != nil {
		mustRelease(t, b, mustAcquire(t, b, "k", claim(20*time.Second)))
		if err := remove(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, f := range d {
		if strings.Contains(fmt.Sprint(f), "secret") {
			t.Errorf("a password is shown: %+v", f)
		}
	}
	return d, b != nil
}

// A good cluster has no problem, and nothing is left in it; then a member is away; then two.
func TestDoctorCluster(t *testing.T) {
	c := etcdtest.StartCluster(t, 3, nil)
	d, usable := examine(t, c.URL("team"))
	for _, f := range d {
		if f.Level != backend.LevelOK {
			t.Errorf("not all is well: %+v", f)
		}
	}
	if !usable {
		t.Error("nothing was tried")
	}
	for _, id := range []string{"server", "space", "quorum", "members", "lease", "leader"} {
		d.mustHave(t, backend.LevelOK, id)
	}
	d.mustHave(t, backend.LevelOK, "members", "3 members, of which 1 may fail")
	keys, idle, err := etcdtest.Left(testContext(t), c.Client())
	if err != nil || len(keys) > 0 || len(idle) > 0 {
		t.Errorf("left behind: %q, leases %v, error %v", keys, idle, err)
	}
	d, _ = examine(t, c.Members[0].URL(""))
	d.mustHave(t, backend.LevelWarning, "endpoints", "1 of 3", "name all members")

	c.Members[0].Kill()
	c.Leader()
	d, usable = examine(t, c.URL("team"))
	d.mustHaveNoProblem(t)
	d.mustHave(t, backend.LevelWarning, "reach", c.Members[0].Addr(), "connection refused", "see whether it runs")
	d.mustHave(t, backend.LevelWarning, "members", "1 of 3", "m0 at", "as long as 2 run")
	if !usable {
		t.Error("with two of three members nothing was tried")
	}

	c.Members[1].Kill()
	d, usable = examine(t, c.Members[2].URL("team")+"?timeout=3s")
	d.mustHave(t, backend.LevelProblem, "quorum", "bring back members")
	if usable {
		t.Error("without a quorum it can be tried")
	}
	c.Members[2].Kill()
	d, _ = examine(t, c.URL("team"))
	d.mustHave(t, backend.LevelProblem, "reach", "none of 3")
	d, _ = examine(t, c.Members[2].URL(""))
	d.mustHave(t, backend.LevelProblem, "reach", "connection refused", "see whether it runs")
}

// Servers of two clusters in one URL each grant the same lock.
func TestDoctorTwoClusters(t *testing.T) {
	a, b := etcdtest.Start(t, nil), etcdtest.Start(t, nil)
	d, _ := examine(t, "etcd://"+a.Addr()+","+b.Addr()+"/")
	d.mustHave(t, backend.LevelProblem, "clusters", "2 clusters", "one cluster only")
	d, _ = examine(t, a.URL(""))
	d.mustHaveNoProblem(t)
	d.mustHave(t, backend.LevelWarning, "members", "none may fail", "three")
}

// A database that is nearly full, and alarms.
func TestDoctorSpaceAndAlarms(t *testing.T) {
	s := etcdtest.Start(t, &etcdtest.Options{Quota: 8 << 20})
	client, ctx := s.Client(), testContext(t)
	d, _ := examine(t, s.URL(""))
	d.mustHave(t, backend.LevelOK, "space", "of 8 MiB")
	// The size is known when the server commits, every 100 ms, so it is counted here.
	for i := range 320 {
		if _, err := client.Put(ctx, fmt.Sprint("filler", i), strings.Repeat("x", 20<<10)); err != nil {
			t.Fatal(err)
		}
	}
	for {
		st, err := client.Status(ctx, s.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		if st.DbSize > 7<<20-100<<10 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	d, _ = examine(t, s.URL(""))
	d.mustHave(t, backend.LevelWarning, "space", "nearly full", "of 8 MiB", "defrag")
	for i := range 100 {
		if _, err := client.Put(ctx, fmt.Sprint("more", i), strings.Repeat("x", 200<<10)); err != nil {
			break
		}
	}
	d, usable := examine(t, s.URL(""))
	d.mustHave(t, backend.LevelProblem, "alarm", "NOSPACE", "disarm")
	if usable {
		t.Error("it can be tried")
	}
}

// Users: who may not use the prefix, whose password is wrong, who is none.
func TestDoctorUsers(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	d, _ := examine(t, "etcd://alice:secret@"+srv.Addr()+"/team")
	d.mustHave(t, backend.LevelWarning, "login", "no users", "auth enable")
	addUsers(t, srv.Client())
	d, usable := examine(t, "etcd://alice:secret@"+srv.Addr()+"/team")
	d.mustHaveNoProblem(t)
	d.mustHave(t, backend.LevelOK, "login", "--auth-token-ttl")
	if !usable {
		t.Error("nothing was tried")
	}
	for url, want := range map[string][]string{
		"etcd://alice:secret@" + srv.Addr() + "/other": {"rights", "other/", "grant-permission"},
		"etcd://" + srv.Addr() + "/team":               {"rights", "none was given"},
		"etcd://alice:wrong@" + srv.Addr() + "/team":   {"login", "refuses the password", "see whether user and password"},
	} {
		d, usable := examine(t, url)
		d.mustHave(t, backend.LevelProblem, want[0], want[1:]...)
		if usable {
			t.Errorf("%v: it can be tried", want)
		}
	}
}

// The oldest version with users: programs that hand over clients of their own are refused.
func TestDoctorOldWithUsers(t *testing.T) {
	path, err := etcdtest.FindProgram()
	if err != nil {
		t.Skip(err)
	}
	srv := etcdtest.StartProgram(t, path)
	d, _ := examine(t, "etcd://"+srv.Addr()+"/team")
	d.mustHaveNoProblem(t)
	d.mustHave(t, backend.LevelOK, "server", "etcd 3.4.")
	if d.has(backend.LevelWarning, "users") {
		t.Errorf("without users:%v", d)
	}
	addUsers(t, srv.Client("", ""))
	d, usable := examine(t, "etcd://alice:secret@"+srv.Addr()+"/team")
	d.mustHaveNoProblem(t)
	d.mustHave(t, backend.LevelWarning, "users", "etcd 3.4.", "upgrade to 3.5")
	if !usable {
		t.Error("nothing was tried")
	}
}

// A store that is a part of etcd only, as kine is.
func TestDoctorPartOfEtcd(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	for method, refusal := range map[string]error{
		"/etcdserverpb.KV/Txn":               errors.New("unsupported transaction"),
		"/etcdserverpb.Lease/LeaseKeepAlive": errors.New("keepalive is not supported"),
		"/etcdserverpb.Watch/Watch":          status.Error(codes.Unimplemented, "unknown service"),
	} {
		url := "etcd://" + startPartial(t, srv, method, refusal) + "/"
		if b, err := backend.Open(testContext(t), url); err == nil {
			b.Close()
			t.Errorf("it opens without %s", method)
		} else if n := strings.Count(err.Error(), "part of it only"); n != 1 {
			t.Errorf("without %s it is said %d times what the store is: %v", method, n, err)
		}
		d, usable := examine(t, url)
		d.mustHave(t, backend.LevelProblem, "part", "part of it only", "an etcd of its own")
		if usable {
			t.Errorf("without %s it can be tried", method)
		}
	}
}

// A leader that changes again and again is told, and one that is cut off.
func TestDoctorLeader(t *testing.T) {
	c := etcdtest.StartCluster(t, 3, nil)
	c.Leader()
	ctx, cancel := context.WithCancel(testContext(t))
	client := c.Client()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			moveLeader(ctx, client, c)
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	}()
	_, d := lookOver(t, ctx, c.URL("")) // nothing is tried: there may be no leader just then
	cancel()
	<-done
	d.mustHave(t, backend.LevelWarning, "leader", "the term went from", "slow disk")

	leader := c.Leader()
	leader.CutOff()
	eventuallyNoLeader(t, leader)
	_, d = lookOver(t, testContext(t), c.URL(""))
	leader.Rejoin()
	d.mustHave(t, backend.LevelProblem, "leader", leader.Addr(), "knows no leader")
}

// moveLeader has the leader give its office to another member.
func moveLeader(ctx context.Context, client *clientv3.Client, c *etcdtest.Cluster) {
	for _, s := range c.Members {
		st, err := client.Status(ctx, s.Endpoint())
		if err != nil || st.Leader != st.Header.MemberId {
			continue
		}
		own, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Endpoint()}})
		if err != nil {
			return
		}
		members, err := own.MemberList(ctx)
		for i := 0; err == nil && i < len(members.Members); i++ {
			if id := members.Members[i].ID; id != st.Leader {
				_, _ = own.MoveLeader(ctx, id) // another round follows
				break
			}
		}
		own.Close()
		return
	}
}

// eventuallyNoLeader waits until a member that is cut off has noticed.
func eventuallyNoLeader(t *testing.T, s *etcdtest.Server) {
	t.Helper()
	ctx, client := testContext(t), s.Client()
	for {
		st, err := client.Status(ctx, s.Endpoint())
		if err == nil && st.Leader == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("a member that is cut off still knows a leader")
		case <-time.After(20 * time.Millisecond): // it tells nobody
		}
	}
}
