package conformance

import (
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
)

// What OnLoss promises each of those who ask for it, each time.
var lossNoticeRules = []Rule{
	{ID: "loss-notified-always", Statement: "the client is told of each of its grants that is broken, by its key and its claim", needs: []backend.Capability{backend.CapBreak, backend.CapLossNotify}, rests: []string{"loss-notified", "break-frees"}, run: lossNotifiedAlways},
	{ID: "loss-notified-all", Statement: "a loss is told to everyone who has asked for it with OnLoss", needs: []backend.Capability{backend.CapBreak, backend.CapLossNotify}, rests: []string{"loss-notified", "loss-notified-always"}, run: lossNotifiedAll},
	{ID: "loss-cancelled", Statement: "who cancels OnLoss is told of no later loss, and everyone else still is", needs: []backend.Capability{backend.CapBreak, backend.CapLossNotify}, rests: []string{"loss-notified-all"}, run: lossCancelled},
}

// lossEar hears what an OnLoss says.
type lossEar struct {
	mu     sync.Mutex
	heard  map[string]int // by claim, those with the right key
	wrong  string
	keys   map[string]string // by claim
	cancel func()
}

func (x *trial) ear(b backend.Backend) *lossEar {
	e := &lossEar{heard: map[string]int{}, keys: map[string]string{}}
	e.cancel = b.(backend.LossNotifier).OnLoss(func(key, id string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if want, ours := e.keys[id]; ours && want != key {
			e.wrong = key
			return
		}
		e.heard[id]++
	})
	return e
}

func (e *lossEar) expect(g backend.Grant) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys[g.ID] = g.Key
}

// hears waits until it has heard of g's loss.
func (x *trial) hears(e *lossEar, g backend.Grant) bool {
	for begun := time.Now(); time.Since(begun) < x.soon()+2*x.s.stalls.since(begun); x.sleep(time.Millisecond) {
		e.mu.Lock()
		heard, wrong := e.heard[g.ID], e.wrong
		e.mu.Unlock()
		if wrong != "" {
			x.failf("OnLoss was told of the key %q, and the grant's is %q", wrong, g.Key)
		}
		if heard > 0 {
			return true
		}
	}
	return false
}

func lossNotifiedAlways(x *trial) {
	a, b := x.client(), x.client()
	e := x.ear(a)
	defer e.cancel()
	const n = 24
	keys := []string{x.key(), x.key(), x.key()}
	for i := range n {
		g := x.acquire(a, keys[i%len(keys)], x.long())
		e.expect(g)
		x.breakKey(b, g)
		if !x.hears(e, g) {
			x.failf("the %d. of %d breaks was not told within %v", i+1, n, x.soon())
		}
	}
}

func lossNotifiedAll(x *trial) {
	a, b := x.client(), x.client()
	ears := make([]*lossEar, 20)
	g := x.acquire(a, x.key(), x.long())
	for i := range ears {
		ears[i] = x.ear(a)
		defer ears[i].cancel()
		ears[i].expect(g)
	}
	x.breakKey(b, g)
	heard := 0
	for _, e := range ears {
		if x.hears(e, g) {
			heard++
		}
		if x.ctx.Err() != nil {
			return
		}
	}
	if heard < len(ears) {
		x.failf("of %d who had asked for it with OnLoss, %d were told of a loss within %v", len(ears), heard, x.soon())
	}
}

func lossCancelled(x *trial) {
	a, b := x.client(), x.client()
	ears := []*lossEar{x.ear(a), x.ear(a), x.ear(a), x.ear(a)}
	defer ears[3].cancel()
	for gone := range 3 {
		ears[gone].cancel()
		g := x.acquire(a, x.key(), x.long())
		for _, e := range ears {
			e.expect(g)
		}
		x.breakKey(b, g)
		for i := gone + 1; i < len(ears); i++ {
			if !x.hears(ears[i], g) {
				x.failf("when %d of %d had cancelled their OnLoss, another was not told of a loss within %v", gone+1, len(ears), x.soon())
			}
		}
		x.sleep(20 * time.Millisecond)
		for _, e := range ears[:gone+1] {
			e.mu.Lock()
			heard := e.heard[g.ID]
			e.mu.Unlock()
			if heard > 0 {
				x.failf("one that had cancelled its OnLoss was told of a later loss")
			}
		}
	}
}
