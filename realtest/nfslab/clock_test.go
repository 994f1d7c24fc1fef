//go:build linux

package nfslab_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// Somebody sets the server's clock, back and forth, while processes on hosts whose
// clocks are wrong hold, wait, die and take over.
func TestTheServersClockIsSet(t *testing.T) {
	l := lab(t)
	c := crew{l, witness(t, l), folder(t, l)}
	const (
		ttl  = 4 * time.Second
		step = 600 * time.Second
	)
	for i, off := range []time.Duration{step, -step, 0} {
		if err := l.Clients[i].SetClock(patience(t), off); err != nil {
			t.Fatal(err)
		}
	}
	// Those that are killed are followed by others, until the end.
	end := make(chan struct{})
	var work sync.WaitGroup
	t.Cleanup(work.Wait)
	t.Cleanup(func() { close(end) })
	again := func(h *nfslab.Host, name string, args ...string) {
		args = append([]string{l.Bin() + "/worker", "-url", store(c.dir), "-key", key, "-witness", c.w.Addr(), "-name", name, "-ttl", ttl.String()}, args...)
		work.Go(func() {
			for {
				var out output
				p, err := h.Start(nfslab.Command{Argv: args, Stdout: &out, Stderr: &out})
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-p.Done():
				case <-end:
					_ = p.Kill()
					<-p.Done()
					return
				}
				code, err := p.Wait()
				if err != nil || code != 128+9 {
					t.Errorf("%s: status %d, %v; it says:\n%s", name, code, err, out.String())
					return
				}
			}
		})
	}
	for i, h := range l.Clients {
		again(h, fmt.Sprint("short", i), "-hold", "5ms", "-more", "50ms", "-pause", "50ms", "-abandon", "0.03")
		again(h, fmt.Sprint("long", i), "-hold", "1s", "-more", (ttl + ttl/2).String(), "-pause", "50ms")
	}
	for i, off := range inFull([]time.Duration{-step, 0, step, 0}, []time.Duration{-step, step}) {
		name := fmt.Sprint("victim", i)
		victim := c.worker(t, l.Clients[i%2], name, "-ttl", ttl.String(), "-hold", "1h", "-rounds", "1")
		if _, ok := c.w.Await(key, time.Minute, c.in(name)); !ok {
			t.Fatalf("%s does not get the lock in a minute; it says:\n%s", name, victim.out.String())
		}
		if err := l.Server.SetClock(patience(t), off); err != nil {
			t.Fatal(err)
		}
		t.Logf("server's clock set to %v at %v, while %s holds", off, c.w.Now().Round(time.Millisecond), name)
		time.Sleep(ttl / 2) // with a heartbeat in it
		_ = victim.Kill()
		e, ok := c.w.Await(key, time.Minute, func(e nfslab.Event) bool {
			return e.Worker == name && (e.Kind == nfslab.Died || e.Kind == nfslab.Lost)
		})
		if !ok || e.Kind != nfslab.Died {
			t.Errorf("server's clock set to %v: a live holder lost its lock; it says:\n%s", off, victim.out.String())
		}
		if _, ok := c.w.Await(key, time.Minute, func(next nfslab.Event) bool { return next.Kind == nfslab.In && next.At > e.At }); !ok {
			t.Fatalf("server's clock set to %v: nobody took the lock over in a minute", off)
		}
		time.Sleep(2 * ttl) // of holding, waiting and taking over
	}
	count := map[string]int{}
	var died *nfslab.Event
	for _, e := range c.w.Events(key) {
		count[e.Kind]++
		switch {
		case e.Kind == nfslab.Died:
			died = &e
		case e.Kind == nfslab.In && died != nil:
			took := e.At - died.At
			t.Logf("%s died at %v, and %s entered %v later", died.Worker, died.At.Round(time.Millisecond), e.Worker, took.Round(time.Millisecond))
			if took > 2*ttl {
				t.Errorf("a dead holder's lock was taken %v after its death, later than 2 TTL", took)
			}
			died = nil
		}
	}
	// A loss is no fault by itself: a machine may be too busy for heartbeats.
	t.Logf("%d sections; %d holders died, %d lost the lock", count[nfslab.In], count[nfslab.Died], count[nfslab.Lost])
	c.check(t)
}
