package torture

import (
	"os"
	"testing"
	"time"
)

// trial is a case for the judge.
type trial struct {
	name  string
	began []map[string]kept
	acks  []ack
	say   []message
	overlaps, excused,
	disorder, beaten int
}

// ack is what a primary has acknowledged.
type ack struct {
	reign     int
	token     uint64
	at, until time.Duration
}

// trials are about key k, of which the first holds token 1, and the second 11 or so.
func trials() []trial {
	const s, hour = time.Second, time.Hour
	self := os.Getpid()
	in := func(visit, token uint64, at, deadline time.Duration) message {
		return message{Verb: verbIn, PID: self, Visit: visit, Key: "k", Token: token, At: base + at, Deadline: base + deadline, TTL: 10 * s}
	}
	until := func(visit uint64, deadline time.Duration) message {
		return message{Verb: verbUntil, Visit: visit, Key: "k", Deadline: base + deadline}
	}
	command := func(m message) message { m.Command, m.Deadline = true, forever; return m }
	lost := func(visit uint64, at time.Duration) message {
		return message{Verb: verbLost, Visit: visit, Key: "k", At: base + at}
	}
	with := func(token uint64, until time.Duration) map[string]kept {
		return map[string]kept{"k": {token, base + until}}
	}
	one := func(k map[string]kept) []map[string]kept { return []map[string]kept{k} }
	none := one(nil)

	// The former primary grants the first until 10 s, the new one the second at 2 s.
	first, second := ack{0, 1, 0, 10 * s}, ack{1, 11, 2 * s, 12 * s}
	plain := []ack{first, second}
	overlap := []message{in(1, 1, 0, 10*s), in(2, 11, 2*s, 12*s)}
	rebels := []ack{{1, 1, 0, 10 * s}, {0, 11, 2 * s, 12 * s}} // the former primary grants the second
	swapped := []message{overlap[1], overlap[0]}
	say := func(ms ...message) []message { return ms }
	acks := func(as ...ack) []ack { return as }

	return []trial{
		{"no failover", nil, acks(first, ack{0, 11, 2 * s, 12 * s}), overlap, 1, 0, 0, 0},
		{"it lost the grant", none, plain, overlap, 0, 1, 0, 0},
		{"it knew an earlier grant", one(with(9, hour)), plain, overlap, 0, 1, 0, 0},
		{"it knew another key only", one(map[string]kept{"l": {1, base + hour}}), plain, overlap, 0, 1, 0, 0},
		{"it lost a renewal", one(with(1, s)), plain, overlap, 0, 1, 0, 0},
		{"it lost nothing", one(with(1, 3*s)), plain, overlap, 1, 0, 0, 0},
		{"it lost a renewal, and renewed it", one(with(1, s)), acks(first, ack{1, 1, s / 2, 11 * s}, second), overlap, 1, 0, 0, 0},
		{"it lost a renewal, and renewed it until it granted", one(with(1, s)), acks(first, ack{1, 1, s / 2, 2 * s}, second), overlap, 0, 1, 0, 0},
		{"it granted both", none, acks(ack{1, 1, 0, 10 * s}, second), overlap, 1, 0, 0, 0},
		{"the former one granted both", none, acks(first, ack{0, 11, 2 * s, 12 * s}), overlap, 1, 0, 0, 0},
		{"nobody granted the first", none, acks(second), overlap, 1, 0, 0, 0},
		{"nobody granted the second", none, acks(first), overlap, 1, 0, 0, 0},
		{"another key's grant", none, acks(ack{0, 2, 0, 10 * s}, second), overlap, 1, 0, 0, 0},

		{"the first believes longer than was acknowledged", none, plain, append(say(overlap...), until(1, 11*s)), 1, 0, 0, 0},
		{"the former primary goes on to renew", none, append(acks(plain...), ack{0, 1, 5 * s, 15 * s}), append(say(overlap...), until(1, 15*s)), 0, 1, 0, 0},
		{"the first believes for ever", none, plain, say(in(1, 1, 0, 1000*hour), overlap[1], lost(1, 3*s)), 1, 0, 0, 0},
		{"a command that ends in time", none, plain, say(command(overlap[0]), overlap[1], lost(1, 9*s)), 0, 1, 0, 0},
		{"a command that ends too late", none, plain, say(command(overlap[0]), overlap[1], lost(1, 12*s)), 1, 0, 0, 0},
		{"a command that does not end", none, plain, say(command(overlap[0]), overlap[1]), 1, 0, 0, 0},
		{"the first was told before", none, plain, say(overlap[0], overlap[1], lost(1, s)), 0, 0, 0, 0},

		{"the former primary grants what the new one has granted", none, rebels, overlap, 0, 1, 0, 0},
		{"the same, and the new one's holder stays", none, rebels, append(say(overlap...), until(1, hour)), 0, 1, 0, 0},
		{"the same, and the former one's believes too long", none, rebels, append(say(overlap...), until(2, 13*s)), 1, 0, 0, 0},
		{"the same, and the new one lost nothing", one(with(11, hour)), rebels, overlap, 1, 0, 0, 0},

		{"lost by the first of two failovers", append(one(nil), with(11, hour)), acks(first, ack{2, 11, 2 * s, 12 * s}), overlap, 0, 1, 0, 0},
		{"lost by the second of two failovers", append(one(with(1, 3*s)), nil), acks(first, ack{2, 11, 2 * s, 12 * s}), overlap, 0, 1, 0, 0},
		{"kept by two failovers", append(one(with(1, 3*s)), with(1, 3*s)), acks(first, ack{2, 11, 2 * s, 12 * s}), overlap, 1, 0, 0, 0},
		{"lost by a failover before both", append(one(nil), with(1, hour)), acks(ack{1, 1, 0, 10 * s}, ack{2, 11, 2 * s, 12 * s}), overlap, 1, 0, 0, 0},
		{"lost by a failover after both", append(one(with(1, hour)), nil), acks(first, second), overlap, 1, 0, 0, 0},

		{"the first comes second", none, plain, swapped, 0, 0, 0, 1},
		{"the same, and it lost nothing", one(with(1, 3*s)), plain, swapped, 0, 0, 1, 0},
		{"the same, and no failover", nil, acks(first, ack{0, 11, 2 * s, 12 * s}), swapped, 0, 0, 1, 0},
		{"a command comes second", none, plain, say(overlap[1], command(overlap[0])), 0, 0, 0, 1},
		{"a command comes second, and too late", none, acks(ack{0, 1, -20 * s, -5 * s}, ack{1, 11, -4 * s, 12 * s}), say(overlap[1], command(overlap[0])), 0, 0, 1, 0},
		{"the new primary's comes second, with the lesser token", none, rebels, swapped, 0, 0, 0, 1},
	}
}

// base is a time from which the trials count.
var base = now()

// wrong says what a judge makes of a trial that it should not; empty if nothing.
func (tc trial) wrong(t *testing.T, omits condition) bool {
	t.Helper()
	w, err := newWitness()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.judge.omits = omits
	for _, k := range tc.began {
		w.judge.failedOver(k)
	}
	for _, a := range tc.acks {
		w.judge.acked(a.reign, "k", a.token, base+a.at, base+a.until)
	}
	inside := map[uint64]*section{}
	for _, m := range tc.say {
		w.hear(m, inside)
	}
	c := w.count()
	if len(c.overlaps) == tc.overlaps && len(c.excused) == tc.excused && len(c.disorder) == tc.disorder && len(c.beaten) == tc.beaten {
		return false
	}
	if omits == "" {
		t.Errorf("%d overlaps, %d excused, %d out of order, %d beaten; want %d, %d, %d, %d", len(c.overlaps), len(c.excused),
			len(c.disorder), len(c.beaten), tc.overlaps, tc.excused, tc.disorder, tc.beaten)
	}
	return true
}

// What a failover explains is told apart, and nothing else.
func TestJudgmentOfFailovers(t *testing.T) {
	for _, tc := range trials() {
		t.Run(tc.name, func(t *testing.T) { tc.wrong(t, "") })
	}
}

// A judge that leaves out one condition is seen.
func TestJudgmentOmits(t *testing.T) {
	for _, omits := range conditions {
		t.Run(string(omits), func(t *testing.T) {
			n := 0
			for _, tc := range trials() {
				if tc.wrong(t, omits) {
					t.Logf("seen by %q", tc.name)
					n++
				}
			}
			if n == 0 {
				t.Error("no trial sees that this is not asked for")
			}
		})
	}
}
