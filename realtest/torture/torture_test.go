package torture

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// results are of the runs that count, for the table at the end.
var results []result

func TestMain(m *testing.M) {
	Main()
	code := m.Run()
	if len(results) > 0 {
		printTable(os.Stdout, results)
		if file := os.Getenv("HASP_TORTURE_REPORT"); file != "" {
			if err := report(file, results); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// spell is HASP_TORTURE, for how long there are faults.
func spell(tb testing.TB) time.Duration {
	text := os.Getenv("HASP_TORTURE")
	if text == "" {
		return 10 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		tb.Fatalf("HASP_TORTURE: %v", err)
	}
	return d
}

// seed is HASP_TORTURE_SEED, or any.
func seed(tb testing.TB) uint64 {
	text := os.Getenv("HASP_TORTURE_SEED")
	if text == "" {
		return rand.Uint64N(1e9)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		tb.Fatalf("HASP_TORTURE_SEED: %v", err)
	}
	return n
}

func TestTorture(t *testing.T) {
	hasp := buildHasp(t)
	cases := []struct {
		name  string
		start func(testing.TB) *store
	}{{"redis", newRedis}, {"cluster", newRedisCluster}, {"sentinel", newSentinels}, {"etcd", newEtcd}}
	if os.Getenv("HASP_TORTURE") != "" { // it takes a while, and says little in a short run
		cases = slices.Insert(cases, 3, cases[2])
		cases[3].name, cases[3].start = "sentinel-wait", newSentinelsWait
	}
	rs := make([]result, len(cases))
	t.Cleanup(func() {
		results = append(results, slices.DeleteFunc(rs, func(r result) bool { return r.store == "" })...)
	})
	// One after the other, but for the minute in which what the dead have left expires. In
	// a short run the sentinels, which mostly wait, are beside the others.
	var busy, beside sync.Mutex
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			turn := &busy
			if tc.name == "sentinel" && os.Getenv("HASP_TORTURE") == "" {
				turn = &beside
			}
			turn.Lock()
			next := sync.OnceFunc(turn.Unlock)
			defer next()
			o := options{spell: spell(t), seed: seed(t), hasp: hasp, weights: weights, waits: next}
			if os.Getenv("HASP_TORTURE") == "" {
				o.weights = oneFailover(o.seed)
			}
			t.Logf("%v of faults, repeated by HASP_TORTURE_SEED=%d", o.spell, o.seed)
			rs[i] = run(t, tc.start(t), o)
			if s := rs[i].wrong(); s != "" {
				t.Error(s)
			}
		})
	}
}

// oneFailover leaves one kind of failover to a short run, which has no time for all.
func oneFailover(seed uint64) []weight {
	kinds := []kind{failOver, stopPrimary, killPrimary, cutPrimary}
	one := kinds[seed%uint64(len(kinds))]
	return slices.DeleteFunc(slices.Clone(weights), func(w weight) bool { return w.kind != one && slices.Contains(kinds, w.kind) })
}

func overlaps(r result) int { return len(r.overlaps) }

// The witness sees what it is there for: processes, and a store, that do it wrong.
func TestWitness(t *testing.T) {
	const short = 6 * time.Second
	for _, tc := range []struct {
		name   string
		flaw   flaw
		start  func(testing.TB) *store
		faults []weight
		spell  time.Duration
		seen   func(result) int
	}{
		{"processes that stay in when they have lost the lock", ignoresLoss, newRedis, only(stopProcess), short, overlaps},
		{"processes that show an old token", repeatsToken, newRedis, only(killProcess), short, func(r result) int { return len(r.disorder) }},
		{"a server that forgets", "", func(tb testing.TB) *store { return redisServer(tb, false) }, only(killServer), short, overlaps},
		{"a slot that moves without its locks", "", func(tb testing.TB) *store { return redisCluster(tb, true) },
			[]weight{{moveSlot, 1, 50 * time.Millisecond, 300 * time.Millisecond}}, short, overlaps},
		{"processes that stay in when a failover has lost their lock", ignoresLoss, newSentinels, only(failOver), 30 * time.Second, overlaps},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.spell > short && os.Getenv("HASP_TORTURE") == "" {
				t.Skip("it takes minutes: HASP_TORTURE=1m asks for it")
			}
			var r result
			// On a machine that stands still a lot, fewer locks are taken over.
			for spell := tc.spell; tc.seen(r) == 0; spell *= 2 {
				if spell > 5*tc.spell {
					t.Fatal("not seen: ", r.wrong())
				}
				r = run(t, tc.start(t), options{spell: spell, seed: 1, flaw: tc.flaw, weights: tc.faults, shallow: true})
				t.Logf("in %v of faults: %d entries, %d overlaps, %d tokens out of order", spell, r.entries, len(r.overlaps), len(r.disorder))
			}
		})
	}
}

// The choice of faults is the seed's alone.
func TestFaultsAreRepeatable(t *testing.T) {
	a, b, c := newFaults(7, weights), newFaults(7, weights), newFaults(8, weights)
	same := 0
	kinds := map[kind]bool{}
	for i := range 100 {
		fa, fb := a.next(), b.next()
		if fa != fb {
			t.Fatalf("the same seed: %+v and %+v", fa, fb)
		}
		if fa == c.next() {
			same++
		}
		if kinds[fa.kind] = true; i == len(weights)-1 && len(kinds) != len(weights) {
			t.Errorf("the first %d faults are of %d kinds", len(weights), len(kinds))
		}
	}
	if same == 100 {
		t.Error("another seed makes the same faults")
	}
}
