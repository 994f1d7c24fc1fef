package newbackend_test

import (
	"os"
	"strings"
	"testing"
)

// What CONTRIBUTING.md shows of this package is what the package says.
func TestContributingExcerpts(t *testing.T) {
	var files string
	for _, name := range []string{"sqlite.go", "sqlite_test.go", "hasp-sqlite/main.go"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files += string(b)
	}
	doc, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(doc), "```go\n")[1:]
	if len(blocks) < 5 {
		t.Fatalf("CONTRIBUTING.md has %d excerpts", len(blocks))
	}
	for _, block := range blocks {
		excerpt, _, _ := strings.Cut(block, "```")
		if !strings.Contains(files, excerpt) {
			t.Errorf("CONTRIBUTING.md shows what is not there:\n%s", excerpt)
		}
	}
}
