package newbackend_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Many who open a database that does not exist yet all succeed, and share it.
func TestOpenTogether(t *testing.T) {
	for round := range 10 {
		url := fmt.Sprintf("sqlite://%s/%d%%3F%%23%%25.db", t.TempDir(), round) // and odd names are names
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := 0
		for i := range 16 {
			wg.Go(func() {
				b, err := backend.Open(t.Context(), url)
				if err != nil {
					t.Error(err)
					return
				}
				defer b.Close()
				c := backend.Claim{ID: fmt.Sprintf("claim-%d", i), TTL: time.Minute}
				if _, err := b.Acquire(t.Context(), "k", c); err == nil {
					mu.Lock()
					got++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if got != 1 {
			t.Errorf("%d of 16 got the key", got)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"sqlite:":                           "want sqlite:///path/to/file.db",
		"sqlite::memory:":                   "want sqlite:///path/to/file.db",
		"sqlite:relative.db":                "want sqlite:///path/to/file.db",
		"sqlite://relative.db":              "want sqlite:///path/to/file.db",
		"sqlite://" + dir + "/x.db?mode=ro": `unknown option "mode"`,
		"sqlite://" + dir:                   "unable to open database file",
		"sqlite://" + dir + "/no/such.db":   "unable to open database file",
		"sqlite://" + dir + "/text":         "file is not a database",
	} {
		b, err := backend.Open(t.Context(), url)
		if err == nil {
			b.Close()
			t.Errorf("Open(%q) gave no error, and should say %q", url, want)
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), url) {
			t.Errorf("Open(%q) says %q, and should say %q", url, err, want)
		}
	}
}
