package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/internal/pause"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// While a slot of a cluster is on the move, for however long, all goes on.
func TestMovingSlot(t *testing.T) {
	c := redistest.StartCluster(t)
	a, b := open(t, c.URL()), open(t, c.URL())
	waiting := open(t, c.URL())
	for name, moved := range map[string]func(m *redistest.Move, lock string){
		"nothing has moved":  func(*redistest.Move, string) {},
		"the lock has moved": func(m *redistest.Move, lock string) { m.Key(lock) },
		"the rest has moved": func(m *redistest.Move, lock string) { m.Key(lock + ":queue"); m.Key(lock + ":turn") },
	} {
		for state, before := range map[string]func(key string) (g backend.Grant){
			"new": func(string) backend.Grant { return backend.Grant{} },
			"free": func(key string) backend.Grant {
				g := acquire(t, a, key, claim(time.Minute))
				release(t, a, g)
				return g
			},
			"held":             func(key string) backend.Grant { return acquire(t, a, key, claim(time.Minute)) },
			"held, with queue": func(key string) backend.Grant { return acquire(t, a, key, claim(time.Minute)) },
		} {
			t.Run(name+", "+state, func(t *testing.T) {
				key := name + "/" + state
				lock := "hasp:{" + key + "}"
				g := before(key)
				var c1 backend.Claim
				var wake1 <-chan struct{}
				var stop1 func(bool)
				if state == "held, with queue" {
					c1 = claim(time.Minute)
					wake1, stop1 = mustWatch(t, waiting, key, c1)
				}
				m := c.BeginMove(c.Slot(lock))
				moved(m, lock)
				last := testOpenSlot(t, a, b, key, g, state == "new" || state == "free", c1, wake1, stop1)
				m.Finish()
				g = mustAcquire(t, a, key, claim(time.Minute))
				if g.Token <= last {
					t.Errorf("token %d after %d, when the slot has arrived", g.Token, last)
				}
				c2 := claim(time.Minute)
				wake2, stop2 := mustWatch(t, b, key, c2)
				release(t, a, g)
				mustWake(t, "a waiter, when the slot has arrived", wake2)
				g = acquire(t, b, key, c2)
				stop2(true)
				release(t, b, g)
				mustLeaveNothing(t, c.Keys)
			})
		}
	}
}

// A client that follows few redirections can be left with one as its answer, as every
// client can whose keys come and go while it follows them.
func TestRedirectionIsTheAnswer(t *testing.T) {
	c := redistest.StartCluster(t)
	few := func() *redislock.Backend {
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{c.Nodes[0].Addr()}, MaxRedirects: 2, ContextTimeoutEnabled: true})
		t.Cleanup(func() { client.Close() })
		b, err := redislock.New(client, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}
	a, b := few(), few()
	key := "k"
	lock := "hasp:{" + key + "}"
	g := acquire(t, a, key, claim(time.Minute))
	m := c.BeginMove(c.Slot(lock))
	m.Key(lock)
	last := testOpenSlot(t, a, b, key, g, false, backend.Claim{}, nil, nil)
	m.Finish()
	if g = mustAcquire(t, a, key, claim(time.Minute)); g.Token <= last {
		t.Errorf("token %d after %d", g.Token, last)
	}
	release(t, a, g)
}

// testOpenSlot uses every verb on key and returns its last token.
func testOpenSlot(t *testing.T, a, b *redislock.Backend, key string, g backend.Grant, free bool, c1 backend.Claim, wake1 <-chan struct{}, stop1 func(bool)) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	quick := func(what string, f func()) {
		t.Helper()
		start, stood := time.Now(), pause.Watch()
		f()
		if took := time.Since(start) - stood(); took > 2*time.Second {
			t.Errorf("%s took %v", what, took)
		}
	}
	if free {
		last := g.Token
		quick("acquire", func() { g = acquire(t, a, key, claim(time.Minute)) })
		if g.Token <= last {
			t.Errorf("token %d after %d", g.Token, last)
		}
	}
	quick("attempts", func() { mustBeHeld(t, b, key, g) })
	quick("renew", func() {
		var err error
		if g, err = a.Renew(ctx, g); err != nil {
			t.Fatal(err)
		}
	})
	if r, err := b.Inspect(ctx, key); err != nil || r.ID != g.ID {
		t.Errorf("inspect: %+v, %v", r, err)
	}
	if rs, err := b.List(ctx, key); err != nil || len(rs) != 1 {
		t.Errorf("list: %v, %v", rs, err)
	}
	c2 := claim(time.Minute)
	wake2, stop2 := mustWatch(t, b, key, c2)
	quick("release", func() { release(t, a, g) })
	if wake1 != nil { // it was in the queue before: it may have its turn or not
		quick("a wake-up", func() { mustWake(t, "a waiter", either(ctx, wake1, wake2)) })
		stop1(false)
	} else {
		quick("a wake-up", func() { mustWake(t, "the waiter", wake2) })
	}
	last := g.Token
	g = acquire(t, b, key, c2)
	stop2(true)
	if g.Token <= last {
		t.Errorf("token %d after %d", g.Token, last)
	}
	quick("break", func() {
		if err := a.Break(ctx, key, g.Token); err != nil {
			t.Errorf("break: %v", err)
		}
	})
	if err := b.Release(ctx, g); !errors.Is(err, backend.ErrLost) {
		t.Errorf("release of a lock that was broken: %v", err)
	}
	floor := g.Token + 10
	if err := b.RaiseToken(ctx, key, floor); err != nil {
		t.Errorf("raise: %v", err)
	}
	return floor
}

// either is closed when one of two channels has received.
func either(ctx context.Context, a, b <-chan struct{}) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		select {
		case <-a:
		case <-b:
		case <-ctx.Done():
			return
		}
		close(out)
	}()
	return out
}

// contenders take keys in turns from several clients, until stop, and count without
// any other protection: what the lock does not keep apart shows as a lost update, and
// to the race detector.
type contenders struct {
	t      *testing.T
	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
	grants atomic.Int64
	counts []int
	tokens []uint64
	each   []atomic.Int64
}

func contend(t *testing.T, url string, clients int, keys []string) *contenders {
	x := &contenders{t: t, counts: make([]int, len(keys)), tokens: make([]uint64, len(keys)), each: make([]atomic.Int64, len(keys))}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	for range clients {
		b := open(t, url)
		x.wg.Go(func() {
			for x.ctx.Err() == nil {
				x.one(b, rand.IntN(len(keys)), keys)
			}
		})
	}
	t.Cleanup(func() { x.cancel(); x.wg.Wait() }) // before the clients are closed
	return x
}

func (x *contenders) one(b *redislock.Backend, i int, keys []string) {
	c := claim(time.Minute)
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	var g backend.Grant
	for {
		var err error
		if g, err = await(ctx, b, keys[i], c); err == nil {
			break
		}
		if !errors.Is(err, backend.ErrUnavailable) {
			x.t.Errorf("acquire %s: %v", keys[i], err)
			return
		}
	}
	if g.Token <= x.tokens[i] {
		x.t.Errorf("%s: token %d after %d", keys[i], g.Token, x.tokens[i])
	}
	n := x.counts[i]
	x.tokens[i] = g.Token
	x.counts[i] = n + 1
	x.each[i].Add(1)
	err := b.Release(ctx, g)
	for errors.Is(err, backend.ErrUnavailable) && ctx.Err() == nil {
		err = b.Release(ctx, g)
	}
	if err != nil {
		x.t.Errorf("release %s: %v", keys[i], err)
	}
	x.grants.Add(1)
}

// stop ends the contention and says how often the keys were taken.
func (x *contenders) stop() int64 {
	x.t.Helper()
	x.cancel()
	x.wg.Wait()
	for i := range x.counts {
		if n := x.each[i].Load(); int64(x.counts[i]) != n {
			x.t.Errorf("counted %d, want %d", x.counts[i], n)
		}
	}
	return x.grants.Load()
}

// more waits until the keys have been taken n times more.
func (x *contenders) more(n int64) {
	x.t.Helper()
	want := x.grants.Load() + n
	eventually(x.t, fmt.Sprintf("%d more grants", n), func() bool { return x.grants.Load() >= want })
}

// A contended lock is moved to and fro, its keys in all orders.
func TestMovingUnderLoad(t *testing.T) {
	c := redistest.StartCluster(t)
	lock := "hasp:{load}"
	x := contend(t, c.URL(), 3, []string{"load"})
	x.more(10)
	for _, order := range [][]string{{"", ":queue", ":turn"}, {":queue", "", ":turn"}, {":turn", ":queue", ""}} {
		m := c.BeginMove(c.Slot(lock))
		x.more(3)
		for _, k := range order {
			m.Key(lock + k)
			x.more(3)
		}
		m.Finish()
		x.more(10)
	}
	t.Logf("%d grants", x.stop())
}

// With the option replicas the requests go to a node directly, and are redirected all
// the same. (There are no replicas here, so each lock is given back.)
func TestMovingWithReplicas(t *testing.T) {
	c := redistest.StartCluster(t)
	a, b := open(t, c.URL()), open(t, c.URL("replicas=1", "replicas_timeout=10ms"))
	refused := func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		_, err := b.Acquire(ctx, "k", claim(time.Minute))
		if err == nil || errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "0 of the 1 replicas") {
			t.Errorf("%s: %v, want that too few replicas acknowledged", when, err)
		}
		g := acquire(t, a, "k", claim(time.Minute))
		if _, err := b.Acquire(ctx, "k", claim(time.Minute)); !errors.Is(err, backend.ErrHeld) {
			t.Errorf("%s: %v, want ErrHeld", when, err)
		}
		release(t, a, g)
	}
	refused("before")
	lock := "hasp:{k}"
	m := c.BeginMove(c.Slot(lock))
	refused("nothing has moved")
	m.Key(lock)
	refused("the lock has moved")
	m.Finish()
	refused("the slot has moved")
}

// redis-cli moves slots while their locks are used.
func TestReshard(t *testing.T) {
	c := redistest.StartCluster(t)
	from, to := c.Nodes[0], c.Nodes[1]
	const slots = 300
	var keys []string
	for i := 0; len(keys) < 12; i++ {
		key := fmt.Sprint("key/", i)
		if c.Slot("hasp:{"+key+"}") < slots {
			keys = append(keys, key)
		}
	}
	x := contend(t, c.URL(), 6, keys)
	x.more(50)
	start := time.Now()
	before := x.grants.Load()
	if err := c.Reshard(from, to, slots); err != nil {
		t.Error(err)
	}
	t.Logf("moving %d slots took %v, and %d grants were made meanwhile", slots, time.Since(start).Round(time.Millisecond), x.grants.Load()-before)
	x.more(50)
	t.Logf("%d grants", x.stop())
	if s := c.Owner(c.Slot("hasp:{" + keys[0] + "}")); s != to {
		t.Error("the slots were not moved")
	}
}
