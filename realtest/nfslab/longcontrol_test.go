//go:build linux

package nfslab_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What does not keep two apart is seen not to: else a run without an overlap says nothing.
func TestLongControls(t *testing.T) {
	if os.Getenv(longGate) == "" {
		t.Skip("set " + longGate + ", or run make nfs-long")
	}
	l := lab(t)
	for _, tc := range []struct {
		name, query string
		hasp        int // workers on each host
		efslock     int
	}{
		{"EfsLock processes alone", "", 0, 3},
		{"no guard beside EfsLock processes", "lockfile=false", 2, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bin := filepath.Join(l.Bin(), "worker")
			w, dir := witness(t, l), folder(t, l)
			args := func(name string, more ...string) []string {
				return append([]string{bin, "-witness", w.Addr(), "-name", name, "-key", key, "-hold", "5ms", "-more", "20ms", "-pause", "1ms"}, more...)
			}
			begin := w.Now()
			for n, h := range l.Clients {
				for i := range tc.hasp {
					start(t, h, args(fmt.Sprint(h.Name, "-hasp", i), "-strict", "-ttl", "10s", "-retry", "20ms", "-url", "efs://"+dir+"?"+tc.query)...)
				}
				if tc.hasp > 0 && n > 0 {
					continue // one EfsLock process: two rob each other
				}
				for i := range tc.efslock {
					start(t, h, args(fmt.Sprint(h.Name, "-efslock", i), "-efslock", "300s", "-linger", "20ms", "-retry", "20ms", "-url", dir)...)
				}
			}
			seen := func() int {
				o, _ := w.Faults(key)
				return len(o)
			}
			for w.Now()-begin < 2*time.Minute && seen() == 0 {
				time.Sleep(200 * time.Millisecond)
			}
			overlaps, _ := w.Faults(key)
			tally := w.Tally()
			if len(overlaps) == 0 {
				t.Fatalf("no overlap in %d entries", tally.Entries)
			}
			t.Logf("after %v and %d entries, %d of EfsLock processes: %v", (w.Now() - begin).Round(time.Second), tally.Entries, tally.EfsLock, overlaps[0])
		})
	}
}
