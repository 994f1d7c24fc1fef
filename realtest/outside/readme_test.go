package outside

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// block is a piece of a document in a fence.
type block struct {
	language, text string
	line           int
}

func blocks(t *testing.T, path string) []block {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	var in *block
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case in == nil && strings.HasPrefix(line, "```"):
			in = &block{language: strings.TrimPrefix(line, "```"), line: i + 2}
		case in != nil && line == "```":
			out = append(out, *in)
			in = nil
		case in != nil:
			in.text += line + "\n"
		}
	}
	return out
}

// Every line of the README does what it says, in the order in which they stand there,
// from an empty directory.
func TestREADME(t *testing.T) {
	u, top := user(t), Top(t)
	u.Env = append(slices.Clone(u.Env), "GOBIN="+u.Dir+"/bin", "PATH="+u.Dir+"/bin:"+os.Getenv("PATH"))
	demo := filepath.Join(t.TempDir(), "demo") // others use /tmp too
	var said []string
	programs := 0
	for _, b := range blocks(t, filepath.Join(top, "README.md")) {
		text := strings.ReplaceAll(b.text, "/tmp/hasp-demo", demo)
		switch b.language {
		case "sh":
			for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
				out := u.Run("sh", "-c", line)
				t.Logf("%s\n%s", line, out)
				said = append(said, line+"\n"+out)
			}
		case "go":
			programs++
			u.Write("main.go", text)
		default:
			t.Errorf("README.md:%d: a block of %q: how is it tried?", b.line, b.language)
		}
	}
	all := strings.Join(said, "\n")
	for _, want := range []string{
		"go run .\nalone, with token ", "-- echo alone\nalone\n", "/nightly: free, last token ", "\na report\n", "hasp value " + demo + "/id\n17\n", " 0 problems\n",
		"8 processes: 1 created the sweep, 7 found it", "1 was killed, 1 took the lock over",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if _, err := os.Stat(demo + "/done"); err != nil || programs != 1 {
		t.Errorf("%d programs; hasp once: %v", programs, err)
	}
	if lines := len(said); lines < 10 {
		t.Errorf("%d lines only", lines)
	}
}

// What documents say is fetched is the version that there is, and what they link to is
// there.
func TestDocuments(t *testing.T) {
	top, version := Top(t), Version(t)
	docs, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "DESIGN.md", "SECURITY.md"} {
		docs = append(docs, filepath.Join(top, name))
	}
	at := regexp.MustCompile(Root + `[a-z/.]*@(v[0-9][0-9a-z.-]*)`)
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range at.FindAllSubmatch(text, -1) {
			if string(m[1]) != version {
				t.Errorf("%s names %s, and the version is %s", doc, m[0], version)
			}
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			if target := string(m[1]); !strings.Contains(target, "://") {
				if _, err := os.Stat(filepath.Join(filepath.Dir(doc), target)); err != nil {
					t.Errorf("%s links to %s: %v", doc, target, err)
				}
			}
		}
	}
}
