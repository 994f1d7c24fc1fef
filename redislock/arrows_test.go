package redislock

import (
	"go/build"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rooms are the packages that redislock is made of, and what of hasp each may import,
// tests aside.
var rooms = map[string][]string{
	".":             {"backend", "redislock/internal/conn"},
	"internal/conn": {"backend"},
}

// Arrows go one way: connections know nothing of locks, and nothing here of the engine.
func TestArrowsGoOneWay(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(dir string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		for _, goos := range []string{"linux", "windows"} {
			c := build.Default
			c.GOOS, c.CgoEnabled = goos, false
			p, _ := c.ImportDir(dir, 0)
			if p == nil || len(p.GoFiles) == 0 {
				continue
			}
			dir := filepath.ToSlash(dir)
			allowed, known := rooms[dir]
			if !known {
				t.Errorf("%s is a room that this test does not know", dir)
			}
			seen[dir] = true
			for _, i := range p.Imports {
				rel, ours := strings.CutPrefix(i, "github.com/hasplock/hasp")
				if ours && !slices.Contains(allowed, strings.TrimPrefix(rel, "/")) {
					t.Errorf("%s imports %s", dir, i)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range rooms {
		if !seen[dir] {
			t.Errorf("there is no room %s", dir)
		}
	}
}
