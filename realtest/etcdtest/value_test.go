package etcdtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func setTo(token, seq uint64, data string) backend.Value {
	return backend.Value{Data: []byte(data), Token: token, Seq: seq}
}

func mustSet(t testing.TB, b *etcdlock.Backend, g backend.Grant, v backend.Value) {
	t.Helper()
	ctx := testContext(t)
	for {
		rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := b.SetValue(rctx, g, v)
		cancel()
		if err == nil {
			return
		}
		if !errors.Is(err, backend.ErrUnavailable) || ctx.Err() != nil {
			t.Fatalf("set the value of %q: %v", g.Key, err)
		}
	}
}

func mustHaveValue(t testing.TB, b *etcdlock.Backend, key string, want backend.Value) {
	t.Helper()
	v, err := b.Value(testContext(t), key)
	if err != nil {
		t.Fatalf("value of %q: %v", key, err)
	}
	if v.Compare(want) != 0 || v.Deleted != want.Deleted || !bytes.Equal(v.Data, want.Data) {
		t.Fatalf("the value of %q is %.100q (%d, %d, deleted: %v), want %.100q (%d, %d, %v)", key, v.Data, v.Token, v.Seq, v.Deleted, want.Data, want.Token, want.Seq, want.Deleted)
	}
}

// What a value is, and who may set it.
func TestValue(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	testValue(t, newBackend(t, srv.Client()), newBackend(t, srv.Client()))
}

// The oldest etcd that is supported, for a user who may use the prefix only.
func TestValueOldServer(t *testing.T) {
	path, err := etcdtest.FindProgram()
	if err != nil {
		t.Skip(err)
	}
	srv := etcdtest.StartProgram(t, path)
	addUsers(t, srv.Client("", ""))
	ctx := testContext(t)
	var bs [2]*etcdlock.Backend
	for i := range bs {
		b, err := backend.Open(ctx, "etcd://alice:secret@"+srv.Addr()+"/team")
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		bs[i] = b.(*etcdlock.Backend)
	}
	testValue(t, bs[0], bs[1])
}

func testValue(t *testing.T, a, b *etcdlock.Backend) {
	ctx := testContext(t)
	const ttl = 5 * time.Minute

	t.Run("set, read, list", func(t *testing.T) {
		all := make([]byte, backend.MaxValueLen)
		for i := range all {
			all[i] = byte(i)
		}
		for i, key := range []string{"s/1", "s/{2}", "s/3 *?[a]\\", "s/value", "t"} {
			mustHaveValue(t, b, key, backend.Value{})
			g := mustAcquire(t, a, key, claim(ttl))
			v := backend.Value{Data: all[i:], Token: g.Token, Seq: 1}
			mustSet(t, a, g, v)
			mustHaveValue(t, b, key, v)
			mustSet(t, a, g, v) // once more
			mustRelease(t, a, g)
			mustHaveValue(t, b, key, v)
		}
		g := mustAcquire(t, b, "s/1", claim(ttl))
		mustSet(t, b, g, backend.Value{Deleted: true, Token: g.Token, Seq: 1})
		mustHaveValue(t, a, "s/1", backend.Value{Deleted: true, Token: g.Token, Seq: 1})
		kvs, err := a.ListValues(ctx, "s/")
		var got []string
		for _, kv := range kvs {
			got = append(got, fmt.Sprint(kv.Key, " ", kv.Value.Deleted, " ", kv.Value.Seq))
		}
		if want := "s/1 true 1, s/3 *?[a]\\ false 1, s/value false 1, s/{2} false 1"; err != nil || strings.Join(got, ", ") != want {
			t.Errorf("listed %s (%v), want %s", strings.Join(got, ", "), err, want)
		}
		if rs, err := a.List(ctx, "s/"); err != nil || len(rs) != 1 {
			t.Errorf("held: %v, %v", rs, err)
		}
		mustRelease(t, b, g)
	})

	t.Run("order", func(t *testing.T) {
		g := mustAcquire(t, a, "order", claim(ttl))
		for _, n := range [][2]uint64{{9, 1}, {9, 2}, {10, 1}, {1<<53 + 1, 1}, {math.MaxUint64 - 2, math.MaxUint64}, {math.MaxUint64, 10}} {
			v := setTo(n[0], n[1], fmt.Sprint(n))
			mustSet(t, a, g, v)
			for what, old := range map[string]backend.Value{
				"one before it":     setTo(n[0]-1, math.MaxUint64, "old"),
				"another one there": setTo(n[0], n[1], "other"),
				"its deletion":      {Token: n[0], Seq: n[1], Deleted: true},
			} {
				if _, err := a.SetValue(ctx, g, old); !errors.Is(err, backend.ErrOldValue) {
					t.Errorf("set %s after %v: %v, want ErrOldValue", what, n, err)
				}
			}
			mustHaveValue(t, b, "order", v)
		}
		mustRelease(t, a, g)
	})

	t.Run("the holder only", func(t *testing.T) {
		g := mustAcquire(t, a, "mine", claim(ttl))
		v := setTo(g.Token, 1, "first")
		mustSet(t, a, g, v)
		// as another process has it that was handed the grant
		plain := g
		plain.State = nil
		v = setTo(g.Token, 2, "second")
		mustSet(t, b, plain, v)
		mustSet(t, b, g, v)
		lost := func(what string, g backend.Grant) {
			t.Helper()
			for _, b := range []*etcdlock.Backend{a, b} {
				if _, err := b.SetValue(ctx, g, setTo(math.MaxUint64, 1, what)); !errors.Is(err, backend.ErrLost) {
					t.Errorf("set by %s: %v, want ErrLost", what, err)
				}
			}
			mustHaveValue(t, b, "mine", v)
		}
		lost("another claim", backend.Grant{Key: "mine", ID: "other", Token: g.Token, TTL: ttl})
		if _, err := b.SetValue(ctx, backend.Grant{Key: "mine", ID: g.ID, Token: g.Token - 1, TTL: ttl}, setTo(math.MaxUint64, 1, "x")); !errors.Is(err, backend.ErrLost) {
			t.Errorf("set by an earlier grant: %v, want ErrLost", err)
		}
		if err := b.Break(ctx, "mine", g.Token); err != nil {
			t.Fatal(err)
		}
		lost("one whose lock was broken", g)
		g = mustAcquire(t, a, "mine", claim(ttl))
		mustRelease(t, a, g)
		lost("one who has released", g)
		g = mustAcquire(t, a, "mine", claim(time.Second))
		next, err := acquireWaiting(ctx, b, "mine", claim(ttl), 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		lost("one whose lock ran out", g)
		mustRelease(t, b, next)
	})

	t.Run("many", func(t *testing.T) {
		const n = 150 // some pages
		for i := range n {
			g := mustAcquire(t, a, fmt.Sprintf("many/%03d", i), claim(ttl))
			mustSet(t, a, g, setTo(g.Token, 1, "x"))
			mustRelease(t, a, g)
		}
		kvs, err := b.ListValues(ctx, "many/")
		if err != nil || len(kvs) != n {
			t.Fatalf("listed %d of %d (%v)", len(kvs), n, err)
		}
		for i, kv := range kvs {
			if kv.Key != fmt.Sprintf("many/%03d", i) || !kv.Value.Exists() {
				t.Errorf("%d is %+v", i, kv)
			}
		}
	})

	t.Run("bad ones", func(t *testing.T) {
		g := mustAcquire(t, a, "bad", claim(ttl))
		for what, v := range map[string]backend.Value{
			"too long": setTo(1, 1, strings.Repeat("x", backend.MaxValueLen+1)), "no token": setTo(0, 1, ""), "no sequence": setTo(1, 0, ""),
		} {
			if _, err := a.SetValue(ctx, g, v); err == nil || errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrLost) {
				t.Errorf("%s: %v", what, err)
			}
		}
		mustRelease(t, a, g)
	})
}

// What is not ours is reported and left alone.
func TestValueCorrupt(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	c := srv.Client()
	b := newBackend(t, c)
	g := mustAcquire(t, b, "k", claim(5*time.Minute))
	const name = etcdlock.DefaultPrefix + "value/k"
	for _, text := range []string{"", "hello", "1 2 three\nx", "1 2 set", "1 0 set\n", "-1 1 set\n", "1 1 deleted\nx"} {
		if _, err := c.Put(ctx, name, text); err != nil {
			t.Fatal(err)
		}
		for verb, err := range map[string]error{
			"read": errOf(b.Value(ctx, "k")), "set": errOf(b.SetValue(ctx, g, setTo(g.Token, 1, "x"))), "list": errOf(b.ListValues(ctx, "")),
		} {
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("%s %q: %v, want ErrCorrupt", verb, text, err)
			}
		}
		if resp, err := c.Get(ctx, name); err != nil || string(resp.Kvs[0].Value) != text {
			t.Errorf("%q was changed (%v)", text, err)
		}
	}
	mustRelease(t, b, g)
}

// A holder is stopped while it sets values, its lock runs out, and another sets its own:
// what the first does when it goes on comes too late.
func TestValueOfStoppedProcess(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	b := newBackend(t, srv.Client())
	w := startWorker(t, "set", srv.Endpoint(), "k", 2*time.Second)
	w.says("held")
	for {
		v, err := b.Value(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if v.Seq > 10 {
			break
		}
	}
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	g, err := acquireWaiting(ctx, b, "k", claim(5*time.Minute), never)
	if err != nil {
		t.Fatal(err)
	}
	v := setTo(g.Token, 1, "the successor's")
	mustSet(t, b, g, v)
	if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if line := w.says("set:"); !strings.Contains(line, backend.ErrLost.Error()) {
		t.Errorf("the former holder says %q", line)
	}
	mustHaveValue(t, b, "k", v)
	mustRelease(t, b, g)
}

// A put of a value that is under way for long, or whose answer is lost.
func TestValueOfUnknownOutcome(t *testing.T) {
	srv := etcdtest.Start(t, nil)
	ctx := testContext(t)
	c := tamperWith(t, srv, "request_put")
	// of its transactions, those that put
	a, b := newBackend(t, c.Client), newBackend(t, srv.Client())
	for _, old := range []bool{false, true} {
		for next, do := range map[string]func(t *testing.T, key string, g backend.Grant, late backend.Value) backend.Value{
			"another holder": func(t *testing.T, key string, g backend.Grant, late backend.Value) backend.Value {
				if err := b.Break(ctx, key, g.Token); err != nil {
					t.Fatal(err)
				}
				g = mustAcquire(t, b, key, claim(5*time.Minute))
				v := setTo(g.Token, 1, "the successor's")
				mustSet(t, b, g, v)
				mustRelease(t, b, g)
				return v
			},
			"broken": func(t *testing.T, key string, g backend.Grant, _ backend.Value) backend.Value {
				if err := b.Break(ctx, key, g.Token); err != nil {
					t.Fatal(err)
				}
				mustBe(t, "set again", errOf(a.SetValue(ctx, g, setTo(g.Token, 2, "late"))), backend.ErrLost)
				v, err := b.Value(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				return v
			},
			"a repetition": func(t *testing.T, key string, g backend.Grant, late backend.Value) backend.Value {
				mustSet(t, a, g, late)
				return late
			},
			"a later value": func(t *testing.T, key string, g backend.Grant, late backend.Value) backend.Value {
				v := setTo(g.Token, 3, "later")
				mustSet(t, a, g, v)
				return v
			},
		} {
			for _, answered := range []bool{false, true} {
				key := strings.ReplaceAll(fmt.Sprint("k ", old, next, answered), " ", "-")
				t.Run(fmt.Sprintf("%s, there was one: %v, carried out: %v", next, old, answered), func(t *testing.T) {
					g := mustAcquire(t, a, key, claim(5*time.Minute))
					if old {
						mustSet(t, a, g, setTo(g.Token, 1, "first"))
					}
					late := setTo(g.Token, 2, "late")
					if answered {
						c.loseAnswer.Store(true)
					} else {
						c.holdBack.Store(true)
					}
					mustBe(t, "set without an answer", errOf(a.SetValue(ctx, g, late)), backend.ErrUnavailable)
					if answered {
						mustHaveValue(t, b, key, late)
					}
					want := do(t, key, g, late)
					if !answered {
						if err := (*c.late.Load())(); err != nil {
							t.Fatal(err)
						}
					}
					mustHaveValue(t, b, key, want)
					if err := a.Release(ctx, g); err != nil && !errors.Is(err, backend.ErrLost) {
						t.Error(err)
					}
				})
			}
		}
	}
}

// What etcd has no room for is not set, and what is set stays; a put that was carried
// out all the same is found by its repetition.
func TestValueOutOfSpace(t *testing.T) {
	srv := etcdtest.Start(t, &etcdtest.Options{Quota: 2 << 20})
	ctx := testContext(t)
	b := newBackend(t, srv.Client())
	g := mustAcquire(t, b, "k", claim(5*time.Minute))
	data := strings.Repeat("x", backend.MaxValueLen)
	last := setTo(g.Token, 1, data)
	mustSet(t, b, g, last)
	for seq := uint64(2); ; seq++ {
		v := setTo(g.Token, seq, data)
		_, err := b.SetValue(ctx, g, v)
		if err != nil {
			mustBe(t, "set without space", err, backend.ErrUnavailable)
			if !strings.Contains(err.Error(), "out of space") {
				t.Error(err)
			}
			got, err := b.Value(ctx, "k")
			if err != nil {
				t.Fatal(err)
			}
			if got.Compare(v) == 0 {
				last = v
			}
			break
		}
		last = v
	}
	mustSet(t, b, g, last)
	mustHaveValue(t, b, "k", last)
	mustRelease(t, b, g)
}

// What was acknowledged is never lost, and no value goes back, while members are
// killed, cut off, added and removed.
func TestValueAcrossMembers(t *testing.T) {
	cl := etcdtest.StartCluster(t, 3, nil)
	ctx, cancel := context.WithCancel(context.Background())
	reader := newBackend(t, cl.Client())
	client := cl.Client() // for whoever sets
	b := newBackend(t, client)
	g := mustAcquire(t, b, "k", claim(time.Hour))
	acked := setTo(g.Token, 1, "1")
	mustSet(t, b, g, acked)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var sets atomic.Int64
	wg.Go(func() {
		var tried backend.Value
		for seq := uint64(2); ctx.Err() == nil; seq++ {
			tried = setTo(g.Token, seq, fmt.Sprint(seq))
			rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := b.SetValue(rctx, g, tried)
			cancel()
			rctx, cancel = context.WithTimeout(ctx, 2*time.Second)
			v, rerr := reader.Value(rctx, "k")
			cancel()
			if ctx.Err() != nil {
				return
			}
			switch {
			case errors.Is(rerr, backend.ErrUnavailable):
			case rerr != nil || string(v.Data) != fmt.Sprint(v.Seq) || v.Compare(acked) < 0 || err == nil && v.Compare(tried) != 0:
				t.Errorf("read %+v (%v), acknowledged was %+v, then %+v (%v)", v, rerr, acked, tried, err)
			}
			if err == nil {
				acked = tried
				sets.Add(1)
			} else if !errors.Is(err, backend.ErrUnavailable) {
				t.Errorf("set: %v", err)
			}
		}
	})
	more := func(when string) {
		t.Helper()
		want := sets.Load() + 20
		for end := time.Now().Add(bound); sets.Load() < want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: nothing is set", when)
			}
		}
	}
	more("before")
	leader := cl.Leader()
	leader.Kill()
	more("the leader was killed")
	leader.Restart()
	more("it is back")
	leader = cl.Leader()
	leader.CutOff()
	more("the leader is cut off")
	leader.Rejoin()
	more("it has come back")
	cl.Add()
	more("a member was added")
	if err := client.Sync(testContext(t)); err != nil {
		t.Error(err)
	}
	cl.Remove(cl.Leader())
	more("the leader was removed")
	cancel()
	wg.Wait()
	cl.Members[0].Kill()
	cl.Members[0].Restart()
	mustSet(t, b, g, setTo(g.Token, math.MaxUint64, "last"))
	mustHaveValue(t, reader, "k", setTo(g.Token, math.MaxUint64, "last"))
	last := testContext(t)
	for err := backend.ErrUnavailable; err != nil; { // there may be no leader just then
		if mustBe(t, "release", err, backend.ErrUnavailable); last.Err() != nil {
			t.Fatal(err)
		}
		rctx, cancel := context.WithTimeout(last, 5*time.Second)
		err = b.Release(rctx, g)
		cancel()
	}
	t.Logf("%d values", sets.Load())
}

// kill -9 of a server loses no value, and a value is on no lease: it outlives its lock.
func TestValueSurvivesKill(t *testing.T) {
	srv := etcdtest.Start(t, &etcdtest.Options{Fsync: true})
	ctx := testContext(t)
	b := newBackend(t, srv.Client())
	g := mustAcquire(t, b, "k", claim(5*time.Minute))
	for seq := uint64(1); seq <= 5; seq++ {
		v := setTo(g.Token, seq, fmt.Sprint(seq))
		mustSet(t, b, g, v)
		srv.Restart()
		mustHaveValue(t, b, "k", v)
	}
	resp, err := srv.Client().Get(ctx, etcdlock.DefaultPrefix+"value/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Lease != 0 {
		t.Errorf("%v, %v", resp, err)
	}
	mustRelease(t, b, g)
}
