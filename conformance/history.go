package conformance

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
)

// Hold is an interval in which a holder was certain of its lock: from Acquire's
// return to the call of Release or the last moment at which the lease said that it
// was held. Times are in nanoseconds of a clock that the host's processes share.
type Hold struct {
	Rule  string `json:"rule"`
	Key   string `json:"key"`
	Who   string `json:"who"`
	Token uint64 `json:"token"`
	From  int64  `json:"from_ns"`
	Until int64  `json:"until_ns"`
	// End says what ended it: released, lost, killed, left to expire.
	End string `json:"end"`
}

// Fault is what was done to a holder or to the store.
type Fault struct {
	Rule string `json:"rule"`
	Who  string `json:"who"`
	What string `json:"what"` // such as "killed", "stopped", "continued"
	At   int64  `json:"at_ns"`
}

func (x *trial) hold(h Hold) {
	h.Rule = x.rule.ID
	x.mu.Lock()
	defer x.mu.Unlock()
	x.holds = append(x.holds, h)
}

func (x *trial) fault(who, what string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.faults = append(x.faults, Fault{x.rule.ID, who, what, clock()})
}

// CheckHistory returns what is wrong with a history: two holders of a key that
// were certain at the same time, and tokens that do not rise in the order in which
// the locks were got.
func CheckHistory(holds []Hold) []string {
	byKey := map[string][]Hold{}
	for _, h := range holds {
		byKey[h.Key] = append(byKey[h.Key], h)
	}
	var wrong []string
	for key, hs := range byKey {
		slices.SortFunc(hs, func(a, b Hold) int { return cmp.Compare(a.From, b.From) })
		latest := hs[0] // the one that lasted longest so far
		for i, h := range hs[1:] {
			prev := hs[i]
			if h.From < latest.Until {
				wrong = append(wrong, fmt.Sprintf("key %q: %s, token %d, and %s, token %d, were both certain of it for %v",
					key, latest.Who, latest.Token, h.Who, h.Token, time.Duration(min(h.Until, latest.Until)-h.From)))
			}
			if h.Token <= prev.Token {
				wrong = append(wrong, fmt.Sprintf("key %q: %s got token %d after %s got %d", key, h.Who, h.Token, prev.Who, prev.Token))
			}
			if h.Until > latest.Until {
				latest = h
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

var historyRules = []Rule{
	{ID: "history-clients", Statement: "however clients contend, pause and fall silent, no two are certain of a lock at once and tokens rise in real time", phase: busy, rests: []string{"exclusive-clients", "exclusive-race", "exclusive-takeover", "no-lost-update", "stale-not-before-ttl", "stale-after-ttl", "stale-again", "token-rises", "token-after-expiry"}, run: historyClients},
	{ID: "history-processes", Statement: "however processes contend, pause, stop and are killed, no two are certain of a lock at once and tokens rise in real time", phase: busy, procs: true, rests: []string{"process-exclusion"}, run: historyProcesses},
}

// checkHolds judges what the trial has recorded.
func (x *trial) checkHolds() {
	x.mu.Lock()
	hs := slices.Clone(x.holds)
	x.mu.Unlock()
	wrong := CheckHistory(hs)
	for i, w := range wrong {
		if i == 5 {
			x.errorf("and %d more", len(wrong)-i)
			break
		}
		x.errorf("%s", w)
	}
}

func historyClients(x *trial) {
	clients, rounds := 5, 6
	if x.cfg.brief {
		clients, rounds = 4, 3
	}
	key := x.key()
	ttl := x.steady()
	seed := rand.Uint64()
	x.notef("seed %d", seed)
	var wg sync.WaitGroup
	var contest contest
	for i := range clients {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		l := x.locker(func(o *hasp.Options) { o.TTL = ttl; o.MaxWait = x.wait(); o.Owner = fmt.Sprintf("client-%d", i+1) })
		// as one whose heartbeats never arrive
		mute := x.locker(func(o *hasp.Options) {
			unrenewed(o)
			o.TTL = ttl
			o.MaxWait = x.wait()
			o.Owner = fmt.Sprintf("client-%d", i+1)
		})
		x.spawn(&wg, func() {
			for round := range rounds {
				by, silent := l, round == 1 && i < 2
				if silent {
					by = mute
				}
				if err := x.contendOnce(by, key, fmt.Sprintf("client-%d", i+1), silent, rnd); err != nil {
					contest.note(err)
					x.errorf("client %d, round %d: %v", i+1, round+1, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if x.failed() {
		x.unlessStalled(x.start, contest.bearable(x, x.steady()))
		return
	}
	x.checkHolds()
	x.notef("%d holds by %d clients", len(x.holds), clients)
}

// contendOnce takes the lock once and records how long it was certain of it. If
// silent it neither renews nor releases it.
func (x *trial) contendOnce(l hasp.Locker, key, who string, silent bool, rnd *rand.Rand) error {
	lease, err := l.Acquire(x.ctx, key)
	from := clock()
	if err != nil {
		return err
	}
	x.cleanup(releaseOf(lease))
	h := Hold{Key: key, Who: who, Token: lease.Token(), From: from, Until: from, End: "released"}
	pause := time.Duration(rnd.IntN(5000)) * time.Microsecond
	end := time.Now().Add(pause)
	for silent || time.Now().Before(end) {
		now := clock() // before the lease looks at its clocks
		if lease.Err() != nil {
			h.End = "lost"
			break
		}
		h.Until = now
		time.Sleep(time.Millisecond)
	}
	if silent {
		h.End = "left to expire"
		x.fault(who, "fell silent")
		x.hold(h)
		return nil
	}
	if now := clock(); lease.Err() == nil {
		h.Until = now
	}
	deadline := lease.Deadline()
	err = lease.Release(x.ctx)
	switch {
	case err == nil, h.End == "lost", x.s.stalls.since(x.start) > 0:
		err = nil
	case errors.Is(err, hasp.ErrLost) && time.Now().After(deadline):
		h.End, err = "lost", nil // the store stood still, or was as slow as that
	default:
		err = fmt.Errorf("release %v after Acquire: %w", backend.Round(time.Duration(clock()-from)), err)
	}
	x.hold(h)
	return err
}

func historyProcesses(x *trial) {
	const n = 4
	key := x.key()
	ttl := x.steady()
	seed := rand.Uint64()
	x.notef("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	ws := make([]*worker, n)
	started := 0
	launch := func(i int) {
		started++
		ws[i] = x.worker(fmt.Sprintf("process-%d", started))
		ws[i].send(request{Do: doContend, Key: key, TTL: ttl, Retry: 2 * x.poll(), Pause: 4 * time.Millisecond, Seed: rnd.Uint64()})
	}
	for i := range ws {
		launch(i)
	}
	pause := func(max time.Duration) { x.sleep(max/4 + time.Duration(rnd.Int64N(int64(max)))) }
	kills, stops := 3, 2
	if !canStop {
		stops = 0
	}
	for i := 0; i < kills+stops; i++ {
		pause(ttl / 2)
		v := rnd.IntN(n)
		if i%2 == 1 && i/2 < stops {
			ws[v].stop()
			x.sleep(ttl + ttl/2)
			ws[v].cont()
			continue
		}
		ws[v].kill()
		launch(v)
	}
	x.sleep(2*ttl + x.cfg.Slack)
	for _, w := range ws {
		w.quit()
	}
	x.checkHolds()
	if n := len(x.holds); n < 5 {
		x.errorf("only %d holds in all: the lock did not come free after kills", n)
	}
	x.notef("%d holds by %d processes, %d of which were killed and %d stopped", len(x.holds), started, kills, stops)
}
