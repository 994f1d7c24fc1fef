package torture

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// kind is a kind of fault.
type kind string

const (
	killProcess  kind = "kill -9"         // a process that contends
	stopProcess  kind = "stop past TTL"   // SIGSTOP, and SIGCONT when its locks are lost
	stallBriefly kind = "stop briefly"    // SIGSTOP for less than the TTL
	killServer   kind = "kill server"     // and start it again with its data
	stopServer   kind = "stop server"     // SIGSTOP
	cutServer    kind = "isolate server"  // from the other servers
	moveSlot     kind = "move slot"       // a key's, to another server of the cluster
	failOver     kind = "fail over"       // to a replica that lags, by sentinels
	stopPrimary  kind = "stop primary"    // until the sentinels have found that out, and it wakes
	killPrimary  kind = "kill primary"    // the same, and it comes back
	cutPrimary   kind = "isolate primary" // with half of the clients, from the sentinels and replicas
	dropConns    kind = "cut"             // a proxy closes all its connections
	holdConns    kind = "hold back"       // a proxy passes nothing on, and later all of it
	delayConns   kind = "delay"           // a proxy passes everything on late
)

// fault is one that is to be done.
type fault struct {
	after time.Duration // after the one before
	kind  kind
	which int           // of those that it can be done to, modulo their number
	spell time.Duration // how long it lasts, in the end
}

func (f fault) String() string {
	return fmt.Sprintf("%s, number %d, for %v", f.kind, f.which, f.spell.Round(time.Millisecond))
}

// A weight says how often a kind is chosen.
type weight struct {
	kind     kind
	weight   int
	min, max time.Duration // of the spell
}

var weights = []weight{
	{killProcess, 30, 0, time.Second}, // another is started then
	{stopProcess, 12, ttl + ttl/2, 3 * ttl},
	{stallBriefly, 10, ttl / 20, ttl / 2},
	{killServer, 5, 0, 2 * time.Second},
	{stopServer, 5, 50 * time.Millisecond, ttl},
	{cutServer, 4, 500 * time.Millisecond, 2 * ttl},
	{moveSlot, 8, 100 * time.Millisecond, ttl},
	{failOver, 4, ttl / 2, ttl + ttl/2},
	{stopPrimary, 3, ttl / 30, ttl},
	{killPrimary, 2, ttl / 30, ttl},
	{cutPrimary, 3, ttl / 2, 2 * ttl},
	{dropConns, 12, 0, 0},
	{holdConns, 12, 50 * time.Millisecond, ttl + ttl/2},
	{delayConns, 10, 100 * time.Millisecond, 2 * ttl},
}

// only are the weights of some kinds.
func only(kinds ...kind) []weight {
	return slices.DeleteFunc(slices.Clone(weights), func(w weight) bool { return !slices.Contains(kinds, w.kind) })
}

// faults chooses faults, the same ones for the same seed: first one of each kind, so
// that a short run has them all, and then by weight.
type faults struct {
	rng     *rand.Rand
	weights []weight
	first   []weight
}

func newFaults(seed uint64, ws []weight) *faults {
	f := &faults{rng: rand.New(rand.NewPCG(seed, 0)), weights: ws, first: slices.Clone(ws)}
	f.rng.Shuffle(len(ws), func(i, j int) { f.first[i], f.first[j] = f.first[j], f.first[i] })
	// Of those of a server there is one at a time, and this one must not be left out.
	if i := slices.IndexFunc(f.first, func(w weight) bool { return w.kind == killServer }); i > 0 {
		f.first[0], f.first[i] = f.first[i], f.first[0]
	}
	return f
}

func (f *faults) next() fault {
	after, which := between(f.rng, 50*time.Millisecond, 600*time.Millisecond), f.rng.IntN(1<<20)
	w := f.choose()
	return fault{after: after, kind: w.kind, which: which, spell: between(f.rng, w.min, w.max)}
}

func (f *faults) choose() weight {
	if len(f.first) > 0 {
		w := f.first[0]
		f.first = f.first[1:]
		return w
	}
	sum := 0
	for _, w := range f.weights {
		sum += w.weight
	}
	n := f.rng.IntN(sum)
	for _, w := range f.weights {
		if n -= w.weight; n < 0 {
			return w
		}
	}
	panic("the weights' sum is wrong")
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)+1))
}
