//go:build unix

package efs

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
)

// Leftovers is leftovers, for tests outside the package.
var Leftovers = leftovers

var freeBaton = regexp.MustCompile(`^[0-9]{20}\.(free|dirty)\.e[0-9]+(\.v([A-Z2-7]{14}))?$`)

// leftovers lists everything below dir but directories, one free baton in each state
// directory, its value, and one guard at rest.
func leftovers(dir string) (left []string, err error) {
	batons, guards := map[string]int{}, map[string]int{}
	values, files := map[string]string{}, map[string][]string{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		parent := filepath.Dir(path)
		switch {
		case d.IsDir():
			if strings.HasSuffix(d.Name(), ".hasp") {
				batons[path] += 0
			}
		case strings.HasSuffix(parent, ".hasp") && freeBaton.MatchString(d.Name()):
			batons[parent]++
			values[parent] = ""
			if m := freeBaton.FindStringSubmatch(d.Name()); m[3] != "" {
				values[parent] = m[3]
			}
		case filepath.Base(parent) == ".values":
			files[filepath.Dir(parent)] = append(files[filepath.Dir(parent)], d.Name())
		case d.Name() == "held-by-hasp" && strings.HasPrefix(filepath.Base(filepath.Dir(parent)), "rest."):
			guards[filepath.Dir(filepath.Dir(parent))]++
		default:
			left = append(left, path)
		}
		return nil
	})
	for state, names := range files {
		if len(names) != 1 || names[0] != values[state] {
			left = append(left, fmt.Sprintf("%s with value %q and files %q", state, values[state], names))
		}
	}
	for state, n := range batons {
		if n != 1 || guards[state] > 1 {
			left = append(left, fmt.Sprintf("%s with %d batons and %d guards", state, n, guards[state]))
		}
	}
	return left, err
}
