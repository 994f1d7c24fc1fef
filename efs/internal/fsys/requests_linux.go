package fsys

import (
	"os"
	"strconv"
	"strings"
)

// Requests returns how many requests of each kind, such as RENAME, this host has made
// since the NFS mount at point was mounted; nil where there is none.
func Requests(point string) map[string]int {
	text, err := os.ReadFile("/proc/self/mountstats")
	if err != nil {
		return nil
	}
	var found map[string]int
	in, counts := false, false // the lines of a mount at point; of several the last is on top
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 8 && f[0] == "device" { // device SOURCE mounted on POINT with fstype nfs4 …
			if in = unescapeMount(f[4]) == point && strings.HasPrefix(f[7], "nfs"); in {
				found = map[string]int{}
			}
			counts = false
			continue
		}
		counts = counts || len(f) > 0 && f[0] == "per-op"
		if in && counts && len(f) > 1 && strings.HasSuffix(f[0], ":") {
			if n, err := strconv.Atoi(f[1]); err == nil {
				found[strings.TrimSuffix(f[0], ":")] = n
			}
		}
	}
	return found
}
