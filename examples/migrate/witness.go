//go:build unix

package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// witness plays what the locks protect. It sees every entry and every exit before
// the worker goes on, so it sees whoever comes in beside another.
type witness struct {
	mu   sync.Mutex
	keys map[string]*guarded

	acquired  map[string]int // by phase
	overlaps  []string
	disorder  []string
	values    []string
	lost      int
	refused   int
	sets      int
	takeovers int
	late      int            // came in after their deadline, and are refused
	failed    map[string]int // errors by their text
	worst     time.Duration  // the longest wait
	holds     []hold
}

// guarded is one key, as the witness knows it.
type guarded struct {
	token  uint64
	in     *process // nil if nobody is
	until  int64    // its deadline
	hold   int      // in holds
	values []string // that a reader may find: more than one if it is not known whether the last was set; "" for none
}

// hold is a time in which a key was held.
type hold struct {
	Key, Phase string
	Worker     int
	Token      uint64
	From, To   time.Time
	Ended      string // left, killed, or overtaken
}

func newWitness() *witness {
	return &witness{keys: map[string]*guarded{}, acquired: map[string]int{}, failed: map[string]int{}}
}

// hear notes what p says.
func (w *witness) hear(p *process, m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.keys[m.Key]
	if g == nil {
		g = &guarded{values: []string{""}}
		w.keys[m.Key] = g
	}
	at := time.Unix(0, m.At)
	switch m.Kind {
	case isIn:
		w.enter(p, g, m, at)
	case isRead:
		w.read(g, m)
	case isSetting:
		if m.Token == g.token {
			g.values = append(g.values, m.Value)
		}
	case isSet:
		w.sets++
		if m.Token == g.token {
			g.values = []string{m.Value}
		}
	case isUnset:
		if i := slices.Index(g.values, m.Value); i >= 0 && len(g.values) > 1 {
			g.values = slices.Delete(g.values, i, i+1)
		}
	case isOut:
		if g.in == p && (g.token == m.Token || p.phase == legacyPhase) {
			w.leave(g, at, "left")
		}
	case isLost:
		w.lost++
	case isRefused:
		w.refused++
		w.failed[m.Text]++
	case isFailed:
		w.failed[m.Text]++
	}
}

// enter notes that p comes in. One that was stopped between its grant and its word comes
// after its deadline, perhaps after its successor: what the locks protect refuses it.
func (w *witness) enter(p *process, g *guarded, m message, at time.Time) {
	if max(m.At, m.heard) >= m.Until {
		w.late++
		return
	}
	if g.in != nil {
		switch {
		case m.At < g.until:
			w.overlaps = append(w.overlaps, fmt.Sprintf("%s: worker %d (%s, token %d) came in while worker %d was, for another %v",
				m.Key, p.number, p.phase, m.Token, g.in.number, time.Duration(g.until-m.At)))
		default:
			w.takeovers++
		}
		w.leave(g, at, "overtaken")
	}
	if p.phase == legacyPhase {
		m.Token = 0 // it has none
	} else if m.Token <= g.token {
		w.disorder = append(w.disorder, fmt.Sprintf("%s: token %d of worker %d (%s) after %d, %v before its deadline", m.Key, m.Token, p.number, p.phase, g.token, time.Duration(m.Until-m.At)))
	}
	g.token, g.in, g.until, g.hold = max(g.token, m.Token), p, m.Until, len(w.holds)
	w.acquired[p.phase]++
	if !p.since.IsZero() { // EfsLock processes do not say when they begin to wait
		w.worst = max(w.worst, at.Sub(p.since))
	}
	w.holds = append(w.holds, hold{Key: m.Key, Phase: p.phase, Worker: p.number, Token: m.Token, From: at})
}

func (w *witness) leave(g *guarded, at time.Time, how string) {
	h := &w.holds[g.hold]
	h.To, h.Ended = at, how
	g.in = nil
}

// read compares what a holder has found with what may be there. What an overtaken one
// found is out of date, and nobody's concern. What the first reader after a set of unknown
// outcome finds is what it stays at: who had begun it does not hold the lock any more.
func (w *witness) read(g *guarded, m message) {
	if m.Token != g.token {
		return
	}
	if !slices.Contains(g.values, m.Value) {
		w.values = append(w.values, fmt.Sprintf("%s: the holder with token %d found %q, and %q was set", m.Key, m.Token, m.Value, g.values))
	}
	g.values = []string{m.Value}
}

// gone notes that p has ended. A lock that it held is held until its TTL has run out,
// but nothing is done under it.
func (w *witness) gone(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.keys {
		if g.in == p {
			w.leave(g, time.Now(), "killed")
			w.takeovers++
		}
	}
}

func (w *witness) total() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.holds)
}

// fault says what must not have happened.
func (w *witness) fault() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, list := range map[string][]string{"overlaps": w.overlaps, "tokens out of order": w.disorder, "wrong values": w.values} {
		if len(list) > 0 {
			return fmt.Errorf("%d %s; the first: %s", len(list), what, list[0])
		}
	}
	if w.refused > 0 {
		return fmt.Errorf("%d acquires were refused for their phase, though the order of the steps was kept: %q", w.refused, slices.Sorted(maps.Keys(w.failed)))
	}
	return nil
}
