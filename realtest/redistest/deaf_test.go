package redistest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/internal/pause"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// subscribers are the server's numbers of the connections that have a subscription.
func subscribers(s *redistest.Server) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(fmt.Sprint(s.Do("client", "list", "type", "pubsub"))) {
		out[strings.Fields(line)[0]] = true
	}
	return out
}

// A client whose subscription is half open is not told of its turn: it finds out by
// itself while the turn lasts.
func TestDeafWaiterHasItsTurn(t *testing.T) {
	s := redistest.Start(t, nil)
	p := redistest.StartProxy(t, s.Addr())
	a, deaf := open(t, s.URL()), open(t, "redis://"+p.Addr())
	var took time.Duration
	const rounds = 4
	for done := 0; done < rounds; {
		g := acquire(t, a, "k", claim(time.Minute))
		c, next := claim(time.Minute), claim(time.Minute)
		wake, stop := mustWatch(t, deaf, "k", c)
		_, stop2 := mustWatch(t, a, "k", next)
		p.Deafen()
		stood := pause.Watch()
		release(t, a, g)
		start := time.Now()
		mustWake(t, "the deaf waiter", wake)
		this := time.Since(start)
		// It is its turn, and not only a wake-up; were it passed over, the other would
		// have it.
		g, err := deaf.Acquire(context.Background(), "k", c)
		if late := stood(); late > redislock.DefaultPatience/4 {
			t.Logf("the machine stood still for %v: that says nothing", late)
			if err == nil {
				release(t, deaf, g)
			}
			stop(false)
			stop2(false)
			continue
		}
		if err != nil {
			t.Fatalf("acquire at its turn: %v", err)
		}
		stop(true)
		stop2(false)
		release(t, deaf, g)
		took += this
		done++
	}
	t.Logf("a hand-off to the deaf client took %v on average", (took / rounds).Round(time.Millisecond))
	if took > rounds*redislock.DefaultPatience {
		t.Errorf("%d hand-offs took %v, want a patience each at most", rounds, took)
	}
}

// Silence on a subscription is noticed, also if nobody waits, and another is made.
func TestSilenceIsNoticed(t *testing.T) {
	t.Parallel()
	for name, waiting := range map[string]bool{"waiting": true, "idle": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, &redistest.Options{Binary: true})
			p := redistest.StartProxy(t, s.Addr())
			a, b := open(t, s.URL()), open(t, "redis://"+p.Addr())
			g := acquire(t, b, "held", claim(time.Minute))
			lost := make(chan string, 1)
			defer b.OnLoss(func(key, _ string) { lost <- key })()
			if waiting {
				held := acquire(t, a, "k", claim(time.Minute))
				_, stop := mustWatch(t, b, "k", claim(time.Minute))
				defer func() { stop(false); release(t, a, held) }()
			}
			eventually(t, "the subscription is made", func() bool { return len(s.Do("pubsub", "channels").([]any)) > 0 })
			before := subscribers(s)
			p.Deafen()
			eventually(t, "another subscription is made", func() bool {
				for id := range subscribers(s) {
					if !before[id] {
						return true
					}
				}
				return false
			})
			if err := a.Break(context.Background(), "held", g.Token); err != nil {
				t.Fatal(err)
			}
			select {
			case <-lost:
			case <-time.After(patient):
				t.Error("what is published is not heard")
			}
		})
	}
}
