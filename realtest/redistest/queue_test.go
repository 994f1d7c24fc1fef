package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/internal/pause"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

func TestQueueIsFirstComeFirstServed(t *testing.T) {
	s := redistest.Start(t, nil)
	ctx := context.Background()
	holder := open(t, s.URL(unhurried))
	others := []*redislock.Backend{holder, open(t, s.URL(unhurried)), open(t, s.URL(unhurried))}
	g := acquire(t, holder, "k", claim(time.Minute))
	type queued struct {
		b    *redislock.Backend
		c    backend.Claim
		wake <-chan struct{}
		stop func(bool)
	}
	var queue []queued
	for i := range 12 {
		q := queued{b: others[i%3], c: claim(time.Minute)}
		held := mustBeHeld(t, q.b, "k", g)
		if first := held.RetryAfter > 0; first != (i == 0) {
			t.Errorf("waiter %d is told to retry after %v: only the first should be", i, held.RetryAfter)
		}
		q.wake, q.stop = mustWatch(t, q.b, "k", q.c)
		queue = append(queue, q)
	}
	queue[4].stop(false) // leaves the middle
	queue = append(queue[:4], queue[5:]...)
	before := s.Commands()
	by := holder
	for i, q := range queue {
		release(t, by, g)
		mustWake(t, fmt.Sprintf("waiter %d", i), q.wake)
		for j, other := range queue[i+1:] {
			select {
			case <-other.wake:
				t.Fatalf("waiter %d was woken on waiter %d's turn", i+1+j, i)
			default:
			}
			if _, err := other.b.Acquire(ctx, "k", other.c); !errors.Is(err, backend.ErrHeld) {
				t.Fatalf("waiter %d acquires on waiter %d's turn: %v", i+1+j, i, err)
			}
			break
		}
		if _, err := holder.Acquire(ctx, "k", claim(time.Minute)); !errors.Is(err, backend.ErrHeld) {
			t.Fatalf("a newcomer acquires on waiter %d's turn: %v", i, err)
		}
		next := acquire(t, q.b, "k", q.c)
		if next.Token <= g.Token {
			t.Errorf("token %d after %d", next.Token, g.Token)
		}
		g, by = next, q.b
		q.stop(true)
	}
	release(t, by, g)
	release(t, holder, acquire(t, holder, "k", claim(time.Minute)))
	after := s.Commands()
	if n := after["publish"] - before["publish"]; n != int64(len(queue)) {
		t.Errorf("%d messages for %d hand-offs", n, len(queue))
	}
	mustLeaveNothing(t, s.Keys)
}

func TestWatchAfterRelease(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL(unhurried))
	// the lock became free between the attempt and the watch
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	mustWake(t, "a waiter for a free lock", wake)
	// a repeated watch and a second waiter change nothing
	wake2, stop2 := mustWatch(t, b, "k", claim(time.Minute))
	g := acquire(t, b, "k", c)
	stop(true)
	release(t, b, g)
	mustWake(t, "the second waiter", wake2)
	stop2(false)
	release(t, b, acquire(t, b, "k", claim(time.Minute)))
}

func TestWaiterGivesUpItsTurn(t *testing.T) {
	s := redistest.Start(t, nil)
	a, b := open(t, s.URL("patience=1h")), open(t, s.URL("patience=1h"))
	g := acquire(t, a, "k", claim(time.Minute))
	wake1, stop1 := mustWatch(t, a, "k", claim(time.Minute))
	c2 := claim(time.Minute)
	wake2, stop2 := mustWatch(t, b, "k", c2)
	release(t, a, g)
	mustWake(t, "the first", wake1)
	stop1(false)
	mustWake(t, "the second", wake2)
	g = acquire(t, b, "k", c2)
	stop2(true)
	release(t, b, g)
}

func TestHolderKilled(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL(unhurried))
	const ttl = 1500 * time.Millisecond
	w := startWorker(t, "hold", s.URL(), "k", ttl)
	token := w.line()
	first, second := claim(time.Minute), claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", first)
	_, stop2 := mustWatch(t, b, "k", second)
	w.kill()
	killed, stood := time.Now(), pause.Watch()
	// woken by the backend itself, without the engine's retries
	mustWake(t, "the first waiter", wake)
	if took := time.Since(killed); took > ttl+2*time.Second+stood() {
		t.Errorf("woken %v after the kill, TTL %v", took, ttl)
	}
	g := acquire(t, b, "k", first)
	if fmt.Sprint(g.Token) <= token {
		t.Errorf("token %d after %s", g.Token, token)
	}
	stop(true)
	stop2(false)
	release(t, b, g)
}

// testDeadWaiters has clients wait, in two processes that then die or stop, ahead of
// a live one, which must have its turn within so long of the release. Before the
// release it waits for ended, if there is one.
func testDeadWaiters(t *testing.T, url string, clients int, end syscall.Signal, within time.Duration, ended func()) {
	t.Helper()
	b := open(t, url)
	g := acquire(t, b, "k", claim(time.Minute))
	var dead []*worker
	for range 2 {
		w := startWorker(t, "wait", url, "k", clients/2)
		w.line()
		dead = append(dead, w)
	}
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	for _, w := range dead {
		w.signal(end)
		if end == syscall.SIGKILL {
			w.cmd.Wait()
		}
	}
	if ended != nil {
		ended()
	}
	release(t, b, g)
	start, stood := time.Now(), pause.Watch()
	mustWake(t, "the live waiter", wake)
	took := time.Since(start) - stood()
	t.Logf("%d clients that do not answer cost %v", clients, took.Round(time.Millisecond))
	if took > within {
		t.Errorf("woken after %v, want %v at most", took, within)
	}
	g = acquire(t, b, "k", c)
	stop(true)
	release(t, b, g)
}

func TestDeadWaiterDoesNotBlock(t *testing.T) {
	s := redistest.Start(t, nil)
	// A killed process's connection is gone, and once the server knows, it costs nothing of
	// the patience: with one of an hour, nobody would be woken else.
	testDeadWaiters(t, s.URL("prefix=a:", "patience=1h"), 2, syscall.SIGKILL, patient, func() {
		eventually(t, "the server knows of one subscriber only", func() bool {
			return len(s.Channels()) == 1
		})
	})
	// of the stopped ones, the first lets its turn pass
	testDeadWaiters(t, s.URL("prefix=b:"), 100, syscall.SIGSTOP, 3*time.Second, nil)
}

func TestStoppedWaiterComesBack(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL("patience=100ms"))
	g := acquire(t, b, "k", claim(time.Minute))
	sleepy, awake := claim(time.Minute), claim(time.Minute)
	wake1, stop1 := mustWatch(t, b, "k", sleepy)
	wake2, stop2 := mustWatch(t, b, "k", awake)
	release(t, b, g)
	mustWake(t, "the first", wake1) // and does not act
	for {                           // the second may be as late as that, too, and then has another turn
		mustWake(t, "the second", wake2)
		var err error
		if g, err = b.Acquire(context.Background(), "k", awake); err == nil {
			break
		}
		if !errors.Is(err, backend.ErrHeld) {
			t.Fatal(err)
		}
	}
	stop2(true)
	eventually(t, "the first is queued again", func() bool {
		r, err := b.Inspect(context.Background(), "k")
		if err != nil {
			t.Fatal(err)
		}
		return r.Note == "1 waiting"
	})
	release(t, b, g)
	mustWake(t, "the first", wake1)
	g = acquire(t, b, "k", sleepy)
	stop1(true)
	release(t, b, g)
}

// A waiter that leaves while its client tends it is not put back for good.
func TestLeavingWhileTended(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	const keys = 300
	var gs []backend.Grant
	var stops []func(bool)
	for i := range keys {
		key := fmt.Sprint("k", i)
		gs = append(gs, acquire(t, b, key, claim(time.Minute)))
		_, stop := mustWatch(t, b, key, claim(time.Minute))
		stops = append(stops, stop)
	}
	var wg sync.WaitGroup
	for i, stop := range stops {
		// while they are tended, which all are about now
		wg.Go(func() {
			time.Sleep(300*time.Millisecond + time.Duration(i)*4*time.Millisecond)
			stop(false)
		})
	}
	wg.Wait()
	eventually(t, "no queue is left", func() bool {
		return !slices.ContainsFunc(s.Keys(), func(k string) bool { return strings.HasSuffix(k, ":queue") })
	})
	for _, g := range gs {
		release(t, b, g)
	}
}

func TestLostUpdates(t *testing.T) {
	s := redistest.Start(t, nil)
	const processes, rounds = 4, 150
	var ws []*worker
	for range processes {
		ws = append(ws, startWorker(t, "count", s.URL(), "k", rounds))
	}
	for _, w := range ws {
		if l := w.line(); l != "done" {
			t.Fatal(l)
		}
	}
	if n := fmt.Sprint(s.Do("get", "counter")); n != fmt.Sprint(processes*rounds) {
		t.Errorf("counter %s, want %d", n, processes*rounds)
	}
}
