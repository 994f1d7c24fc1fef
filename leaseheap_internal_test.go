package hasp

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The heap gives what a sorted list would, whatever is put in, moved and taken out.
func TestLeaseHeap(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var h leaseHeap
		want := map[*Lease]time.Time{}
		leases := make([]*Lease, 40)
		for i := range leases {
			leases[i] = &Lease{}
		}
		start := time.Now()
		for range 400 {
			le := leases[r.IntN(len(leases))]
			if r.IntN(3) == 0 {
				h.remove(le)
				delete(want, le)
			} else {
				at := start.Add(time.Duration(r.IntN(100)) * time.Second)
				h.set(le, at)
				want[le] = at
			}
			for _, le := range leases {
				at, in := want[le]
				if in != (le.beat.index > 0) || in && (h[le.beat.index-1].le != le || !h[le.beat.index-1].at.Equal(at)) {
					t.Fatalf("seed %d: a lease is not where its index says", seed)
				}
			}
			if len(h) != len(want) {
				t.Fatalf("seed %d: %d leases, want %d", seed, len(h), len(want))
			}
		}
		var times, got []time.Time
		for _, at := range want {
			times = append(times, at)
		}
		slices.SortFunc(times, time.Time.Compare)
		for len(h) > 0 {
			got = append(got, h.first().at)
			h.remove(h.first().le)
		}
		if !slices.EqualFunc(got, times, time.Time.Equal) {
			t.Fatalf("seed %d: in order %v, want %v", seed, got, times)
		}
	}
}
