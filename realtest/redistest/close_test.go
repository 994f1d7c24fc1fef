package redistest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/realtest/internal/pause"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// A server that is gone refuses at once, and Close has nothing to wait for.
func TestCloseAfterTheServerHasGone(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Binary: true})
	l := hasp.New(open(t, s.URL()), nil)
	s.Kill()
	if _, err := l.TryAcquire(context.Background(), "k"); !errors.Is(err, hasp.ErrUnavailable) {
		t.Fatalf("acquire: %v", err)
	}
	begun := time.Now()
	if err := l.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	if err := l.Close(); err != nil {
		t.Errorf("another Close: %v", err)
	}
}

// A client that closes leaves the queues that it is in, and passes on the turn that it
// has: nobody waits for its patience to end, and no key is left.
func TestCloseLeavesTheQueue(t *testing.T) {
	s := redistest.Start(t, nil)
	holder := open(t, s.URL("patience=1h"))
	g := acquire(t, holder, "k", claim(time.Minute))
	for round := 0; round < 2; {
		b := open(t, s.URL("patience=1h"))
		wake, _ := mustWatch(t, b, "k", claim(time.Minute))
		last := open(t, s.URL("patience=1h"))
		if _, _, err := last.Watch(context.Background(), "k", claim(time.Minute)); err != nil {
			t.Fatal(err)
		}
		c := claim(time.Minute)
		next, stop := mustWatch(t, holder, "k", c)
		release(t, holder, g)
		mustWake(t, "the first", wake)
		stood := pause.Watch()
		for _, closes := range []*redislock.Backend{last, b} { // one from its place, the other by its turn
			if err := closes.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if late := stood(); late > 200*time.Millisecond { // it tries for 500 ms only
			t.Logf("the machine stood still for %v: that says nothing", late)
			stop(false)
			s.Do("del", "hasp:{k}:turn", "hasp:{k}:queue")
			g = acquire(t, holder, "k", claim(time.Minute))
			continue
		}
		round++
		mustWake(t, "who waits behind", next)
		g = acquire(t, holder, "k", c)
		stop(true)
	}
	release(t, holder, g)
	mustLeaveNothing(t, s.Keys)
}
