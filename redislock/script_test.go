package redislock

import (
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each file that a script names is there, and each that is there is named.
func TestScripts(t *testing.T) {
	source, err := os.ReadFile("script.go")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, call := range regexp.MustCompile(`= script\((.*)\)`).FindAllStringSubmatch(string(source), -1) {
		for name := range strings.SplitSeq(call[1], ", ") {
			named = append(named, strings.Trim(name, `"`)+".lua")
		}
	}
	slices.Sort(named)
	named = slices.Compact(named)
	var there []string
	entries, err := fs.ReadDir(luaFiles, "lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		there = append(there, e.Name())
	}
	if !slices.Equal(named, there) {
		t.Errorf("the scripts name %q, and there are %q", named, there)
	}
}
