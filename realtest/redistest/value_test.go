package redistest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

func value(token, seq uint64, data string) backend.Value {
	return backend.Value{Data: []byte(data), Token: token, Seq: seq}
}

func mustSet(tb testing.TB, b *redislock.Backend, g backend.Grant, v backend.Value) backend.Grant {
	tb.Helper()
	g, err := insist(tb, "set", func(ctx context.Context) (backend.Grant, error) { return b.SetValue(ctx, g, v) })
	if err != nil {
		tb.Fatalf("set the value of %q: %v", g.Key, err)
	}
	return g
}

func mustHave(tb testing.TB, b *redislock.Backend, key string, want backend.Value) {
	tb.Helper()
	v, err := insist(tb, "read", func(ctx context.Context) (backend.Value, error) { return b.Value(ctx, key) })
	if err != nil {
		tb.Fatalf("value of %q: %v", key, err)
	}
	if v.Compare(want) != 0 || v.Deleted != want.Deleted || !bytes.Equal(v.Data, want.Data) {
		tb.Fatalf("the value of %q is %.100q (%d, %d, deleted: %v), want %.100q (%d, %d, %v)", key, v.Data, v.Token, v.Seq, v.Deleted, want.Data, want.Token, want.Seq, want.Deleted)
	}
}

// On every kind of server, what a value is, and who may set it.
func TestValue(t *testing.T) {
	for _, program := range redistest.Programs() {
		t.Run(filepath.Base(program), func(t *testing.T) {
			s := redistest.Start(t, &redistest.Options{Program: program})
			testValue(t, s.URL(), s.Keys)
		})
	}
	t.Run("cluster", func(t *testing.T) {
		c := redistest.StartCluster(t)
		testValue(t, c.URL(), c.Keys)
	})
	t.Run("sentinels", func(t *testing.T) {
		s := redistest.Start(t, &redistest.Options{Binary: true})
		sentinel := redistest.StartSentinel(t, s, "main")
		testValue(t, "redis://"+sentinel.Addr()+"/0?master_name=main", s.Keys)
	})
}

func testValue(t *testing.T, url string, keys func() []string) {
	ctx := context.Background()
	a, b := open(t, url), open(t, url)

	t.Run("set, read, list", func(t *testing.T) {
		all := make([]byte, backend.MaxValueLen)
		for i := range all {
			all[i] = byte(i)
		}
		for i, key := range []string{"s/1", "s/{2}", "s/%7D", "s/3 *?[a]\\", "s/:value", "t"} {
			mustHave(t, b, key, backend.Value{})
			g := acquire(t, a, key, claim(time.Minute))
			mustHave(t, b, key, backend.Value{})
			v := backend.Value{Data: all[i:], Token: g.Token, Seq: 1}
			mustSet(t, a, g, v)
			mustHave(t, b, key, v)
			mustSet(t, a, g, v) // once more
			release(t, a, g)
			mustHave(t, b, key, v)
		}
		g := acquire(t, b, "s/1", claim(time.Minute))
		mustSet(t, b, g, backend.Value{Deleted: true, Token: g.Token, Seq: 1})
		mustHave(t, a, "s/1", backend.Value{Deleted: true, Token: g.Token, Seq: 1})
		kvs, err := a.ListValues(ctx, "s/")
		var got []string
		for _, kv := range kvs {
			got = append(got, fmt.Sprint(kv.Key, " ", kv.Value.Deleted, " ", kv.Value.Token > 0, kv.Value.Seq))
		}
		want := "s/%7D false true 1, s/1 true true 1, s/3 *?[a]\\ false true 1, s/:value false true 1, s/{2} false true 1"
		if err != nil || strings.Join(got, ", ") != want {
			t.Errorf("listed %s (%v), want %s", strings.Join(got, ", "), err, want)
		}
		if rs, err := a.List(ctx, "s/"); err != nil || len(rs) != 1 {
			t.Errorf("held: %v, %v", rs, err)
		}
		release(t, b, g)
	})

	t.Run("order", func(t *testing.T) {
		g := acquire(t, a, "order", claim(time.Minute))
		// As doubles, which is what numbers are in scripts, neighbours here are equal.
		for _, n := range [][2]uint64{
			{9, 1}, {9, 2}, {10, 1}, {1 << 53, 1<<53 + 1}, {1 << 53, 1<<53 + 2}, {1<<53 + 1, 1},
			{math.MaxUint64 - 2, math.MaxUint64 - 1}, {math.MaxUint64 - 2, math.MaxUint64}, {math.MaxUint64 - 1, 7}, {math.MaxUint64, 10},
		} {
			v := value(n[0], n[1], fmt.Sprint(n))
			mustSet(t, a, g, v)
			for what, old := range map[string]backend.Value{
				"one before it":     value(n[0], n[1]-1, "old"),
				"one long before":   value(8, math.MaxUint64, "old"),
				"another one there": value(n[0], n[1], "other"),
				"its deletion":      {Token: n[0], Seq: n[1], Deleted: true},
			} {
				if old.Seq == 0 {
					old.Token, old.Seq = old.Token-1, math.MaxUint64
				}
				if _, err := a.SetValue(ctx, g, old); !errors.Is(err, backend.ErrOldValue) {
					t.Errorf("set %s after %v: %v, want ErrOldValue", what, n, err)
				}
			}
			mustHave(t, b, "order", v)
		}
		release(t, a, g)
	})

	t.Run("the holder only", func(t *testing.T) {
		g := acquire(t, a, "mine", claim(time.Minute))
		v := value(g.Token, 1, "first")
		mustSet(t, a, g, v)
		lost := func(what string, g backend.Grant) {
			t.Helper()
			if _, err := b.SetValue(ctx, g, value(math.MaxUint64, 1, what)); !errors.Is(err, backend.ErrLost) {
				t.Errorf("set by %s: %v, want ErrLost", what, err)
			}
			mustHave(t, b, "mine", v)
		}
		lost("another claim", backend.Grant{Key: "mine", ID: "other", Token: g.Token, TTL: time.Minute})
		lost("an earlier grant", backend.Grant{Key: "mine", ID: g.ID, Token: g.Token - 1, TTL: time.Minute})
		if err := b.Break(ctx, "mine", g.Token); err != nil {
			t.Fatal(err)
		}
		lost("one whose lock was broken", g)
		g = acquire(t, a, "mine", claim(time.Minute))
		release(t, a, g)
		lost("one who has released", g)
		g = acquire(t, a, "mine", claim(50*time.Millisecond))
		eventually(t, "the lock is stale", func() bool {
			r, err := b.Inspect(ctx, "mine")
			return err == nil && r.State == backend.Stale
		})
		lost("one that is stale", g)
	})

	t.Run("restarts the TTL", func(t *testing.T) {
		c := claim(time.Minute)
		g := acquire(t, a, "ttl", c)
		g.TTL = time.Hour
		mustSet(t, a, g, value(g.Token, 1, "x"))
		r, err := b.Inspect(ctx, "ttl")
		if err != nil || r.TTL != time.Hour || r.Remaining < 59*time.Minute || r.Token != g.Token {
			t.Errorf("%+v, %v", r, err)
		}
		release(t, a, g)
	})

	t.Run("bad ones", func(t *testing.T) {
		g := acquire(t, a, "bad", claim(time.Minute))
		for what, v := range map[string]backend.Value{
			"too long": value(1, 1, strings.Repeat("x", backend.MaxValueLen+1)), "no token": value(0, 1, ""), "no sequence": value(1, 0, ""),
			"deleted with data": {Token: 1, Seq: 1, Deleted: true, Data: []byte("x")},
		} {
			if _, err := a.SetValue(ctx, g, v); err == nil || errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrLost) {
				t.Errorf("%s: %v", what, err)
			}
		}
		mustHave(t, a, "bad", backend.Value{})
		release(t, a, g)
	})
	for _, k := range keys() {
		if !strings.HasSuffix(k, "}") && !strings.HasSuffix(k, "}:value") {
			t.Errorf("%s is left behind", k)
		}
	}
}

// What is not ours is reported and left alone.
func TestValueCorrupt(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	ctx := context.Background()
	g := acquire(t, b, "k", claim(time.Minute))
	for _, put := range [][]any{{"set", "hasp:{k}:value", "hello"}, {"set", "hasp:{k}:value", "1 2 three x"}, {"rpush", "hasp:{k}:value", "x"}} {
		s.Do("del", "hasp:{k}:value")
		s.Do(put...)
		before := s.Do("dump", "hasp:{k}:value")
		if _, err := b.Value(ctx, "k"); !errors.Is(err, backend.ErrCorrupt) {
			t.Errorf("%v: read: %v", put, err)
		}
		if _, err := b.SetValue(ctx, g, value(g.Token, 1, "x")); put[2] != "1 2 three x" && !errors.Is(err, backend.ErrCorrupt) {
			t.Errorf("%v: set: %v", put, err)
		}
		if put[0] == "set" {
			if kvs, err := b.ListValues(ctx, ""); put[2] == "hello" && !errors.Is(err, backend.ErrCorrupt) {
				t.Errorf("%v: listed %v, %v", put, kvs, err)
			}
		}
		if put[2] != "1 2 three x" && s.Do("dump", "hasp:{k}:value") != before {
			t.Errorf("%v: it was changed", put)
		}
	}
}

// A holder is stopped while it sets values; its lock runs out, another takes it and
// sets its own. What the first does when it goes on comes too late.
func TestValueOfStoppedProcess(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	for range 5 {
		w := startWorker(t, "set", s.URL(), "k", "300ms")
		w.line()
		eventually(t, "values are set", func() bool {
			v, err := b.Value(context.Background(), "k")
			return err == nil && v.Seq > 10
		})
		w.signal(syscall.SIGSTOP)
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		g, err := await(ctx, b, "k", claim(time.Minute))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		v := value(g.Token, 1, "the successor's")
		mustSet(t, b, g, v)
		w.signal(syscall.SIGCONT)
		if l := w.line(); !strings.Contains(l, backend.ErrLost.Error()) {
			t.Errorf("the stopped holder's set: %s, want that the lock is lost", l)
		}
		mustHave(t, b, "k", v)
		release(t, b, g)
	}
}

// A request is under way for longer than the lock lives.
func TestValueThatArrivesLate(t *testing.T) {
	s := redistest.Start(t, nil)
	p := redistest.StartProxy(t, s.Addr())
	a, b := open(t, "redis://"+p.Addr()), open(t, s.URL())
	for _, next := range []string{"another holder", "a repetition", "a later value"} {
		t.Run(next, func(t *testing.T) {
			ttl := time.Minute
			if next == "another holder" {
				ttl = 300 * time.Millisecond
			}
			g := acquire(t, a, next, claim(ttl))
			g = mustSet(t, a, g, value(g.Token, 1, "first")) // it knows the script
			p.Cut()
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			late := value(g.Token, 2, "late")
			_, err := a.SetValue(ctx, g, late)
			cancel()
			if !errors.Is(err, backend.ErrUnavailable) {
				t.Fatalf("set without an answer: %v", err)
			}
			want := late
			switch next {
			case "another holder":
				ctx, cancel := context.WithTimeout(context.Background(), patient)
				defer cancel()
				g2, err := await(ctx, b, next, claim(time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				want = value(g2.Token, 1, "the successor's")
				mustSet(t, b, g2, want)
			case "a repetition":
				mustSet(t, b, g, late)
			case "a later value":
				want = value(g.Token, 3, "later")
				mustSet(t, b, g, want)
			}
			before := s.Commands()["evalsha"]
			p.Heal()
			eventually(t, "the late request arrives", func() bool { return s.Commands()["evalsha"] > before })
			mustHave(t, b, next, want)
		})
	}
}

// An answer is lost; the value is set once, and the repetition says so.
func TestValueWhoseAnswerIsLost(t *testing.T) {
	s := redistest.Start(t, nil)
	p := startThief(t, s.Addr())
	a, b := open(t, "redis://"+p.l.Addr().String()), open(t, s.URL())
	g := acquire(t, a, "k", claim(time.Minute))
	mustSet(t, a, g, value(g.Token, 1, "1"))
	for seq := uint64(2); seq < 12; seq++ {
		v := value(g.Token, seq, fmt.Sprint(seq))
		p.armed.Store(true)
		if _, err := a.SetValue(context.Background(), g, v); !errors.Is(err, backend.ErrUnavailable) {
			t.Fatalf("set without an answer: %v", err)
		}
		mustHave(t, b, "k", v)
		mustSet(t, a, g, v)
		mustHave(t, b, "k", v)
	}
	if n := p.stolen.Load(); n != 10 {
		t.Errorf("%d answers were lost, want 10", n)
	}
}

// A server that has no memory left sets nothing and keeps what it has.
func TestValueOutOfMemory(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Config: []string{"--maxmemory-policy", "noeviction"}})
	b := open(t, s.URL())
	g := acquire(t, b, "k", claim(time.Minute))
	v := value(g.Token, 1, "1")
	mustSet(t, b, g, v)
	s.Do("config", "set", "maxmemory", "1")
	_, err := b.SetValue(context.Background(), g, value(g.Token, 2, "2"))
	if !errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("set: %v", err)
	}
	mustHave(t, b, "k", v)
	mustSet(t, b, g, v) // it is set
	s.Do("config", "set", "maxmemory", "0")
	mustSet(t, b, g, value(g.Token, 2, "2"))
}

// What was acknowledged is there after kill -9, with persistence as documented.
func TestValueSurvivesKill(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Persist: true})
	b := open(t, s.URL())
	var last backend.Value
	for round := range 5 {
		g := mustAcquire(t, b, "k", claim(time.Minute))
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		started := make(chan struct{})
		start := sync.OnceFunc(func() { close(started) })
		wg.Go(func() {
			defer start()
			for seq := uint64(1); ctx.Err() == nil; {
				v := value(g.Token, seq, fmt.Sprint(round, " ", seq))
				_, err := b.SetValue(ctx, g, v)
				if errors.Is(err, backend.ErrUnavailable) {
					continue // it was killed, or is slow, and may have set it
				}
				if err != nil {
					t.Errorf("set: %v", err)
					return
				}
				last = v
				if seq++; seq > 5 {
					start()
				}
			}
		})
		<-started
		s.Kill()
		cancel()
		wg.Wait()
		s.Restart()
		v, err := insist(t, "read", func(ctx context.Context) (backend.Value, error) { return b.Value(ctx, "k") })
		if err != nil || v.Token != g.Token || v.Seq != last.Seq && v.Seq != last.Seq+1 || string(v.Data) != fmt.Sprint(round, " ", v.Seq) {
			t.Fatalf("after kill -9: %+v (%v), and the last acknowledged was %+v", v, err, last)
		}
		if err := renew(t, b, g); err != nil {
			t.Errorf("renew: %v", err)
		}
		if _, err := insist(t, "release", func(ctx context.Context) (int, error) { return 0, b.Release(ctx, g) }); err != nil {
			t.Error(err)
		}
	}
}

// With the option replicas a value that was acknowledged survives a failover.
func TestValueWithReplicas(t *testing.T) {
	r := redistest.StartReplicated(t)
	b := open(t, r.URL("replicas=1", "replicas_timeout=2s"))
	g := acquire(t, b, "k", claim(time.Minute))
	v := value(g.Token, 1, "kept")
	mustSet(t, b, g, v)
	r.Disconnect()
	quick := open(t, r.URL("replicas=1", "replicas_timeout=100ms"))
	_, err := quick.SetValue(context.Background(), g, value(g.Token, 2, "may be lost"))
	if !errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "0 of the 1 replicas") {
		t.Errorf("set without a replica that acknowledges: %v", err)
	}
	r.Failover()
	mustHave(t, b, "k", v)
	mustSet(t, open(t, r.URL()), g, value(g.Token, 2, "again"))
}

// While a slot is on the move, a value is where its key is: it is set, or the attempt
// says that it was not, and it is never lost or in two places.
func TestValueInMovingSlot(t *testing.T) {
	c := redistest.StartCluster(t)
	a, b := open(t, c.URL()), open(t, c.URL())
	replicated := open(t, c.URL("replicas=1", "replicas_timeout=10ms"))
	ctx := context.Background()
	for _, old := range []bool{false, true} {
		for where, move := range map[string]func(m *redistest.Move, lock string){
			"nothing has moved":    func(*redistest.Move, string) {},
			"the lock has moved":   func(m *redistest.Move, lock string) { m.Key(lock) },
			"the value has moved":  func(m *redistest.Move, lock string) { m.Key(lock + ":value") },
			"everything has moved": func(m *redistest.Move, lock string) { m.Key(lock); m.Key(lock + ":value") },
		} {
			t.Run(fmt.Sprint(where, ", there is one: ", old), func(t *testing.T) {
				key := fmt.Sprint(where, old)
				lock := "hasp:{" + key + "}"
				var g backend.Grant
				var want backend.Value
				if old {
					g = acquire(t, b, key, claim(time.Minute))
					want = value(g.Token, 1, "old")
					mustSet(t, b, g, want)
					release(t, b, g)
				}
				g = acquire(t, a, key, claim(time.Minute))
				m := c.BeginMove(c.Slot(lock))
				move(m, lock)
				mustHave(t, b, key, want)
				next := value(g.Token, 1, "new")
				_, err := a.SetValue(ctx, g, next)
				together := old && (where == "nothing has moved" || where == "everything has moved")
				switch {
				case together && err == nil:
					want = next
				case !together && errors.Is(err, backend.ErrUnavailable) && strings.Contains(err.Error(), "moving this slot"):
				default:
					t.Errorf("set: %v", err)
				}
				if _, err := replicated.SetValue(ctx, g, next); !errors.Is(err, backend.ErrUnavailable) {
					t.Errorf("set with replicas, of which there are none: %v", err)
				}
				mustHave(t, b, key, want)
				if kvs, err := b.ListValues(ctx, key); err != nil || (len(kvs) == 1) != want.Exists() {
					t.Errorf("list: %v, %v", kvs, err)
				}
				m.Finish()
				mustHave(t, b, key, want)
				mustSet(t, a, g, next)
				mustHave(t, b, key, next)
				release(t, a, g)
				n := 0
				for _, k := range c.Keys() {
					if k == lock+":value" {
						n++
					}
				}
				if n != 1 {
					t.Errorf("the value is in %d places", n)
				}
			})
		}
	}
}

// redis-cli moves slots while values are set, read and listed: none goes back, none is
// missed.
func TestValuesWhileResharded(t *testing.T) {
	c := redistest.StartCluster(t)
	const slots = 200
	var keys []string
	for i := 0; len(keys) < 6; i++ {
		key := fmt.Sprint("key/", i)
		if c.Slot("hasp:{"+key+"}") < slots {
			keys = append(keys, key)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	reader := open(t, c.URL())
	for _, key := range keys {
		b := open(t, c.URL())
		g := acquire(t, b, key, claim(time.Hour))
		acked := value(g.Token, 1, "1")
		g = mustSet(t, b, g, acked)
		wg.Go(func() {
			for seq := uint64(2); ctx.Err() == nil; seq++ {
				next := value(g.Token, seq, fmt.Sprint(seq))
				_, err := b.SetValue(ctx, g, next)
				v, rerr := reader.Value(ctx, key)
				switch {
				case ctx.Err() != nil, errors.Is(rerr, backend.ErrUnavailable):
				case rerr != nil || string(v.Data) != fmt.Sprint(v.Seq) || v.Compare(acked) < 0:
					t.Errorf("%s: read %+v (%v), acknowledged was %+v", key, v, rerr, acked)
				case err == nil && v.Compare(next) != 0:
					t.Errorf("%s: read %+v, acknowledged was %+v", key, v, next)
				}
				if err == nil {
					acked = next
				} else if !errors.Is(err, backend.ErrUnavailable) {
					t.Errorf("%s: set: %v", key, err)
				}
			}
		})
	}
	lists := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			kvs, err := reader.ListValues(ctx, "key/")
			rs, rerr := reader.List(ctx, "key/")
			switch {
			case ctx.Err() != nil:
			case err == nil && len(kvs) != len(keys), err != nil && !errors.Is(err, backend.ErrUnavailable):
				t.Errorf("listed %d of %d values: %v", len(kvs), len(keys), err)
			case rerr == nil && len(rs) != len(keys), rerr != nil && !errors.Is(rerr, backend.ErrUnavailable):
				t.Errorf("listed %d of %d locks: %v", len(rs), len(keys), rerr)
			case err == nil && rerr == nil:
				lists++
			}
		}
	})
	if err := c.Reshard(c.Nodes[0], c.Nodes[1], slots); err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
	t.Logf("%d complete listings", lists)
}

// stopAfter lets so many SCANs through, then calls f.
type stopAfter struct {
	n int
	f func()
}

func (s *stopAfter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (s *stopAfter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (s *stopAfter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "scan" {
			if s.n--; s.n == 0 {
				s.f()
			}
		}
		return err
	}
}

// A server that was killed and started anew in the middle of a listing does not know
// where it was: the listing is an error, never incomplete.
func TestListingOfRestartedServer(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Persist: true})
	b := open(t, s.URL())
	const n = 3000
	pipe := s.Client().Pipeline()
	for i := range n {
		pipe.Set(context.Background(), fmt.Sprintf("hasp:{%d}:value", i), "1 1 set x", 0)
	}
	if _, err := pipe.Exec(context.Background()); err != nil {
		t.Fatal(err)
	}
	o, err := redis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o) // it repeats what fails
	defer client.Close()
	restarts := &stopAfter{n: 2, f: func() {
		s.Restart()
		mustHave(t, b, "0", value(1, 1, "x")) // it has loaded
	}}
	client.AddHook(restarts)
	mine, err := redislock.New(client, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	kvs, err := mine.ListValues(context.Background(), "")
	if !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("listed %d of %d (%v), want ErrUnavailable", len(kvs), n, err)
	}
	if kvs, err = mine.ListValues(context.Background(), ""); err != nil || len(kvs) != n {
		t.Errorf("listed %d of %d (%v)", len(kvs), n, err)
	}
}

// lateMove has the scan of one node wait until another's is over, and then calls f.
type lateMove struct {
	stopAfter
	other chan struct{} // closed when the other node has been looked at
	once  sync.Once
	f     func()
}

func (m *lateMove) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "scan" {
			m.once.Do(func() { <-m.other; m.f() })
		}
		return next(ctx, cmd)
	}
}

// overHook closes over when a node's first scan has been answered.
type overHook struct {
	stopAfter
	over func()
}

func (h *overHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "scan" {
			h.over()
		}
		return err
	}
}

// A key moves to a node that was looked at already, before the node that has it is.
func TestListingOfKeyThatMoves(t *testing.T) {
	c := redistest.StartCluster(t)
	a := open(t, c.URL())
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	defer cancel()
	for what, list := range map[string]func(b *redislock.Backend, key string) (int, error){
		"values": func(b *redislock.Backend, key string) (int, error) {
			kvs, err := b.ListValues(ctx, key)
			return len(kvs), err
		},
		"locks": func(b *redislock.Backend, key string) (int, error) {
			rs, err := b.List(ctx, key)
			return len(rs), err
		},
	} {
		t.Run(what, func(t *testing.T) {
			lock := "hasp:{" + what + "}"
			g := acquire(t, a, what, claim(time.Minute))
			mustSet(t, a, g, value(g.Token, 1, "x"))
			m := c.BeginMove(c.Slot(lock))
			over := make(chan struct{})
			client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{m.From.Addr(), m.To.Addr()}, ContextTimeoutEnabled: true})
			defer client.Close()
			client.OnNewNode(func(node *redis.Client) {
				switch node.Options().Addr {
				case m.From.Addr():
					node.AddHook(&lateMove{other: over, f: func() { m.Key(lock); m.Key(lock + ":value") }})
				case m.To.Addr():
					node.AddHook(&overHook{over: sync.OnceFunc(func() { close(over) })})
				}
			})
			b, err := redislock.New(client, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if n, err := list(b, what); n != 1 || err != nil {
				t.Errorf("listed %d, want 1 (%v)", n, err)
			}
			m.Finish()
			release(t, a, g)
		})
	}
}
