package torture

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"
)

// witness is told by processes when they enter and leave what a lock protects. It uses
// no store. It is also the resource that tokens are for: it refuses one that is not
// greater than all that it has seen for the key.
//
// A process says that it is in after it has acquired, with the time at which Acquire
// returned and its deadline, and tells later deadlines as it learns of them. It says
// that it is out, and waits for the answer, before it releases. So a section as the
// witness knows it lies within the time for which the lock was held, and ends early
// rather than late: at the last deadline told, if nothing else ends it before.
type witness struct {
	ln   net.Listener
	work sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	keys  map[string]*book
	judge *judge
	tally
}

// tally is what the witness has counted.
type tally struct {
	entries   int
	commands  int // entries by commands under hasp run
	takeovers int // entries after a section that did not end with out
	late      int // tokens refused of those whose deadline had passed
	overlaps  []overlap
	excused   []overlap // that a failover explains
	disorder  []refusal // tokens that did not rise, of those within their deadline
	beaten    []refusal // the same, that a failover explains
	errors    map[string]int
	strange   []string // errors that nobody should meet
	slowest   time.Duration
}

// book is what is known of a key.
type book struct {
	top      uint64 // the greatest token so far
	inside   map[*section]bool
	tidy     bool // the last section that began has ended with out
	sections []*section
}

// section is one process's stay. Times are those of the machine's monotonic clock.
type section struct {
	who, key     string
	command      bool
	pid          int
	token        uint64
	at, deadline time.Duration
	ttl          time.Duration
	lost         time.Duration // when it was told of its loss; 0 if it was not
	end          time.Duration // when it said that it was out, or was told, or had gone; 0 if it is inside
}

func (s *section) String() string { return fmt.Sprintf("%s (pid %d, token %d)", s.who, s.pid, s.token) }

// overlap is two sections at once.
type overlap struct {
	first, second *section
	by            time.Duration // from the second's acquisition to the first's deadline as known then
	reigns        string        // in which they were acknowledged
}

func (o overlap) String() string {
	return fmt.Sprintf("%s: %s acquired %v before the deadline of %s, which had acquired %v before%s",
		o.first.key, o.second, o.by, o.first, o.second.at-o.first.at, o.reigns)
}

// refusal is a token that is not greater than the one that came before.
type refusal struct {
	before, now *section
	left        time.Duration // until the deadline of who shows it
	reigns      string        // in which they were acknowledged
}

func (r refusal) String() string {
	return fmt.Sprintf("%s: %s came after %s, %v before its deadline%s", r.now.key, r.now, r.before, r.left, r.reigns)
}

// endSeen is how late the witness may learn of the end of a command that was killed: when it
// has read the end of its connection.
const endSeen = time.Second

// until is how long a section is to be held for one that was in.
func (s *section) until() time.Duration {
	if s.command && s.end != 0 {
		return s.end - endSeen // it knows no deadline; it has to be out by then
	}
	return s.deadline
}

// count returns what has been counted, when all is over. The first of two who overlapped may have
// been told of its loss in time, and its message have come later.
func (w *witness) count() tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tally
	t.errors = maps.Clone(w.tally.errors)
	t.overlaps, t.disorder = nil, nil
	for _, o := range w.overlaps {
		switch {
		case o.first.lost != 0 && o.first.lost <= o.second.at:
		case w.judge.lost(o.first, o.second), w.judge.lost(o.second, o.first):
			t.excused = append(t.excused, o)
		default:
			o.reigns = w.judge.says(o.first, o.second)
			t.overlaps = append(t.overlaps, o)
		}
	}
	for _, r := range w.disorder {
		if w.judge.lost(r.now, r.before) || w.judge.lost(r.before, r.now) {
			t.beaten = append(t.beaten, r)
		} else {
			r.reigns = w.judge.says(r.before, r.now)
			t.disorder = append(t.disorder, r)
		}
	}
	return t
}

func newWitness() (*witness, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &witness{ln: ln, conns: map[net.Conn]bool{}, keys: map[string]*book{}, judge: newJudge()}
	w.errors = map[string]int{}
	w.work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.conns[c] = true
			w.mu.Unlock()
			w.work.Go(func() { w.serve(c) })
		}
	})
	return w, nil
}

func (w *witness) addr() string { return w.ln.Addr().String() }

func (w *witness) close() {
	w.ln.Close()
	w.mu.Lock()
	for c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.work.Wait()
}

// visitors counts the processes' connections: none is left when all have ended.
func (w *witness) visitors() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

func (w *witness) serve(c net.Conn) {
	inside := map[uint64]*section{} // this connection's, by the number of its visit
	defer func() {
		c.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, c)
		for _, s := range inside {
			s.end = now()
			delete(w.keys[s.key].inside, s)
		}
	}()
	for r := bufio.NewScanner(c); r.Scan(); {
		m, err := parseMessage(r.Text())
		if err != nil {
			w.mu.Lock()
			w.strange = append(w.strange, err.Error())
			w.mu.Unlock()
			return
		}
		if answer := w.hear(m, inside); answer != "" {
			if _, err := fmt.Fprintln(c, answer); err != nil {
				return
			}
		}
	}
}

// hear takes a message in, and returns the answer that the process waits for, if it
// does.
func (w *witness) hear(m message, inside map[uint64]*section) (answer string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := inside[m.Visit]
	switch m.Verb {
	case verbError:
		w.errors[m.Kind]++
		if m.Strange {
			w.strange = append(w.strange, m.Who+": "+m.Text)
		}
	case verbIn:
		s = &section{who: m.Who, key: m.Key, pid: m.PID, token: m.Token, at: m.At, deadline: m.Deadline, ttl: m.TTL, command: m.Command}
		if !w.enter(s) {
			return answerNo
		}
		inside[m.Visit] = s
		w.slowest = max(w.slowest, m.Waited)
		return answerYes
	case verbUntil:
		if s != nil {
			s.deadline = max(s.deadline, m.Deadline)
		}
	case verbLost:
		if s != nil {
			s.lost, s.end = m.At, m.At
			delete(w.keys[s.key].inside, s)
			delete(inside, m.Visit)
		}
	case verbOut:
		if s != nil {
			b := w.keys[s.key]
			if b.sections[len(b.sections)-1] == s {
				b.tidy = true
			}
			s.end = now()
			delete(b.inside, s)
			delete(inside, m.Visit)
		}
		return answerYes
	}
	return ""
}

// holder says who is inside; empty if nobody is.
func (w *witness) holder(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.keys[key]; b != nil {
		for s := range b.inside {
			return s.who
		}
	}
	return ""
}

// enter judges an entry: false if its token is refused. Called with mu held.
func (w *witness) enter(s *section) bool {
	b := w.keys[s.key]
	if b == nil {
		b = &book{inside: map[*section]bool{}, tidy: true}
		w.keys[s.key] = b
	}
	if s.token <= b.top {
		// Who was stopped between its grant and its entry finds that others were here
		// since: the token is for that. Two with the same token are never right.
		last := b.sections[len(b.sections)-1]
		if s.token < b.top && now() >= s.deadline {
			w.late++
		} else {
			s.end = now() // a command knows no deadline, and does nothing any more
			w.disorder = append(w.disorder, refusal{before: last, now: s, left: s.deadline - s.end})
		}
		return false
	}
	for first := range b.inside {
		// The dead hold nothing, though the end of their connection may not have been
		// read yet.
		if first.deadline > s.at && alive(first.pid) {
			w.overlaps = append(w.overlaps, overlap{first: first, second: s, by: first.deadline - s.at})
		}
	}
	w.entries++
	if s.command {
		w.commands++
	}
	if !b.tidy {
		w.takeovers++
	}
	b.top, b.tidy = s.token, false
	b.inside[s] = true
	b.sections = append(b.sections[max(0, len(b.sections)-8):], s)
	return true
}
