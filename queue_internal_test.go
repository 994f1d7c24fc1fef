package hasp

import (
	"context"
	"runtime"
	"testing"

	"github.com/hasplock/hasp/memlock"
)

// A waiter that has been woken by its context, and whose turn comes before it can
// leave the queue, passes its turn on.
func TestTurnThatComesWhileLeavingIsPassedOn(t *testing.T) {
	l, err := newLocker(memlock.New().Client(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 200 {
		if err := l.tryEnter("k"); err != nil {
			t.Fatalf("the key has no owner and nobody may have it: %v", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan error)
		go func() {
			left <- l.enter(ctx, "k", &wait{sched: newSchedule(Constant(DefaultTTL, 1), 0, readClocks().mono)})
		}()
		for queued := 0; queued == 0; {
			runtime.Gosched()
			l.mu.Lock()
			queued = len(l.keys["k"].waiters)
			l.mu.Unlock()
		}
		// With the lock taken, both line up for it: the one that passes the turn on,
		// and as a rule behind it the one that leaves.
		l.mu.Lock()
		exited := make(chan struct{})
		go func() {
			l.exit("k")
			close(exited)
		}()
		for range 100 {
			runtime.Gosched()
		}
		cancel()
		for range 100 {
			runtime.Gosched()
		}
		l.mu.Unlock()
		<-exited
		if err := <-left; err == nil {
			l.exit("k") // it got its turn
		}
	}
}
