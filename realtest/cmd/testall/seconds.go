package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed seconds.txt
var secondsText string

const module = "github.com/hasplock/hasp"

// seconds is how long packages took, by import path.
type seconds map[string]float64

func readSeconds() (seconds, error) {
	s := seconds{}
	for line := range strings.Lines(secondsText) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var sec float64
		var pkg string
		if _, err := fmt.Sscan(line, &sec, &pkg); err != nil {
			return nil, fmt.Errorf("seconds.txt: %q: %w", line, err)
		}
		s[pkg] = sec
	}
	return s, nil
}

// of is what pkg is expected to take; one that is not known is new, and most are short.
func (s seconds) of(pkg string) float64 {
	if v, ok := s[pkg]; ok {
		return v
	}
	return 5
}

// sort returns pkgs with the longest first.
func (s seconds) sort(pkgs []string) []string {
	return slices.SortedStableFunc(slices.Values(pkgs), func(a, b string) int { return cmp.Compare(s.of(b), s.of(a)) })
}

// record writes seconds.txt.
func (p *progress) record() error {
	var b strings.Builder
	b.WriteString("# About how many seconds the tests of each package take, two processors; HASP_RECORD=1 writes it anew.\n")
	for _, pkg := range slices.SortedFunc(maps.Keys(p.ended), func(a, b string) int {
		return cmp.Or(cmp.Compare(p.ended[b], p.ended[a]), cmp.Compare(a, b))
	}) {
		if p.cached[pkg] {
			return fmt.Errorf("the run is not recorded: %s was cached: use -count=1", pkg)
		}
		fmt.Fprintf(&b, "%.0f %s\n", math.Ceil(p.ended[pkg]), pkg)
	}
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", module+"/realtest/cmd/testall").Output()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(strings.TrimSpace(string(out)), "seconds.txt"), []byte(b.String()), 0o666)
}

// short is an import path as people of this project call it.
func short(pkg string) string {
	if s := strings.TrimPrefix(pkg, module+"/"); s != module {
		return s
	}
	return "."
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }
