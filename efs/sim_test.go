//go:build unix

package efs

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/guard"
	"github.com/hasplock/hasp/efs/internal/simfs"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

// A world is one history: processes on hosts, the file system in memory, and a scheduler
// that lets one request after another be carried out, late, twice, or although its
// answer is an error. All that is random comes of the seed, and all time is virtual, so
// a history can be repeated.
type world struct {
	seed    uint64
	rng     *rand.Rand
	start   time.Time
	server  *simfs.Server
	hosts   []*simfs.Host
	procs   []*proc
	late    []lateRequest
	variant *variant
	tracing bool
	log     strings.Builder

	ttl, timeout time.Duration
	lockFile     LockFile
	faults       int // requests of 1000 that something happens to
	lateness     int // of how many steps one carries out a late request
	off, tick    time.Duration
	drift        int64
	focus        func(*simfs.Request) bool // requests that much happens to
	hands        bool                      // a person has removed the guard
	carried      bool                      // a move down that was under way then has met a lock file, which rests in the guard's place
	righted      time.Time                 // when the server's clock, which was wrong, was put right
	ended        bool                      // faults have
	steps        int

	removals bool
	seals    bool // the operator seals and unseals
	sealed   bool // it is, as a Seal has said, and nobody has begun to unseal it
	values   bool // holders set values, and all read them
	value    backend.Value
	never    *marks[string] // values of which was said that they are not set

	strangers bool // put things of their own where the lock is
	things    []*thing
	spoiled   *spoiled // the value's file that a stranger has spoiled, if any
	mended    time.Time
	// removedState is when somebody last removed the state directory.
	removedState time.Time
	lower        bool      // the guard came with an image, and cannot be moved
	noBaton      bool      // a stranger has removed it
	maimed       bool      // a stranger has taken a guard's entry
	refusals     bool      // requests are refused for good, and contexts end
	refusing     time.Time // until then, with
	refusal      syscall.Errno
	clocks       clockKind
	coarse       bool // file times advance in seconds

	tokens  uint64 // the greatest that was granted
	broken  *marks[uint64]
	refused *marks[string]         // claims that were told that they hold nothing
	last    uint64                 // the greatest generation that any baton had
	failure atomic.Pointer[string] // the first, told by whichever goroutine found it
	litter  []string               // names that the dead have left
}

// marks are a set. Two processes that sleep in the code under test may wake at once.
type marks[K comparable] struct {
	mu  sync.Mutex
	set map[K]bool
}

func (m *marks[K]) mark(k K, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set == nil {
		m.set = map[K]bool{}
	}
	m.set[k] = on
}

func (m *marks[K]) has(k K) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set[k]
}

type lateRequest struct {
	who   string
	req   *simfs.Request
	apply func() error
}

// A proc is a process, or the operator. Another takes its place when it has died.
type proc struct {
	w      *world
	name   string
	host   *simfs.Host
	client *simfs.Client
	rng    *rand.Rand
	kind   procKind
	run    func(*proc)

	slot  atomic.Pointer[slot] // also set by who wakes up by itself
	reply chan error
	dead  bool // this life of it
	done  atomic.Bool

	// of hasp's: what it believes
	in       bool
	deadline time.Time
	beat     time.Time // its last sign of life
	token    uint64
	set      uint64 // values that it has set
	twice    bool   // a request was carried out twice, and the second time it failed
	exposed  bool   // a person has removed the guard during this round
	claims   int
	// of EfsLock's
	ticket *ticket
	user   int // who it runs as
}

type procKind int

const (
	haspProc procKind = iota
	efsLockProc
	operatorProc
	strangerProc
)

// A ticket is one EfsLock process's file.
type ticket struct {
	p      *proc
	since  time.Time
	in     bool
	robbed bool // by one of its own kind, or by a person
	ended  bool
}

func (t *ticket) protected(now time.Time) bool {
	return t != nil && !t.ended && !t.robbed && now.Sub(t.since) < t.p.w.timeout
}

// A slot is a request that waits for the scheduler; req is nil for a sleep.
type slot struct {
	req       *simfs.Request
	notBefore time.Time
	stage     stage
	again     bool
	answer    error
}

type stage int

const (
	fresh stage = iota
	sent
	answered
)

var errCrash = errors.New("crash")

type crashed struct{}

func (p *proc) ask(s *slot) error {
	if p.dead {
		return syscall.EIO
	}
	p.slot.Store(s)
	err := <-p.reply
	if err == errCrash {
		p.dead = true
		panic(crashed{})
	}
	return err
}

func (p *proc) sleep(d time.Duration) {
	_ = p.ask(&slot{notBefore: time.Now().Add(d)})
}

// live runs one life of the process; it tells whether it died.
func (p *proc) live() (died bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crashed); !ok {
				panic(r)
			}
			p.in = false
			if p.ticket != nil {
				p.ticket.ended = true
			}
			died = true
		}
	}()
	p.dead = false
	p.exposed = false
	p.client = &simfs.Client{Host: p.host, Who: p, User: p.user}
	p.client.Do = func(r *simfs.Request) error { return p.ask(&slot{req: r}) }
	p.run(p)
	return false
}

func (p *proc) main() {
	for range 4 {
		if !p.live() || p.w.ended {
			break
		}
		p.dead = false
		func() { // the next one starts some time later
			defer func() { _ = recover() }()
			p.sleep(time.Duration(p.rng.Int64N(int64(p.w.ttl))))
		}()
	}
	p.done.Store(true)
}

func (w *world) spawn(name string, kind procKind, host *simfs.Host, run func(*proc)) *proc {
	p := &proc{w: w, name: name, kind: kind, host: host, run: run, reply: make(chan error), rng: rand.New(rand.NewPCG(w.seed, uint64(len(w.procs)+1)))}
	if w.strangers { // they share what they make, but for those whose umask is 077
		p.user = []int{2 * p.rng.IntN(2), p.rng.IntN(3) / 2, 0, 3 * p.rng.IntN(2)}[kind]
	}
	w.procs = append(w.procs, p)
	go p.main()
	return p
}

// backend opens the lock for p.
func (p *proc) backend() *Backend {
	w := p.w
	b := &Backend{places: map[string]*place{}, dir: "/r", fs: p.client, dev: 1, poll: 50 * time.Millisecond, operatorTTL: crashOperatorTTL}
	b.lru.prev, b.lru.next = &b.lru, &b.lru
	b.mount.Type = "nfs4"
	b.opts = Options{LockFile: w.lockFile, LegacyTimeout: w.timeout}
	o := guard.Options{Timeout: w.timeout, Network: !w.variant.has("believe ENOENT")}
	b.files.Store(true)
	if p.rng.IntN(2) == 0 {
		b.clock.Trust()
	}
	switch w.lockFile {
	case File:
		b.guard = guard.File{Options: o, UseLink: &b.files}
	case NoLockFile:
		b.guard = guard.None{}
	default:
		b.guard = guard.Directory{Options: o}
	}
	if w.seed >= withStrangers {
		w.setUp(b, o)
	}
	w.variant.apply(b)
	return b
}

// newWorld draws what is possible in the history of a seed.
func newWorld(seed uint64, v *variant) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), start: time.Now(), variant: v, broken: &marks[uint64]{}, refused: &marks[string]{}, never: &marks[string]{}}
	w.values, w.seals, w.removals = seed&withValues != 0, seed&withSeals != 0, seed&withRemovals != 0
	r := w.rng
	w.ttl = []time.Duration{200 * time.Millisecond, time.Second, 10 * time.Second}[r.IntN(3)]
	w.timeout = w.ttl * time.Duration(1+r.IntN(4))
	switch r.IntN(10) {
	case 0:
		w.lockFile = NoLockFile
	case 1:
		w.lockFile = File
	}
	if w.seals || w.removals { // without a guard nothing tells of a holder whose state was removed
		w.lockFile = Directory
	}
	w.faults = []int{0, 10, 30, 100}[r.IntN(4)]
	w.lateness = []int{5, 20, 100}[r.IntN(3)]
	w.focus = focuses[r.IntN(len(focuses))]
	w.tick = []time.Duration{1, time.Microsecond, 4 * time.Millisecond}[r.IntN(3)]
	w.off = []time.Duration{0, 0, 0, time.Hour, -time.Hour}[r.IntN(5)]
	w.drift = r.Int64N(5) - 2 // parts of 4000
	w.server = simfs.NewServer(w.now, func(n int) bool { return w.rng.IntN(n) == 0 })
	w.server.Moved, w.server.Removed = w.moved, w.removed
	if seed >= withStrangers {
		w.drawMore()
	}
	w.hosts = []*simfs.Host{simfs.NewHost(w.server), simfs.NewHost(w.server), simfs.NewHost(w.server)}
	return w
}

// In histories with these bits in their seed values are set and read, and locks are sealed
// and unsealed. The others have to stay what they are, for the sake of those that went
// wrong once.
const (
	withValues = 1 << 32
	withSeals  = 1 << 33
	// withRemovals: a person removes the state directory.
	withRemovals = 1 << 34
	// withStrangers: people and programs put things of their own where the lock is.
	withStrangers = 1 << 35
	// withLocal: on a host's own file system.
	withLocal = 1 << 36
	// withRefusals: the server refuses requests, and the contexts of calls end.
	withRefusals = 1 << 37
	// withClocks: file times are coarse, or not to be believed, and state directories old.
	withClocks = 1 << 38
)

var focuses = []func(*simfs.Request) bool{
	func(r *simfs.Request) bool { return false },
	func(r *simfs.Request) bool { return r.To == lockPath },
	func(r *simfs.Request) bool { return r.Op == "rename" && r.Path == lockPath },
	func(r *simfs.Request) bool { return r.Op == "rename" && strings.HasPrefix(r.Path, stateDir+"/0") },
	func(r *simfs.Request) bool { return strings.Contains(r.Path, "/rest.") },
}

// now is the server's clock.
func (w *world) now() time.Time {
	passed := time.Since(w.start)
	return w.start.Add(w.off + passed + passed*time.Duration(w.drift)/4000).Truncate(w.tick)
}

// trace writes a line of the history, if it is wanted.
func (w *world) trace(format string, args ...any) {
	fmt.Fprintf(&w.log, "%12v ", time.Since(w.start))
	fmt.Fprintf(&w.log, format+"\n", args...)
}

func (w *world) note(format string, args ...any) {
	if w.tracing {
		w.trace(format, args...)
	}
}

// tell writes what became of a request.
func (w *world) tell(who string, r *simfs.Request, what string, err error) {
	if !w.tracing {
		return
	}
	to := r.Path
	if r.To != "" {
		to += " -> " + r.To
	}
	if err != nil {
		what = strings.TrimSpace(fmt.Sprintf("%v %s", err, what))
	}
	w.trace("%-8s %s %s: %s", who, r.Op, to, cmp.Or(what, "done"))
}

func (w *world) fail(format string, args ...any) {
	failure := fmt.Sprintf("after %v: %s", time.Since(w.start), fmt.Sprintf(format, args...))
	if w.failure.CompareAndSwap(nil, &failure) {
		w.note("FAILED %s", failure)
	}
}

func (w *world) failed() string {
	if f := w.failure.Load(); f != nil {
		return *f
	}
	return ""
}

// moved and removed look at what was done on the server.
func (w *world) moved(c *simfs.Client, n *simfs.Node, from, to string) {
	if strings.HasPrefix(to, stateDir+"/") {
		if b, ok := statedir.Parse(to[len(stateDir)+1:]); ok {
			if b.State == statedir.Held && w.refused.has(b.Claim) {
				w.fail("claim %s got the lock after it was told that it has not", b.Claim)
			}
			if b.Gen < w.last {
				w.fail("the generation fell from %d to %d", w.last, b.Gen)
			}
			w.last = max(w.last, b.Gen)
		}
	}
	by, _ := c.Who.(*proc)
	t, ok := n.Tag.(*ticket)
	if from != lockPath || !ok || by == nil || !t.protected(time.Now()) {
		return
	}
	switch {
	case strings.HasSuffix(to, "/guard") && w.hands:
		t.robbed, w.carried = true, true
	case by.kind == operatorProc, w.righted.After(t.since):
		t.robbed = true
	case strings.HasSuffix(to, "/guard"):
		w.fail("%s carried off the live file of %s", by.name, t.p.name)
	}
}

func (w *world) removed(c *simfs.Client, n *simfs.Node, path string) {
	if th, ok := n.Tag.(*thing); ok {
		th.gone(w, n, c, "removed", path)
		return
	}
	if w.lower && path == lockPath+"/"+guard.Entry { // it cannot be moved, and its remover may die now
		w.halved(madeBy(c.Who), lockPath)
	}
	t, ok := n.Tag.(*ticket)
	if !ok {
		return
	}
	by := madeBy(c.Who)
	switch {
	case by.kind != haspProc, w.righted.After(t.since):
		t.robbed = true // by a removal of its own, too, that was late
	case n.Links() == 0 && t.protected(time.Now()) && w.lockFile == Directory:
		w.fail("%s removed the live file of %s at %s", by.name, t.p.name, path)
	}
}

// madeBy is whose requests a client's are.
func madeBy(who any) *proc {
	switch who := who.(type) {
	case *ticket:
		return who.p
	case *thing:
		return who.p
	case *proc:
		return who
	}
	return nil
}

// misjudged tells whether the server's clock was wrong when p gave its last sign of life,
// and has been put right since. Nothing tells that to a process that comes new to the
// lock; PROTOCOL.md has it.
func (p *proc) misjudged() bool { return p.w.righted.After(p.beat) }

const (
	lockPath = "/r/lock"
	stateDir = "/r/.lock.hasp"
	simKey   = "lock"
)

// check looks for two that are in.
func (w *world) check() {
	now := time.Now()
	var holder *proc
	for _, p := range w.procs {
		if p.kind != haspProc || !p.in || !now.Before(p.deadline) || w.broken.has(p.token) {
			continue
		}
		if holder != nil && !(w.hands && w.removals) && !holder.misjudged() && !p.misjudged() {
			w.fail("%s (token %d, until %v) and %s (token %d, until %v) both hold the lock", holder.name, holder.token, holder.deadline.Sub(w.start), p.name, p.token, p.deadline.Sub(w.start))
		}
		holder = p
	}
	if holder == nil || w.lockFile != Directory || holder.exposed || holder.misjudged() || w.carried {
		return
	}
	for _, p := range w.procs {
		if p.kind == efsLockProc && p.ticket.protected(now) && p.ticket.in {
			w.fail("%s (token %d) holds the lock, and %s is in", holder.name, holder.token, p.name)
		}
	}
}

// schedule runs until all processes are done, or steps are used up.
func (w *world) schedule(steps int) {
	for ; steps > 0 && w.failed() == ""; steps-- {
		synctest.Wait()
		w.check()
		now := time.Now()
		var ready []*proc
		var next time.Time
		busy, inside := false, false
		for _, p := range w.procs {
			if p.done.Load() {
				continue
			}
			busy = true
			s := p.slot.Load()
			switch {
			case s == nil:
				inside = true
			case !s.notBefore.After(now):
				ready = append(ready, p)
			case next.IsZero() || s.notBefore.Before(next):
				next = s.notBefore
			}
		}
		switch {
		case !busy:
			return
		case len(w.late) > 0 && w.rng.IntN(w.lateness) == 0:
			i := w.rng.IntN(len(w.late))
			l := w.late[i]
			w.late = append(w.late[:i:i], w.late[i+1:]...)
			err := l.apply()
			w.tell(l.who, l.req, "LATE", err)
		case len(ready) > 0:
			w.step(ready[w.rng.IntN(len(ready))])
		case inside:
			time.Sleep(time.Millisecond + time.Duration(w.rng.Int64N(1000)))
		default:
			time.Sleep(next.Sub(now))
		}
		if w.rng.IntN(3) == 0 {
			time.Sleep(time.Duration(1 + w.rng.Int64N(int64(time.Millisecond))))
		}
		w.steps++
	}
}

func (w *world) answer(p *proc, err error) {
	p.slot.Store(nil)
	p.reply <- err
}

// step carries one request on.
func (w *world) step(p *proc) {
	s := p.slot.Load()
	if s.req == nil {
		w.answer(p, nil)
		return
	}
	r := s.req
	if s.stage == fresh {
		if err := r.Resolve(); err != nil {
			w.tell(p.name, r, "from memory", err)
			w.answer(p, err)
			return
		}
		s.stage = sent
		if !w.ended && w.hit(p, s) {
			return
		}
	}
	if s.stage == sent {
		s.answer = r.Apply()
		w.tell(p.name, r, "", s.answer)
		if s.again {
			s.again = false
			s.notBefore = time.Now().Add(w.pause())
			return
		}
		s.stage = answered
		if !w.ended && w.rng.IntN(2000) < w.faults { // the answer is late
			s.notBefore = time.Now().Add(w.pause())
			return
		}
	}
	w.answer(p, s.answer)
}

// pause is for how long something is late: mostly for a moment.
func (w *world) pause() time.Duration {
	d := int64(w.ttl)
	switch w.rng.IntN(4) {
	case 0:
		d = d * 5 / 2
	case 1:
		d /= 10
	case 2:
		d = int64(5 * time.Millisecond)
	}
	return time.Duration(w.rng.Int64N(d))
}

// hit does something to a request that is about to be carried out. It tells whether it
// has been dealt with.
func (w *world) hit(p *proc, s *slot) bool {
	r := s.req
	if p.kind == efsLockProc && r.Op == "remove" && w.rng.IntN(6) == 0 {
		s.notBefore = time.Now().Add(time.Duration(w.rng.Int64N(int64(w.timeout) * 3 / 2)))
		w.tell(p.name, r, "is slow", nil)
		return true
	}
	if w.refusals && w.refuse(p, s) {
		return true
	}
	if w.rng.IntN(1000) >= w.faults && (!w.focus(r) || w.rng.IntN(4) > 0) {
		return false
	}
	if w.server.Local != nil {
		return w.hitLocal(p, s)
	}
	lose := func() { // it is carried out, or not, or late
		switch k := w.rng.IntN(3); {
		case k == 0:
			err := r.Apply()
			w.tell(p.name, r, "(the answer is lost)", err)
		case k == 1 && r.Changes:
			w.late = append(w.late, lateRequest{p.name, r, r.Apply})
			w.tell(p.name, r, "is under way", nil)
		default:
			w.tell(p.name, r, "is lost", nil)
		}
	}
	switch w.rng.IntN(8) {
	case 0, 1:
		s.notBefore = time.Now().Add(w.pause())
		w.tell(p.name, r, "is slow", nil)
	case 2, 3:
		if !r.Changes {
			return false
		}
		s.again, p.twice = true, true
		w.tell(p.name, r, "is to be carried out twice", nil)
		return false
	case 4, 5, 6:
		lose()
		s.stage, s.answer = answered, []error{syscall.EIO, syscall.ETIMEDOUT}[w.rng.IntN(2)]
		if w.rng.IntN(2) == 0 {
			s.notBefore = time.Now().Add(w.pause())
			return true
		}
		w.answer(p, s.answer)
	default:
		lose()
		w.note("%-8s dies", p.name)
		w.answer(p, errCrash)
	}
	return true
}

// history runs the history of a seed, and returns what is wrong with it, or "".
func history(t *testing.T, seed uint64, v *variant, trace bool) (failure, log string) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed, v)
		w.tracing = trace
		w.play()
		failure, log = w.failed(), w.log.String()
	})
	return failure, log
}

// end makes all processes die.
func (w *world) end() {
	w.ended = true
	for {
		synctest.Wait()
		busy := false
		for _, p := range w.procs {
			if p.done.Load() {
				continue
			}
			busy = true
			if p.slot.Load() != nil {
				w.answer(p, errCrash)
			}
		}
		if !busy {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) play() {
	r := w.rng
	w.note("ttl %v, timeout %v, lock file %v, faults %d, server %v off, tick %v", w.ttl, w.timeout, w.lockFile, w.faults, w.off, w.tick)
	if r.IntN(4) == 0 {
		w.server.WriteOld(lockPath, fmt.Sprintf("%d.0\n1\nold\nLinux\n", w.start.Unix()-1e6), w.now().Add(-time.Duration(r.Int64N(int64(2*w.timeout)))))
	}
	procs := 2 + r.IntN(2)
	if w.seed >= withStrangers {
		procs = w.begin(procs)
	}
	for i := range procs {
		w.spawn(fmt.Sprint("hasp", i), haspProc, w.hosts[r.IntN(len(w.hosts))], runHasp)
	}
	for i := range r.IntN(3) {
		w.spawn(fmt.Sprint("efslock", i), efsLockProc, w.hosts[r.IntN(len(w.hosts))], runEfsLock)
	}
	if r.IntN(3) == 0 || w.seals || w.removals {
		w.spawn("operator", operatorProc, w.hosts[r.IntN(len(w.hosts))], runOperator)
	}
	if w.strangers {
		w.spawn("stranger", strangerProc, w.hosts[r.IntN(len(w.hosts))], runStranger)
	}
	steps := 1500
	if w.coarse { // a step of times is waited for by asking again and again
		steps = 8000
	}
	w.schedule(steps)
	w.end()
	if w.failed() != "" {
		return
	}
	for _, l := range w.late { // what is under way arrives, or never will
		if r.IntN(2) == 0 {
			err := l.apply()
			w.tell(l.who, l.req, "LATE", err)
		}
	}
	w.late = nil
	w.intact()
	w.takeAway()
	w.aftermath()
}

// last acquires the lock when nothing fails any more.
func (p *proc) last(b *Backend, begun time.Time) backend.Grant {
	for time.Since(begun) < 30*p.w.ttl+time.Minute {
		g, err := b.Acquire(ctxBG, simKey, p.claim())
		if err == nil {
			return g
		}
		p.w.note("last     acquire: %v", err)
		if len(p.w.things) > 0 && errors.Is(err, backend.ErrCorrupt) { // what was aside is back
			p.w.intact()
			p.w.takeAway()
		}
		var held *backend.HeldError
		if errors.As(err, &held) {
			p.sleep(min(held.RetryAfter, 50*time.Millisecond) + 1)
		} else {
			p.sleep(10 * time.Millisecond)
		}
	}
	return backend.Grant{}
}

// aftermath: when all have died and nothing fails any more, a new process gets the lock
// soon, and leaves nothing but the lock's state.
func (w *world) aftermath() {
	w.procs = nil
	if w.tooShort() { // nobody gets it
		return
	}
	begun := time.Now()
	took := time.Duration(-1)
	// The second time it has to settle everything anew, and to sweep.
	w.spawn("last", haspProc, w.hosts[w.rng.IntN(len(w.hosts))], func(p *proc) {
		b := p.backend()
		for w.seals && !p.unseal(b) && time.Since(begun) < time.Minute {
			if _, now := w.baton(); w.removals && now.State != statedir.Sealed { // its state was removed
				break
			}
			p.sleep(50 * time.Millisecond)
		}
		g := p.last(b, begun)
		if g.Token == 0 {
			return
		}
		took = time.Since(begun)
		if ok, err := letBatonGo(b, g); !ok || err != nil {
			w.fail("free in the aftermath: %v, %v", ok, err)
		}
		if g = p.last(b, time.Now()); g.Token == 0 {
			w.fail("no second lock in the aftermath")
			return
		}
		if w.values {
			p.read(b)
		}
		if err := b.Release(ctxBG, g); err != nil {
			w.fail("release in the aftermath: %v", err)
		}
	})
	w.schedule(1 << 20)
	w.end()
	if w.failed() != "" {
		return
	}
	limit := 2*w.ttl + w.timeout + crashOperatorTTL + time.Second
	if w.seals {
		limit += crashOperatorTTL
	}
	if w.strangers { // a live file may have been aside
		limit += w.timeout + w.ttl
	}
	if w.coarse {
		limit += 10 * w.tick
	}
	if w.tick >= time.Millisecond { // a time that is whole by chance makes steps of 2 s of these
		limit += 2 * time.Second
	}
	if w.removals { // a guard whose state was removed has to be seen to stand
		limit += w.ttl
	}
	if took < 0 || took > limit {
		w.fail("in the aftermath the lock was not had for %v (it took %v)", limit, took)
		return
	}
	var batons, guards int
	var rest, values []string
	value := ""
	for _, path := range w.server.Tree("/r") {
		name := strings.TrimPrefix(path, stateDir+"/")
		b, ok := statedir.Parse(name)
		switch {
		case ok && b.State != statedir.Held:
			batons++
			value = b.Value
		case strings.HasPrefix(name, ".values/"):
			values = append(values, name[len(".values/"):])
		case strings.HasSuffix(name, "/guard"):
			// One that a holder of a removed state has made in the new one goes when tokens have
			// passed its own, which the server's clock may have made a great one.
			epoch, _ := statedir.ParseRest(strings.TrimSuffix(name, "/guard"))
			if _, now := w.baton(); !w.removals || epoch <= now.LastToken() {
				guards++
			}
		default:
			if _, ok := statedir.ParseRest(name); !ok && path != stateDir && !strings.HasSuffix(name, "/guard/"+guard.Entry) {
				rest = append(rest, path)
			}
		}
	}
	if batons != 1 || guards > 1 || w.lockFile == Directory && guards != 1 && !w.lower {
		w.fail("in the aftermath there are %d batons and %d guards: %s", batons, guards, strings.Join(w.server.Tree("/r"), " "))
	}
	if len(values) > 1 || len(values) == 1 && values[0] != value {
		w.fail("in the aftermath the value is %q, and there are %q", value, values)
	}
	w.litter = rest
}
