package torture

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// A primary's reign begins when it is promoted, and ends when it has become a replica:
// one that is stopped or cut off does not know that another was promoted, and goes on to
// acknowledge. Reigns are numbered in the order in which they began, from 0 on.

// kept is a lock that is held, as a server knows it.
type kept struct {
	token uint64
	until time.Duration // by now's clock
}

// claim is a grant, by the reign of the primary that acknowledged it or a renewal.
type claim struct {
	reign int
	key   string
	token uint64
}

// acks are what was acknowledged of a claim.
type acks struct {
	since, until time.Duration
}

// judge knows what each primary began with, and what it has acknowledged since.
type judge struct {
	mu    sync.Mutex
	began []map[string]kept // the reigns after the first
	acks  map[claim]acks
	omits condition // it does not ask for this one, so that a test sees that it matters
}

// condition is one of those that a failover has to meet to explain why two were in.
type condition string

const (
	isSince    condition = "the new primary, or a later one, granted the other"
	wasLost    condition = "the new primary began without the grant, or with one that ran out before it granted the other"
	notRenewed condition = "no primary after that renewed the grant"
	wasAcked   condition = "an earlier primary acknowledged the loser's, until its deadline"
)

const (
	all     condition = "all of these: every overlap is excused"
	excuses condition = "that anything can be excused: none is"
)

// conditions are for tests, what a judge may omit.
var conditions = []condition{isSince, wasLost, notRenewed, wasAcked, all, excuses}

// slack is by how much the clocks that are compared may differ, which are one clock
// read in two processes.
const slack = 5 * time.Millisecond

func newJudge() *judge { return &judge{acks: map[claim]acks{}} }

// failedOver notes what a new primary began with.
func (j *judge) failedOver(with map[string]kept) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.began = append(j.began, with)
}

// acked notes that the primary of a reign has granted or renewed a lock.
func (j *judge) acked(reign int, key string, token uint64, at, until time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := claim{reign, key, token}
	a, ok := j.acks[c]
	if !ok {
		a.since = at
	}
	a.until = max(a.until, until)
	j.acks[c] = a
}

// lost tells whether a failover explains that two were in at once, or came with tokens
// in the wrong order: a primary has acknowledged the loser's grant, or a renewal of it,
// and its successor, which did not know of that, has granted the other.
//
// It does not matter which of them came first: a primary that does not know of its
// successor grants locks that the successor has granted already. Nor does it how long a
// grant that is lost goes on, but it goes on only as long as somebody acknowledges it.
func (j *judge) lost(loser, other *section) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.omits == all || j.omits == excuses {
		return j.omits == all
	}
	ours, theirs := j.reigns(loser), j.reigns(other)
	if len(ours) == 0 || len(theirs) == 0 {
		return false // nobody has granted it, so no failover has lost it
	}
	granted := j.acks[claim{theirs[0], other.key, other.token}].since
	for k := range j.began {
		reign := k + 1 // which may not have known
		if j.asks(isSince) && reign > theirs[0] {
			continue
		}
		with := j.began[k][loser.key]
		if j.asks(wasLost) && with.token == loser.token && with.until > granted+slack {
			continue
		}
		before, since := time.Duration(0), time.Duration(0) // until when it was acknowledged
		for _, r := range ours {
			until := j.acks[claim{r, loser.key, loser.token}].until
			if r < reign {
				before = max(before, until)
			} else if r <= theirs[0] {
				since = max(since, until)
			}
		}
		if j.asks(notRenewed) && since > granted+slack {
			continue
		}
		if j.asks(wasAcked) && loser.until() > before+slack {
			continue
		}
		return true
	}
	return false
}

func (j *judge) asks(c condition) bool { return j.omits != c }

// reigns are those in which a section's claim was acknowledged, in order.
func (j *judge) reigns(s *section) []int {
	var out []int
	for c := range maps.Keys(j.acks) {
		if c.key == s.key && c.token == s.token {
			out = append(out, c.reign)
		}
	}
	slices.Sort(out)
	return out
}

// says tells what is known of two sections, for who has to find out why they are not
// excused; empty if there was no failover.
func (j *judge) says(first, second *section) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.began) == 0 {
		return ""
	}
	return fmt.Sprintf(" (acknowledged in the reigns %v and %v of %d)", j.reigns(first), j.reigns(second), len(j.began)+1)
}
