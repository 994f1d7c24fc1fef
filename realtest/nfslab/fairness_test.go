//go:build linux

package nfslab_test

import (
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// Three hosts want the lock again as soon as they have released it. None of them may
// wait while another gets it time after time.
func TestFairness(t *testing.T) {
	l := lab(t)
	c := crew{l, witness(t, l), folder(t, l)}
	// A waiter may lose to one that comes at the right moment, but not for long.
	handOffs, few := inFull(120, 60), 5
	for _, h := range l.Clients {
		c.worker(t, h, h.Name, "-ttl", "10s", "-hold", "5ms", "-awake")
	}
	grants := 0
	if _, ok := c.w.Await(key, 4*time.Minute, func(e nfslab.Event) bool {
		if e.Kind == nfslab.In {
			grants++
		}
		return grants == handOffs+3
	}); !ok {
		t.Fatalf("%d grants in 4 minutes", grants)
	}
	f := nfslab.Judge(c.w.Events(key))
	t.Log(f)
	if f.Passed > few {
		t.Errorf("a waiter was passed over %d times by one process: at most %d are right", f.Passed, few)
	}
	c.check(t)
}

func TestJudge(t *testing.T) {
	e := func(kind, worker string) nfslab.Event { return nfslab.Event{Kind: kind, Worker: worker} }
	fair := []nfslab.Event{e("wants", "a"), e("in", "a"), e("wants", "b"), e("out", "a"), e("wants", "a"), e("in", "b"), e("out", "b"), e("wants", "b"), e("in", "a")}
	if f := nfslab.Judge(fair); f.Passed != 0 || f.Again != 0 || f.Grants != 2 {
		t.Errorf("of a fair run: %+v", f)
	}
	unfair := []nfslab.Event{e("wants", "a"), e("in", "a"), e("wants", "b"), e("out", "a"), e("wants", "a"), e("in", "a"), e("out", "a"), e("wants", "a"), e("in", "a"), e("out", "a"), e("in", "b"), e("wants", "a")}
	if f := nfslab.Judge(unfair); f.Passed != 2 || f.Again != 2 || f.By != "a over b" {
		t.Errorf("of an unfair run: %+v", f)
	}
	for i := range unfair {
		unfair[i].At = time.Duration(i+1) * time.Second
	}
	// b did not run from 7 to 8 s, so it cannot complain of the grant at 9 s.
	asleep := append(unfair, nfslab.Event{At: 8 * time.Second, Kind: "stood", Worker: "b", For: time.Second})
	if f := nfslab.Judge(asleep); f.Passed != 1 || f.Asleep != 1 {
		t.Errorf("of a run with a host that stood still: %+v", f)
	}
}
