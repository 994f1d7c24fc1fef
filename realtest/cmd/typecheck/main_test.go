package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What another system's compiler would refuse is found: in a package, in its tests, and in
// the use of what it imports.
func TestCheck(t *testing.T) {
	t.Setenv("GOWORK", "off")
	for _, tc := range []struct{ name, file, text, want string }{
		{"right", "a.go", "package a\n\nvar B = 1\n", ""},
		{"only there", "a_windows.go", "package a\n\nvar A int = \"text\"\n", "a_windows.go:3"},
		{"only here", "a_linux.go", "package a\n\nvar A int = \"text\"\n", ""},
		{"missing there", "a.go", "package a\n\nimport \"syscall\"\n\nvar A = syscall.Stat_t{}\n", "Stat_t"},
		{"in a test", "a_test.go", "package a\n\nvar A int = \"text\"\n", "a_test.go:3"},
		{"in a function", "a.go", "package a\n\nfunc F() int { return \"text\" }\n", "a.go:3"},
		{"no Go", "a.go", "text\n", "expected 'package'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for name, text := range map[string]string{"go.mod": "module example.com/a\n\ngo 1.26\n", "always.go": "package a\n", tc.file: tc.text} {
				if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			_, err := check("windows", []string{"./..."})
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("%v: not of %s", err, tc.want)
			}
		})
	}
	t.Chdir(filepath.Dir(t.TempDir()))
	if _, err := check("windows", []string{"fmt"}); err == nil {
		t.Error("it checked nothing, and said nothing")
	}
}
