//go:build linux

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Where no directory is shared, everyone prints what the one has written who ran it.
func TestKeepInEachStore(t *testing.T) {
	for name, url := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs := filepath.Join(tempDir(t), "runs")
			const n = 6
			var outs [n]string
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					code, out, stderr := run(t, "once", "--on", url, "sweeps/foo", "--keep", "--", "sh", "-c", `echo run >> "$0"; printf 'id-%s\0' $$`, runs)
					if code != 0 {
						t.Errorf("exit %d: %s", code, stderr)
					}
					outs[i] = out
				})
			}
			wg.Wait()
			for _, out := range outs {
				if out != outs[0] || !strings.HasPrefix(out, "id-") || !strings.HasSuffix(out, "\x00") {
					t.Errorf("one printed %q, and another %q", out, outs[0])
				}
			}
			if text, err := os.ReadFile(runs); string(text) != "run\n" {
				t.Errorf("it ran %d times (%v)", strings.Count(string(text), "\n"), err)
			}
			if code, out, stderr := run(t, "value", "--on", url, "sweeps/foo"); code != 0 || out != outs[0] {
				t.Errorf("value: exit %d: %q, %s", code, out, stderr)
			}
			if code, _, stderr := run(t, "forget", "--on", url, "sweeps/foo"); code != 0 {
				t.Errorf("forget: exit %d: %s", code, stderr)
			}
			if code, out, _ := run(t, "value", "--on", url, "sweeps/foo"); code != 1 || out != "" {
				t.Errorf("after forget: exit %d: %q", code, out)
			}
			const above = 9_000_000_000_000_000
			if code, _, stderr := run(t, "raise", "--on", url, "sweeps/foo", "--token", fmt.Sprint(above)); code != 0 {
				t.Errorf("raise: exit %d: %s", code, stderr)
			}
			code, out, stderr := run(t, "run", "--on", url, "sweeps/foo", "--", "sh", "-c", `[ $HASP_TOKEN -gt $0 ] && echo yes`, fmt.Sprint(above))
			if code != 0 || out != "yes\n" {
				t.Errorf("after raise: exit %d: %q, %s", code, out, stderr)
			}
		})
	}
}
