//go:build unix

package main_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// A holder and a lock may be called anything. Nothing of it acts on the terminal of
// who looks; JSON, which programs read, has it exactly.
func TestNamesAreNotObeyed(t *testing.T) {
	const owner = "jo\x1b[2J\r\n\u202egnp"
	key := filepath.Join(tempDir(t), "gnp.\u202elock\u2028")
	holder := holding(t, key, "--owner", owner)
	dir := filepath.Dir(key)

	waiter := start(t, "run", "--max-wait", "1500ms", key, "--", "true")
	waiter.wait()
	texts := map[string]string{"waiting": waiter.errors()}
	for what, args := range map[string][]string{
		"status": {"status", key},
		"list":   {"list", dir},
		"try":    {"run", "--try", key, "--", "true"},
		"break":  {"break", key, "--token", "1"},
	} {
		_, stdout, stderr := run(t, args...)
		texts[what] = stdout + stderr
	}
	for what, s := range texts {
		if !strings.Contains(s, `jo\x1b[2J\r\n\u202egnp`) || !strings.Contains(s, `gnp.\u202elock\u2028`) {
			t.Errorf("%s does not name them: %q", what, s)
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || !unicode.IsGraphic(r)) }) {
			t.Errorf("%s: %q", what, s)
		}
		if lines := strings.Count(s, "\n"); lines != map[string]int{"waiting": 2, "list": 2}[what] && lines != 1 {
			t.Errorf("%s has %d lines: %q", what, lines, s)
		}
	}
	for what, args := range map[string][]string{"status": {"status", "-o", "json", key}, "list": {"list", "-o", "json", dir}} {
		_, out, _ := run(t, args...)
		out = strings.Trim(out, "[]\n")
		var l lock
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		if l.Key != key || l.Holder == nil || l.Holder.Owner != owner {
			t.Errorf("%s: key %+q, holder %+v", what, l.Key, l.Holder)
		}
	}
	holder.in.Close()
	if code := holder.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, holder.errors())
	}
}

// A loss that only the release has found out is told in a whole sentence, with the
// lock's name as the user gave it, once.
func TestLossThatTheReleaseFoundOut(t *testing.T) {
	key := lockPath(t)
	code, _, stderr := run(t, "run", key, "--", "sh", "-c", bin+` break "$HASP_KEY" --token $HASP_TOKEN >&2`)
	_, after, ok := strings.Cut(stderr, "broken\n")
	if code != 76 || !ok {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	after = strings.TrimSuffix(after, "\n")
	if !strings.HasPrefix(after, `hasp: run "`+key+`": lock was lost`) || !strings.HasSuffix(after, "; the command had run to its end by then, and another may have held the lock meanwhile") ||
		strings.Count(after, "lock\":") != 1 || strings.Contains(after, "release \"") || strings.Contains(after, ": ;") {
		t.Errorf("it says %q", after)
	}
}
