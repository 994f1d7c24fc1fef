//go:build linux

package nfslab

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Witness is told by workers when they want, enter and leave what a lock protects. It
// runs on this machine and goes by this machine's monotonic clock, so it depends
// neither on the hosts' clocks nor on the store.
//
// A worker says "in" and waits for the answer after it has acquired, and says "out" and
// waits before it releases. So what the witness takes for its section lies within the
// time for which it held the lock, and two sections that overlap are an overlap of
// holders, if the first worker runs and has not said that it lost the lock. A worker that
// may be stopped, or whose host may be, also says when its lease is over at the latest, as
// of the last heartbeat that it knows of, in terms of [Witness.Now]: every answer has that.
//
// The witness is also the resource that tokens are for: it refuses one that is not greater
// than all that it has seen for the key.
type Witness struct {
	ln    net.Listener
	start time.Time
	work  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]*visitor
	keys  map[string]*book
	tally Tally
}

// write, with a key, a token and the end of the lease, is an entry that is left at once. One
// request does instead of four, which is what a lab whose system calls are slow needs if
// there are to be many.
const write = "write"

// The kinds of events.
const (
	Wants = "wants" // it is about to acquire
	In    = "in"    // it holds
	Out   = "out"   // it is about to release
	Lost  = "lost"  // it has been told that it lost the lock
	Died  = "died"  // it ended, or its host crashed, while it held
	Stood = "stood" // its host has given it no processor for a while, until now
)

// Over: its lease had run out when another entered.
const Over = "over"

// ByCommand ends the names of workers that hasp run has started.
const ByCommand = "-command"

// Event is what a worker said, or what became of it.
type Event struct {
	At     time.Duration // since the witness began
	Kind   string
	Worker string
	Token  uint64
	For    time.Duration // of Stood
	Until  time.Duration // of In: when its lease is over at the latest; 0 if that is not known
}

// Overlap is two workers that held at once.
type Overlap struct {
	First, Second Event // their In events
}

func (o Overlap) String() string {
	return fmt.Sprintf("%s (token %d) was in since %v when %s (token %d) entered, at %v", o.First.Worker, o.First.Token,
		o.First.At.Round(time.Millisecond), o.Second.Worker, o.Second.Token, o.Second.At.Round(time.Millisecond))
}

// Tally is what was counted, of all keys.
type Tally struct {
	Entries  int
	Commands int            // entries of those whose name ends with ByCommand
	EfsLock  int            // entries without a token
	Refused  int            // tokens of those whose lease was over
	Errors   map[string]int // by kind, as workers told
}

// book is what is known of a key.
type book struct {
	events   []Event
	inside   map[*visitor]Event
	overlaps []Overlap
	top      uint64   // the highest token so far
	tokens   []string // those that did not rise
	changed  chan struct{}
}

type visitor struct {
	key, name, addr string
	token           uint64
}

// Witness starts a witness that the lab's hosts can reach.
func (l *Lab) Witness() (*Witness, error) {
	ln, err := l.Listen()
	if err != nil {
		return nil, err
	}
	w := &Witness{ln: ln, start: time.Now(), conns: map[net.Conn]*visitor{}, keys: map[string]*book{}, tally: Tally{Errors: map[string]int{}}}
	for _, h := range l.Clients {
		h.OnCrash(func() { w.gone(h.addr()) })
	}
	w.work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			v := &visitor{}
			v.addr, _, _ = net.SplitHostPort(c.RemoteAddr().String())
			w.mu.Lock()
			w.conns[c] = v
			w.mu.Unlock()
			w.work.Go(func() { w.serve(c, v) })
		}
	})
	return w, nil
}

// Addr is what workers are to be told.
func (w *Witness) Addr() string { return w.ln.Addr().String() }

// Now is the present in the terms of Event.At.
func (w *Witness) Now() time.Duration { return time.Since(w.start) }

// Close ends the witness and its connections.
func (w *Witness) Close() {
	w.ln.Close()
	w.mu.Lock()
	for c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.work.Wait()
}

func (w *Witness) serve(c net.Conn, v *visitor) {
	defer func() {
		c.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, c)
		w.leave(v, Died)
	}()
	r := bufio.NewScanner(c)
	for r.Scan() {
		f := strings.Fields(r.Text())
		w.mu.Lock()
		answer := ""
		if len(f) > 0 {
			answer = w.hear(v, f)
		}
		w.mu.Unlock()
		if answer == "" {
			return
		}
		if _, err := fmt.Fprintln(c, answer, int64(w.Now())); err != nil {
			return
		}
	}
}

const (
	agreed  = "ok"
	refused = "refused"
)

// hear is what a line means, and returns the answer; empty if it means nothing. w.mu is held.
func (w *Witness) hear(v *visitor, f []string) (answer string) {
	switch {
	case f[0] == "hello" && len(f) == 3:
		w.leave(v, Died) // of another key
		v.key, v.name = f[1], f[2]
		return agreed
	case f[0] == "now":
		return agreed
	case v.name == "":
		return ""
	}
	if f[0] == write && len(f) == 4 {
		w.leave(v, Died) // of another key
		v.key = f[1]
		answer := w.enter(v, w.book(v.key), f[2:])
		w.leave(v, Out)
		return answer
	}
	b := w.book(v.key)
	switch {
	case f[0] == Wants:
		w.note(b, Event{Kind: Wants, Worker: v.name})
	case f[0] == In && (len(f) == 2 || len(f) == 3):
		return w.enter(v, b, f[1:])
	case f[0] == "until" && len(f) == 2:
		until, err := strconv.ParseInt(f[1], 10, 64)
		if e, ok := b.inside[v]; ok && err == nil {
			e.Until = time.Duration(until)
			b.inside[v] = e
		}
	case f[0] == Stood && len(f) == 2:
		d, err := time.ParseDuration(f[1])
		if err != nil {
			return ""
		}
		w.note(b, Event{Kind: Stood, Worker: v.name, For: d})
	case f[0] == "error" && len(f) == 2:
		w.tally.Errors[f[1]]++
	case f[0] == Out || f[0] == Lost:
		w.leave(v, f[0])
	default:
		return ""
	}
	return agreed
}

// enter is told a token, 0 for none, and until when its lease lasts.
func (w *Witness) enter(v *visitor, b *book, f []string) (answer string) {
	token, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return ""
	}
	var until int64
	if len(f) == 2 {
		if until, err = strconv.ParseInt(f[1], 10, 64); err != nil {
			return ""
		}
	}
	now := w.Now()
	late := until != 0 && time.Duration(until) <= now
	if token != 0 && token <= b.top {
		if late {
			w.tally.Refused++
			return refused
		}
		b.tokens = append(b.tokens, fmt.Sprintf("%s entered with token %d after token %d", v.name, token, b.top))
		b.top = token // those that follow are judged by it
	}
	b.top = max(b.top, token)
	v.token = token
	e := w.note(b, Event{Kind: In, Worker: v.name, Token: token, Until: time.Duration(until)})
	for first, was := range b.inside {
		switch {
		case was.Until != 0 && was.Until <= e.At: // its lease was over
			w.leave(first, Over)
		case !late:
			b.overlaps = append(b.overlaps, Overlap{was, e})
		}
	}
	b.inside[v] = e
	w.tally.Entries++
	if token == 0 {
		w.tally.EfsLock++
	}
	if strings.HasSuffix(v.name, ByCommand) {
		w.tally.Commands++
	}
	return agreed
}

// Tally returns what was counted until now.
func (w *Witness) Tally() Tally {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tally
	t.Errors = maps.Clone(t.Errors)
	return t
}

// Keys returns the keys that were spoken of.
func (w *Witness) Keys() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.keys))
}

func (w *Witness) book(key string) *book {
	b := w.keys[key]
	if b == nil {
		b = &book{inside: map[*visitor]Event{}, changed: make(chan struct{})}
		w.keys[key] = b
	}
	return b
}

func (w *Witness) note(b *book, e Event) Event {
	e.At = w.Now()
	b.events = append(b.events, e)
	close(b.changed)
	b.changed = make(chan struct{})
	return e
}

func (w *Witness) leave(v *visitor, kind string) {
	if b := w.keys[v.key]; b != nil {
		if _, ok := b.inside[v]; ok {
			delete(b.inside, v)
			w.note(b, Event{Kind: kind, Worker: v.name, Token: v.token})
		}
	}
}

// gone is told that the host with that address has crashed.
func (w *Witness) gone(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, v := range w.conns {
		if v.addr == addr {
			w.leave(v, Died)
			c.Close()
		}
	}
}

// Events returns what happened to key.
func (w *Witness) Events(key string) []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Event(nil), w.book(key).events...)
}

// Faults returns the overlaps of key, and the tokens that did not rise.
func (w *Witness) Faults(key string) ([]Overlap, []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.book(key)
	return append([]Overlap(nil), b.overlaps...), append([]string(nil), b.tokens...)
}

// Await waits until an event of key satisfies ok, and returns it; false if that takes
// longer than limit.
func (w *Witness) Await(key string, limit time.Duration, ok func(Event) bool) (Event, bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for seen := 0; ; {
		w.mu.Lock()
		b := w.book(key)
		events, changed := b.events[seen:], b.changed
		seen = len(b.events)
		w.mu.Unlock()
		for _, e := range events {
			if ok(e) {
				return e, true
			}
		}
		select {
		case <-changed:
		case <-timer.C:
			return Event{}, false
		}
	}
}
