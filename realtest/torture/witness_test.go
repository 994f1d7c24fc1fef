package torture

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

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
