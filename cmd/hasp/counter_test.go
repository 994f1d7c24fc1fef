//go:build unix

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Processes add one to the number in a file, over and over, each time in a
// command under the lock.
func TestCounter(t *testing.T) {
	processes, rounds := 8, 200
	if testing.Short() {
		rounds = 10
	}
	dir := tempDir(t)
	key, counter := filepath.Join(dir, "KEY"), filepath.Join(dir, "counter")
	if err := os.WriteFile(counter, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `i=0
while [ $i -lt "$1" ]; do
	"$2" run "$3" -- sh -c 'read n < "$0"; echo $((n + 1)) > "$0"' "$4" || exit
	i=$((i + 1))
done`
	var ps []*proc
	for range processes {
		ps = append(ps, startCmd(t, exec.Command("sh", "-c", script, "sh", strconv.Itoa(rounds), bin, key, counter)))
	}
	for _, p := range ps {
		<-p.done // go test's own limit is the only one
		if code := p.wait(); code != 0 {
			t.Errorf("exit %d: %s", code, p.errors())
		}
	}
	text, err := os.ReadFile(counter)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(text)), strconv.Itoa(processes*rounds); got != want {
		t.Errorf("the counter is %s, want %s", got, want)
	}
	if got := names(t, dir); got != ".KEY.hasp counter" {
		t.Errorf("what is left: %s", got)
	}
	if got := names(t, filepath.Join(dir, ".KEY.hasp")); strings.Count(got, " ") != 1 || !strings.Contains(got, ".free.e") || !strings.Contains(got, " rest.") {
		t.Errorf("what is left of the state: %q, want one free baton, and its guard at rest", got)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var ns []string
	for _, e := range entries {
		ns = append(ns, e.Name())
	}
	return strings.Join(ns, " ")
}
