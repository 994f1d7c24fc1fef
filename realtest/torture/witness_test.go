package torture

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// What a failover explains is told apart, and nothing else.
func TestJudgmentOfFailovers(t *testing.T) {
	self := os.Getpid()
	const hour = time.Hour
	base := now()
	in := func(visit, token uint64, at, deadline time.Duration) message {
		return message{Verb: verbIn, PID: self, Visit: visit, Key: "k", Token: token, At: base + at, Deadline: base + deadline, TTL: 10 * time.Second}
	}
	overlap := []message{in(1, 1, 0, 10*time.Second), in(2, 11, 1, hour)}
	command := func(m message) message { m.Command, m.Deadline = true, forever; return m }
	lost := func(at time.Duration) message { return message{Verb: verbLost, Visit: 1, Key: "k", At: base + at} }
	// From token 10 on they are the new primary's.
	began := func(token uint64, until time.Duration) failover {
		return failover{10, map[string]kept{"k": {token, base + until}}}
	}
	for _, tc := range []struct {
		name                                string
		f                                   failover
		say                                 []message
		overlaps, excused, disorder, beaten int
	}{
		{"it lost the grant", failover{from: 10}, overlap, 0, 1, 0, 0},
		{"it knew an earlier grant", began(9, hour), overlap, 0, 1, 0, 0},
		{"it lost a renewal", began(1, 1), overlap, 0, 1, 0, 0},
		{"it lost nothing", began(1, 2), overlap, 1, 0, 0, 0},
		{"it was before both", failover{from: 1}, overlap, 1, 0, 0, 0},
		{"it was after both", failover{from: 12}, overlap, 1, 0, 0, 0},
		{"the first renews all the same", failover{from: 10}, append(overlap[:2:2],
			message{Verb: verbUntil, Visit: 1, Key: "k", Deadline: base + 10*time.Second + 2}), 1, 0, 0, 0},
		{"the first knows no deadline, and ends soon", failover{from: 10}, []message{in(1, 1, 0, 1000*hour), in(2, 11, 1, hour), lost(2)}, 1, 0, 0, 0},
		{"a command that ends in time", failover{from: 10}, []message{command(in(1, 1, 0, 0)), in(2, 11, 1, hour), lost(9 * time.Second)}, 0, 1, 0, 0},
		{"a command that ends too late", failover{from: 10}, []message{command(in(1, 1, 0, 0)), in(2, 11, 1, hour), lost(12 * time.Second)}, 1, 0, 0, 0},
		{"a command that does not end", failover{from: 10}, []message{command(in(1, 1, 0, 0)), in(2, 11, 1, hour)}, 1, 0, 0, 0},
		{"the first comes second", failover{from: 10}, []message{in(2, 11, 1, hour), in(1, 1, 0, 10*time.Second)}, 0, 0, 0, 1},
		{"the same, and it lost nothing", began(1, 2), []message{in(2, 11, 1, hour), in(1, 1, 0, 10*time.Second)}, 0, 0, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := newWitness()
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			w.failedOver(tc.f)
			inside := map[uint64]*section{}
			for _, m := range tc.say {
				w.hear(m, inside)
			}
			c := w.count()
			if len(c.overlaps) != tc.overlaps || len(c.excused) != tc.excused || len(c.disorder) != tc.disorder || len(c.beaten) != tc.beaten {
				t.Errorf("%d overlaps, %d excused, %d out of order, %d beaten; want %d, %d, %d, %d", len(c.overlaps), len(c.excused),
					len(c.disorder), len(c.beaten), tc.overlaps, tc.excused, tc.disorder, tc.beaten)
			}
		})
	}
}

func TestJudgment(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	self, dead := os.Getpid(), ended.Process.Pid
	const hour = time.Hour
	base := now()
	in := func(visit uint64, pid int, token uint64, at, deadline time.Duration) message {
		return message{Verb: verbIn, PID: pid, Visit: visit, Key: "k", Token: token, At: base + at, Deadline: base + deadline}
	}
	lost := func(visit uint64, at time.Duration) message {
		return message{Verb: verbLost, Visit: visit, Key: "k", At: base + at}
	}
	out := func(visit uint64) message { return message{Verb: verbOut, Visit: visit, Key: "k"} }
	for _, tc := range []struct {
		name                                string
		say                                 []message
		overlaps, takeovers, late, disorder int
	}{
		{"one after the other", []message{in(1, self, 1, 0, hour), out(1), in(2, self, 2, 1, hour), out(2)}, 0, 0, 0, 0},
		{"two within the deadline", []message{in(1, self, 1, 0, hour), in(2, self, 2, 1, hour)}, 1, 1, 0, 0},
		{"after the deadline", []message{in(1, self, 1, 0, 5), in(2, self, 2, 5, hour)}, 0, 1, 0, 0},
		{"before a later deadline", []message{in(1, self, 1, 0, 5),
			{Verb: verbUntil, Visit: 1, Key: "k", Deadline: base + 6}, in(2, self, 2, 5, hour)}, 1, 1, 0, 0},
		{"after the first has died", []message{in(1, dead, 1, 0, hour), in(2, self, 2, 1, hour)}, 0, 1, 0, 0},
		{"after the first was told", []message{in(1, self, 1, 0, hour), lost(1, 4), in(2, self, 2, 5, hour)}, 0, 1, 0, 0},
		{"the same, heard of later", []message{in(1, self, 1, 0, hour), in(2, self, 2, 5, hour), lost(1, 4)}, 0, 1, 0, 0},
		{"before the first was told", []message{in(1, self, 1, 0, hour), in(2, self, 2, 5, hour), lost(1, 6)}, 1, 1, 0, 0},
		{"a token twice", []message{in(1, self, 1, 0, 5), out(1), in(2, self, 1, 5, 6)}, 0, 0, 0, 1},
		{"a lower token, in time", []message{in(1, self, 2, 0, 5), out(1), in(2, self, 1, 5, hour)}, 0, 0, 0, 1},
		{"a lower token, too late", []message{in(1, self, 2, 0, 5), out(1), in(2, self, 1, 5, 6)}, 0, 0, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := newWitness()
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			inside := map[uint64]*section{}
			for _, m := range tc.say {
				w.hear(m, inside)
			}
			c := w.count()
			if len(c.overlaps) != tc.overlaps || c.takeovers != tc.takeovers || c.late != tc.late || len(c.disorder) != tc.disorder {
				t.Errorf("%d overlaps, %d takeovers, %d late, %d out of order; want %d, %d, %d, %d", len(c.overlaps), c.takeovers,
					c.late, len(c.disorder), tc.overlaps, tc.takeovers, tc.late, tc.disorder)
			}
		})
	}
}
