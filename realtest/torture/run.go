package torture

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/redistest"
)

const (
	ttl       = 3 * time.Second
	commands  = 3 // of the processes are hasp run
	processes = 12
	keys      = 4
	// leaving is how long processes may take to end when they are asked to, and what
	// they leave to go: longer than anything that a server keeps for the dead.
	leaving = 75 * time.Second
)

func keyName(i int) string { return fmt.Sprintf("torture-%d", i) }

// options of a run.
type options struct {
	spell   time.Duration // of faults
	seed    uint64
	flaw    flaw
	hasp    string // the command's path; empty for API processes alone
	weights []weight
	waits   func() // called once all that is left to do is to wait
	shallow bool   // what the processes leave behind is not asked
}

// result is what a run has come to.
type result struct {
	store  string
	spell  time.Duration
	seed   uint64
	faults map[kind]int
	tally
	worst  [2]time.Duration // to acquire a key after the faults: beside the others, and alone
	rebels int              // what primaries have acknowledged that had a successor
	slow   []string         // keys that took too long, or could not be had
	left   []string
}

// torturer does faults, all of them from one goroutine, the test's.
type torturer struct {
	tb      testing.TB
	s       *store
	w       *witness
	slots   []*slot
	done    map[kind]int
	begun   time.Time
	ends    []end
	downs   int  // servers that are not well
	calm    bool // connections are left alone
	stopped map[*slot]bool
	busy    map[*redistest.Proxy]bool
	owed    []fault // the first of their kinds, which could not be done yet
	history []string
	journal *journal // nil if there are no sentinels
}

// end is the end of a fault.
type end struct {
	at time.Time
	do func()
}

func run(tb testing.TB, s *store, o options) result {
	tb.Helper()
	w, err := newWitness()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.close)
	t := &torturer{tb: tb, s: s, w: w, done: map[kind]int{}, stopped: map[*slot]bool{}, busy: map[*redistest.Proxy]bool{}}
	if s.group != nil {
		t.journal = newJournal(tb, w.judge, s.group.Nodes)
		t.journal.sync()
	}
	t.fill(o)
	tb.Cleanup(func() { // if the test ends early
		for _, sl := range t.slots {
			sl.close()
			sl.kill(0)
			<-sl.finished
		}
	})
	t.work(o)
	s.healthy()
	r := result{store: s.name, spell: o.spell, seed: o.seed, faults: t.done}
	p := &prober{tb: tb, s: s, w: w, r: &r}
	p.open()
	p.all(&r.worst[0], "beside the others")
	t.empty()
	p.all(&r.worst[1], "alone")
	p.close()
	if o.waits != nil {
		o.waits()
	}
	if !o.shallow {
		r.left = t.leftovers()
	}
	if t.journal != nil {
		t.journal.sync()
		r.rebels = t.journal.rebels()
	}
	r.tally = w.count()
	if tb.Failed() || r.wrong() != "" {
		tb.Log(t.lately())
	}
	return r
}

// lately says what was done last.
func (t *torturer) lately() string {
	return "the last faults:\n" + strings.Join(t.history[max(0, len(t.history)-40):], "\n")
}

// fill starts the processes.
func (t *torturer) fill(o options) {
	var names []string
	for i := range keys {
		names = append(names, keyName(i))
	}
	n := commands
	if o.hasp == "" {
		n = 0
	}
	for i := range processes {
		sl := &slot{
			rng: rand.New(rand.NewPCG(o.seed, uint64(i+1))),
			job: job{Witness: t.w.addr(), URL: t.s.urls[i%len(t.s.urls)], Keys: names, TTL: ttl, Flaw: o.flaw},
			report: func(kind, strange string) {
				t.w.hear(message{Verb: verbError, Kind: cmp.Or(kind, "other"), Text: strange, Strange: strange != ""}, nil)
			},
		}
		switch {
		case i < n:
			sl.hasp = o.hasp
			sl.job.Who = fmt.Sprintf("command-%d", i)
		default:
			sl.job.Who = fmt.Sprintf("process-%d", i)
			if i%5 == 0 || i%4 == 0 && t.s.group != nil { // who learns late that a failover has lost its lock
				sl.job.TTL = t.s.long
			}
		}
		sl.job.Long = i%4 == 0
		t.slots = append(t.slots, sl)
		sl.start()
	}
}

// work does faults for a spell, and ends them all.
func (t *torturer) work(o options) {
	t.begun = time.Now()
	over := t.begun.Add(o.spell)
	fs := newFaults(o.seed, o.weights)
	f := fs.next()
	due := t.begun.Add(f.after)
	for due.Before(over) {
		t.wait(due)
		t.owed = slices.DeleteFunc(t.owed, t.try)
		if !t.try(f) && t.done[f.kind] == 0 && !slices.ContainsFunc(t.owed, func(o fault) bool { return o.kind == f.kind }) {
			t.owed = append(t.owed, f)
		}
		f = fs.next()
		due = due.Add(f.after)
	}
	t.wait(over)
	ends := t.ends
	t.ends = nil
	for _, e := range ends {
		e.do()
	}
	for len(t.ends) > 0 { // some go on in steps
		t.wait(slices.MinFunc(t.ends, func(a, b end) int { return a.at.Compare(b.at) }).at)
	}
}

// wait waits, and meanwhile ends the faults that are over.
func (t *torturer) wait(until time.Time) {
	for {
		first := -1
		for i, e := range t.ends {
			if !e.at.After(until) && (first < 0 || e.at.Before(t.ends[first].at)) {
				first = i
			}
		}
		if first < 0 {
			time.Sleep(time.Until(until))
			return
		}
		e := t.ends[first]
		t.ends = append(t.ends[:first], t.ends[first+1:]...)
		time.Sleep(time.Until(e.at))
		e.do()
	}
}

// later has a fault end.
func (t *torturer) later(spell time.Duration, do func()) {
	t.ends = append(t.ends, end{time.Now().Add(spell), do})
}

// try does a fault and notes it, if it can be done now.
func (t *torturer) try(f fault) bool {
	if !t.do(f) {
		return false
	}
	t.done[f.kind]++
	t.history = append(t.history, fmt.Sprintf("%v: %s", time.Since(t.begun).Round(time.Millisecond), f))
	return true
}

// do does a fault, unless what it is for has one already.
func (t *torturer) do(f fault) bool {
	sl := t.slots[f.which%len(t.slots)]
	if first := f.which / len(t.slots) % (2 * keys); first < keys {
		// of every other, one that holds a key
		for i := range keys {
			who := t.w.holder(keyName((first + i) % keys))
			if n := slices.IndexFunc(t.slots, func(sl *slot) bool { return sl.job.Who == who }); n >= 0 {
				sl = t.slots[n]
				break
			}
		}
	}
	srv := t.s.servers[f.which%len(t.s.servers)]
	link := t.s.links[f.which%len(t.s.links)]
	switch f.kind {
	case killProcess:
		return sl.kill(f.spell)
	case stopProcess, stallBriefly:
		if t.stopped[sl] || len(t.stopped) >= processes/3 { // the others have to go on
			return false
		}
		p := sl.signal(syscall.SIGSTOP)
		if p == nil {
			return false
		}
		t.stopped[sl] = true
		t.later(f.spell, func() {
			delete(t.stopped, sl)
			_ = p.Signal(syscall.SIGCONT) // it may have been killed
		})
		return true
	case killServer:
		return t.server(f.spell, srv.kill, srv.restart)
	case stopServer:
		return t.server(min(f.spell, srv.longestStop), srv.stop, srv.resume)
	case cutServer:
		return srv.cut != nil && t.server(f.spell, srv.cut, srv.mend)
	case moveSlot:
		return t.s.move != nil && t.move(f)
	case failOver, stopPrimary, killPrimary, cutPrimary:
		return t.s.group != nil && t.changePrimary(f)
	case dropConns:
		return t.link(link, 0, (*redistest.Proxy).Drop, func(*redistest.Proxy) {})
	case holdConns:
		return t.link(link, f.spell, (*redistest.Proxy).Cut, (*redistest.Proxy).Heal)
	case delayConns:
		by := 1 + time.Duration(f.which%100)*time.Millisecond
		return t.link(link, f.spell, func(p *redistest.Proxy) { p.Delay(by) }, func(p *redistest.Proxy) { p.Delay(0) })
	}
	t.tb.Fatalf("there is no fault %q", f.kind)
	return false
}

// server does something to a server: to one at a time, so that a majority is well.
func (t *torturer) server(spell time.Duration, begin, finish func()) bool {
	if t.downs > 0 {
		return false
	}
	t.downs++
	begin()
	t.later(spell, func() { finish(); t.downs-- })
	return true
}

// move moves the slot of a lock to another server while none is down, once all serve: first
// one key of the lock after the other, in any order, so that the lock and its queue are
// apart for a while.
func (t *torturer) move(f fault) bool {
	if t.downs > 0 {
		return false
	}
	t.downs++
	lock := "hasp:{" + keyName(f.which%keys) + "}"
	names := []string{lock, lock + ":queue", lock + ":turn"}
	first := f.which / keys % len(names)
	t.poll("a cluster that serves", func() bool {
		m := t.s.move(lock)
		if m == nil {
			return false
		}
		for i := range names {
			name := names[(first+i)%len(names)]
			t.later(f.spell*time.Duration(i+1)/time.Duration(len(names)+1), func() { m.key(name) })
		}
		t.later(f.spell, func() { m.finish(); t.downs-- })
		return true
	})
	return true
}

func (t *torturer) link(ps []*redistest.Proxy, spell time.Duration, begin, finish func(*redistest.Proxy)) bool {
	if t.calm || slices.ContainsFunc(ps, func(p *redistest.Proxy) bool { return t.busy[p] }) {
		return false
	}
	for _, p := range ps {
		t.busy[p] = true
		begin(p)
	}
	t.later(spell, func() {
		for _, p := range ps {
			finish(p)
			delete(t.busy, p)
		}
	})
	return true
}

// empty has the processes end.
func (t *torturer) empty() {
	for _, sl := range t.slots {
		sl.close()
	}
	late := time.After(leaving)
	for _, sl := range t.slots {
		select {
		case <-sl.finished:
		case <-late:
			t.tb.Errorf("%s has not ended %v after it was asked to", sl.job.Who, leaving)
			sl.kill(0)
			<-sl.finished
		}
	}
}

// leftovers is what is left in the end: no process, connection, queue entry or lease
// should be.
func (t *torturer) leftovers() []string {
	for late := time.Now().Add(leaving); ; time.Sleep(100 * time.Millisecond) {
		left := t.s.left()
		if n := t.w.visitors(); n > 0 {
			left = append(left, fmt.Sprintf("%d processes", n))
		}
		if len(left) == 0 || time.Now().After(late) {
			return left
		}
	}
}

// buildHasp builds the command.
func buildHasp(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", ".", "./hasp-etcd")
	cmd.Dir = filepath.Join("..", "..", "cmd", "hasp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build hasp: %v\n%s", err, out)
	}
	return filepath.Join(dir, "hasp")
}
