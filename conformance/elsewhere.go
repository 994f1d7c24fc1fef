package conformance

import (
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// What one process does, others see: a store that keeps to one process what it
// knows passes every rule whose clients are all in this one.
var elsewhereRules = []Rule{
	{ID: "process-inspect-fresh", Statement: "Inspect shows what another process has just done", procs: true, rests: []string{"process-exclusion", "inspect-fresh"}, run: processInspectFresh},
	{ID: "process-woken", Statement: "a release by another process wakes a waiter long before its next retry", procs: true, needs: []backend.Capability{backend.CapWatch}, rests: []string{"process-exclusion", "wait-woken"}, run: processWoken},
	{ID: "process-loss-notified", Statement: "a holder that another process has broken is told at once", procs: true, needs: []backend.Capability{backend.CapBreak, backend.CapLossNotify}, rests: []string{"loss-notified", "break-frees"}, run: processLossNotified},
}

func processInspectFresh(x *trial) {
	b, w := x.client(), x.worker("another process")
	key := x.key()
	x.isFree(b, key, "nothing")
	// this process has had it too, and may think that it knows
	g := x.acquire(b, key, x.long())
	x.stillHolds(b, g, "Acquire")
	x.release(b, g)
	x.isFree(b, key, "Release")
	for range 2 {
		p := w.ask(request{Do: doAcquire, Key: key, TTL: x.long(), Retry: x.poll()}, answerTime)
		if r := x.inspect(b, key); r.State != backend.Held || r.Token != p.Grant.Token {
			x.failf("another process holds the key with token %d, and it is shown as %s", p.Grant.Token, r)
		}
		if r := w.ask(request{Do: doRelease}, answerTime); r.Err != "" {
			x.restf("process-exclusion", "Release by another process gave %s", r.Err)
		}
		if r := x.inspect(b, key); r.State != backend.Free {
			x.failf("another process has released the key, and it is shown as %s", r)
		}
	}
	w.quit()
}

func processWoken(x *trial) {
	w := x.worker("another process")
	key := x.key()
	for range 2 {
		w.ask(request{Do: doAcquire, Key: key, TTL: x.long(), Retry: x.poll()}, answerTime)
		got := x.waitsForWake(x.client(), key)
		if r := w.ask(request{Do: doRelease}, answerTime); r.Err != "" {
			x.restf("process-exclusion", "Release by another process gave %s", r.Err)
		}
		begun := time.Now()
		a := x.granted(got, x.soon(), "a waiter whose next retry is in an hour, when another process had released the key,")
		x.notef("woken %v after the answer", backend.Round(a.at.Sub(begun)))
		if err := a.lease.Release(x.ctx); err != nil {
			x.restf("release-frees", "Release gave %q", err)
		}
	}
	w.quit()
}

func processLossNotified(x *trial) {
	w := x.worker("another process")
	l := x.locker(func(o *hasp.Options) { o.TTL = x.long() })
	lease := x.lease(l, x.key())
	done := lease.Done()
	if r := w.ask(request{Do: doBreak, Key: lease.Key(), Token: lease.Token()}, answerTime); r.Err != "" {
		x.restf("break-frees", "Break by another process gave %s", r.Err)
	}
	begun := time.Now()
	if _, ok := await(x, done, x.soon()); !ok {
		x.failf("%v after another process had broken it, the holder had not been told", x.soon())
	}
	x.notef("told %v after the answer; the heartbeat interval is %v", backend.Round(time.Since(begun)), x.long()/3)
	w.quit()
}
