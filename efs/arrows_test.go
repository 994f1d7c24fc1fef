//go:build unix

package efs

import (
	"fmt"
	"go/build"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hasplock/hasp"

// rooms are the packages that efs is made of, and what of hasp each may import, tests
// aside.
var rooms = map[string][]string{
	"efs/internal/fsys":          {"backend"},
	"efs/internal/statedir":      {"backend", "efs/internal/fsys"},
	"efs/internal/guard":         {"backend", "efs/internal/fsys", "efs/internal/statedir"},
	"efs":                        {"", "backend", "efs/internal/fsys", "efs/internal/statedir", "efs/internal/guard"},
	"efs/internal/fsys/fsystest": {"efs/internal/fsys"}, // for tests alone
	"efs/internal/simfs":         {"efs/internal/fsys"}, // the same
}

// misdirected returns what is wrong with the imports of package dir, by its path in the
// module.
func misdirected(dir string, imports []string) (wrong []string) {
	allowed, known := rooms[dir]
	for _, i := range imports {
		rel, ours := strings.CutPrefix(i, module)
		rel = strings.TrimPrefix(rel, "/")
		switch {
		case !ours:
		case strings.HasSuffix(rel, "fsystest"), strings.HasSuffix(rel, "simfs"):
			wrong = append(wrong, fmt.Sprintf("%s imports %s, which is for tests", dir, i))
		case known && !slices.Contains(allowed, rel):
			wrong = append(wrong, fmt.Sprintf("%s imports %s", dir, i))
		}
	}
	return wrong
}

// Arrows go one way, on every system: no room knows of the one above, and what ships
// knows nothing of faults.
func TestArrowsGoOneWay(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if base := d.Name(); rel != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata") {
			return fs.SkipDir
		}
		rel = filepath.ToSlash(rel)
		if _, room := rooms[rel]; !room && strings.HasPrefix(rel, "efs/internal/") {
			if goFiles, _ := filepath.Glob(filepath.Join(path, "*.go")); len(goFiles) > 0 {
				t.Errorf("%s is a room that this test does not know", rel)
			}
		}
		for _, goos := range []string{"linux", "darwin", "freebsd", "windows"} {
			c := build.Default
			c.GOOS, c.CgoEnabled = goos, false
			p, err := c.ImportDir(path, 0)
			if p == nil || len(p.GoFiles) == 0 {
				continue // or no package at all
			}
			if err != nil {
				return fmt.Errorf("%s for %s: %w", rel, goos, err)
			}
			seen[rel] = true
			for _, w := range misdirected(rel, p.Imports) {
				t.Errorf("%s, for %s", w, goos)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("%s was not found", room)
		}
	}
}
