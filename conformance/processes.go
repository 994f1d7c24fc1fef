package conformance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/hasplock/hasp/backend"
)

var processRules = []Rule{
	{ID: "process-exclusion", Statement: "a counter that processes read and write under the lock loses no update, and none of them starves", phase: busy, procs: true, run: processExclusion},
	{ID: "process-killed", Statement: "the lock of a process that was killed is held until its TTL and taken over soon after", procs: true, rests: []string{"process-exclusion"}, run: processKilled},
	{ID: "process-stopped", Statement: "a process that was stopped past its TTL wakes to a lost lease, and its late heartbeat and Release harm nobody", procs: true, phase: alone, hook: hookStop, rests: []string{"process-exclusion", "process-killed"}, run: processStopped},
	{ID: "process-waiter-killed", Statement: "a process that is killed while it waits is in nobody's way after its TTL", procs: true, rests: []string{"process-exclusion"}, run: processWaiterKilled},
	{ID: "process-waiter-stopped", Statement: "a process that is stopped while it waits is in nobody's way after its TTL", procs: true, phase: alone, hook: hookStop, rests: []string{"process-exclusion", "process-waiter-killed"}, run: processWaiterStopped},
	{ID: "process-holder-named", Statement: "a process is named to others by its own host and pid", procs: true, rests: []string{"process-exclusion"}, run: processHolderNamed},
}

// answerTime is how long a worker may take to answer what needs no waiting: it
// bounds a hang and measures nothing.
const answerTime = 30 * time.Second

func processExclusion(x *trial) {
	const n = 4
	rounds := 12
	if x.cfg.brief {
		rounds = 5
	}
	dir, err := os.MkdirTemp("", "hasp-conformance-")
	if err != nil {
		x.failf("there is no temporary directory: %v", err)
	}
	x.cleanup(removeAll(dir))
	file := filepath.Join(dir, "counter")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		x.failf("%v", err)
	}
	key := x.key()
	ws := make([]*worker, n)
	for i := range ws {
		ws[i] = x.worker("counter")
	}
	begun := time.Now()
	for _, w := range ws {
		w.send(request{
			Do: doCount, Key: key, File: file, Rounds: rounds, TTL: 4 * x.steady(), Retry: 2 * x.poll(),
			Pause: 2 * time.Millisecond, Seed: rand.Uint64(),
		})
	}
	var longest time.Duration
	for i, w := range ws {
		p := w.reply(x.patience - 5*time.Second - time.Since(x.start))
		if p.Err != "" {
			x.unlessStalled(begun, x.steady())
			x.latef("process %d of %d: %s", i+1, n, p.Err)
		}
		longest = max(longest, p.Longest)
	}
	got, err := readCounter(file)
	if err != nil || got != n*rounds {
		x.failf("%d updates by %d processes, and the counter says %d (error %v)", n*rounds, n, got, err)
	}
	x.notef("%d updates by %d processes in %v, the longest wait %v", got, n, backend.Round(time.Since(begun)), backend.Round(longest))
	for _, w := range ws {
		w.quit()
	}
}

func removeAll(dir string) func(context.Context) {
	return func(context.Context) { _ = os.RemoveAll(dir) }
}

func processKilled(x *trial) {
	b, w := x.client(), x.worker("killed holder")
	key := x.key()
	ttl := x.steady()
	p := w.ask(request{Do: doAcquire, Key: key, TTL: ttl, Retry: x.poll()}, answerTime)
	real := p.Grant.TTL
	x.sleep(real / 2) // some heartbeats
	before := time.Now()
	killed := w.kill()
	g, at := x.takeoverAt(b, key, before.Add(-real/3), killed, real)
	x.notef("taken over %v after the kill, with a TTL of %v", backend.Round(at.Sub(killed)), real)
	if g.Token <= p.Grant.Token {
		x.restf("token-after-expiry", "got %d after %d", g.Token, p.Grant.Token)
	}
	x.hold(Hold{Key: key, Who: "killed holder", Token: p.Grant.Token, From: p.At, Until: clock() - int64(time.Since(killed)), End: "killed"})
	from := clock()
	x.stillHolds(b, g, "the takeover")
	x.hold(Hold{Key: key, Who: "successor", Token: g.Token, From: from, Until: clock(), End: "released"})
	x.checkHolds()
}

// takeoverAt claims the key of a process that gave its last sign of life at any
// time from first on, and not after last.
func (x *trial) takeoverAt(b backend.Backend, key string, first, last time.Time, ttl time.Duration) (backend.Grant, time.Time) {
	c := x.claim(x.long())
	for {
		begun := time.Now()
		g, err := x.attempt(b, key, c)
		at := time.Now()
		if err == nil {
			if early := at.Sub(first); early < ttl*9/10 {
				x.unlessStalled(x.start, ttl/8)
				x.latef("the key was taken over %v after the last heartbeat, with a TTL of %v", backend.Round(early), ttl)
			}
			return g, at
		}
		if late := begun.Sub(last.Add(ttl)); late > x.slack(last.Add(ttl)) {
			on := "process-killed"
			if !x.rule.procs {
				on = "stale-after-ttl"
			}
			x.restf(on, "%v after the holder's last sign of life, with a TTL of %v, the key was still held: %v", backend.Round(begun.Sub(last)), ttl, err)
		}
		x.sleep(x.poll())
	}
}

// processStopped runs alone. A process may be stopped while it has the store itself,
// as within a transaction of one that uses the operating system's locks, and then
// nobody is served: that is told, and tried again.
func processStopped(x *trial) {
	const tries = 5
	for try := range tries {
		if x.stopOne(fmt.Sprintf("stopped holder %d", try+1)) {
			return
		}
		x.notef("while a process was stopped the store served nobody: it was stopped while it had the store itself")
	}
	x.failf("each of %d times that a process was stopped the store served nobody until it went on", tries)
}

// stopOne returns false if the store served nobody while the holder was stopped.
func (x *trial) stopOne(who string) bool {
	b, w := x.client(), x.worker(who)
	key := x.key()
	p := w.ask(request{Do: doAcquire, Key: key, TTL: x.steady(), Retry: x.poll()}, answerTime)
	ttl := p.Grant.TTL
	x.sleep(ttl / 2)
	w.stop()
	stopped := time.Now()
	x.hold(Hold{Key: key, Who: w.who, Token: p.Grant.Token, From: p.At, Until: clock(), End: "stopped"})
	if !x.serves(b, x.key()) {
		w.cont()
		w.end()
		return false
	}
	g, _ := x.takeoverAt(b, key, stopped.Add(-ttl/2), stopped, ttl)
	from := clock()
	w.cont()
	// its heartbeat is overdue and goes out now, while it is asked
	s := w.ask(request{Do: doStatus}, answerTime)
	if s.Kind != "lost" {
		x.failf("a process that was stopped for more than its TTL of %v, while another took over, says of its lease: %q", ttl, s.Err)
	}
	x.stillHolds(b, g, "the stopped process went on")
	if r := w.ask(request{Do: doRelease}, answerTime); r.Kind != "lost" {
		x.failf("Release by the process that had been stopped gave %q and not ErrLost", r.Err)
	}
	x.stillHolds(b, g, "the stopped process's Release")
	x.hold(Hold{Key: key, Who: "successor", Token: g.Token, From: from, Until: clock(), End: "released"})
	w.quit()
	return true
}

// serves tells whether the store takes a lock and gives it back, in a time in which it
// has to.
func (x *trial) serves(b backend.Backend, key string) bool {
	ctx, cancel := x.within(x.soon())
	defer cancel()
	done := make(chan bool, 1)
	go func() {
		defer x.recovered()
		c := x.claim(x.long())
		g, err := b.Acquire(ctx, key, c)
		if err != nil {
			g = backend.Grant{Key: key, ID: c.ID}
		}
		x.releaseLater(b, g)
		done <- err == nil
	}()
	served, ok := await(x, done, x.soon()+2*time.Second)
	return ok && served
}

func processWaiterKilled(x *trial) {
	x.passed("killed", func(w *worker) { w.kill() })
}

// processWaiterStopped runs alone, and more than once, as processStopped does and for the
// same reason.
func processWaiterStopped(x *trial) {
	const tries = 5
	for range tries {
		if x.passed("stopped", (*worker).stop) {
			return
		}
		x.notef("while a process was stopped the store served nobody: it was stopped while it had the store itself")
	}
	x.failf("each of %d times that a waiting process was stopped the store served nobody until it went on", tries)
}

// passed ends a process that waits, and checks that the next claim does not wait for it.
// It returns false if the store served nobody.
func (x *trial) passed(how string, end func(*worker)) bool {
	a, b, w := x.client(), x.client(), x.worker(how+" waiter")
	key := x.key()
	g := x.acquire(a, key, x.long())
	ttl := x.ttl()
	w.send(request{Do: doWatch, Key: key, TTL: ttl, Retry: x.poll()})
	select {
	case <-w.waiting:
	case <-time.After(answerTime):
		x.failf("a waiting process did not say that it waits: %s", w.errs)
	}
	// it is in the store's queue, if there is one, after the attempt that follows
	x.sleep(4 * x.poll())
	end(w)
	ended := time.Now()
	if how == "stopped" && !x.serves(b, x.key()) {
		w.end()
		return false
	}
	x.release(a, g)
	c := x.claim(x.long())
	for {
		begun := time.Now()
		if _, err := x.attempt(b, key, c); err == nil {
			x.notef("the next claim succeeded %v after the waiter was %s; its TTL was %v", backend.Round(time.Since(ended)), how, ttl)
			w.end()
			return true
		} else if late := begun.Sub(ended.Add(ttl)); late > x.slack(ended.Add(ttl))+max(ttl, 2*time.Second) {
			x.failf("%v after a waiting process was %s, and with the key released, a claim still gave %q", backend.Round(begun.Sub(ended)), how, err)
		}
		x.sleep(x.poll())
	}
}

func processHolderNamed(x *trial) {
	b, w := x.client(), x.worker("holder")
	key := x.key()
	p := w.ask(request{Do: doAcquire, Key: key, TTL: x.long(), Retry: x.poll()}, answerTime)
	want := backend.Holder{Owner: "worker", Host: host, PID: w.cmd.Process.Pid}
	if p.Holder != want {
		x.failf("the process calls itself %s, and it is %s", p.Holder, want)
	}
	if r := x.inspect(b, key); r.Holder != want || r.Token != p.Grant.Token {
		x.failf("the key is shown as %s, and it is held by %s with token %d", r, want, p.Grant.Token)
	}
	if r := w.ask(request{Do: doRelease}, answerTime); r.Err != "" {
		x.failf("Release gave %s", r.Err)
	}
	w.quit()
	x.isFree(b, key, "the process's Release")
}
