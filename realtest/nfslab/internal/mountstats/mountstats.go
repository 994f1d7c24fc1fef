// Package mountstats counts the requests that this host's NFS client has made, from
// /proc/self/mountstats.
package mountstats

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Counts are numbers of requests by kind, such as RENAME.
type Counts map[string]int

// Read returns the requests since path was mounted, of the mount that path is on.
func Read(path string) (Counts, error) {
	b, err := os.ReadFile("/proc/self/mountstats")
	if err != nil {
		return nil, err
	}
	return parse(string(b), path)
}

func parse(s, path string) (Counts, error) {
	var (
		found Counts
		best  int
		in    bool // in the list of operations of the best mount so far
	)
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) >= 8 && f[0] == "device" {
			point := f[4]
			in = strings.HasPrefix(f[7], "nfs") && (path == point || strings.HasPrefix(path, strings.TrimSuffix(point, "/")+"/")) && len(point) >= best
			if in {
				best, found = len(point), nil
			}
			continue
		}
		if !in || len(f) == 0 {
			continue
		}
		if found == nil {
			if f[0] == "per-op" {
				found = Counts{}
			}
			continue
		}
		if kind, ok := strings.CutSuffix(f[0], ":"); ok && len(f) > 1 {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				return nil, fmt.Errorf("mountstats: %q", line)
			}
			found[kind] = n
		}
	}
	if found == nil {
		return nil, fmt.Errorf("mountstats: %s is on no NFS mount", path)
	}
	return found, nil
}

// Sub returns what was counted since before.
func (c Counts) Sub(before Counts) Counts {
	d := Counts{}
	for k, n := range c {
		if n -= before[k]; n != 0 {
			d[k] = n
		}
	}
	return d
}

// Sum is the number of requests of all kinds.
func (c Counts) Sum() (n int) {
	for _, k := range c {
		n += k
	}
	return n
}
