//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test's own program be the fleet's processes.
func TestMain(m *testing.M) {
	if os.Getenv(jobVar) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	var out bytes.Buffer
	if err := parent(t.Context(), append(args, "-o", "json"), &out); err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	t.Logf("%+v", r)
	for _, phase := range []string{"old", "both", "new"} {
		if r.ByPhase[phase] == 0 {
			t.Errorf("nothing was acquired in phase %s", phase)
		}
	}
	if r.Overlaps+r.Disorder+r.WrongValues > 0 || r.ValuesSet == 0 {
		t.Errorf("%+v", r)
	}
	return r
}

func TestAFleetMovesAndComesBack(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("redis-server has to be installed: make test does")
	}
	page := filepath.Join(t.TempDir(), "report.html")
	r := run(t, "-acquisitions", "300", "-report", page)
	if r.Lost+r.Errors > 0 {
		t.Errorf("%d leases lost, %d errors", r.Lost, r.Errors)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`class="both"`, "both&#43;new", "worker 12", "0 overlaps"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
}

func TestAFleetMovesThoughItsProcessesDie(t *testing.T) {
	// An operator that is killed costs the next one 30 s, so none is here.
	r := run(t, "-acquisitions", "300", "-kill", "-processes", "6")
	if r.Kills+r.Stops == 0 {
		t.Error("no process was killed or stopped")
	}
}

func TestAFleetMovesBetweenTwoServers(t *testing.T) {
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Fatal("etcd has to be installed: make test does")
	}
	run(t, "-acquisitions", "200", "-old", "etcd", "-processes", "6")
}

// In etcd a waiter and a holder are one entry.
func TestAFleetMovesToEtcd(t *testing.T) {
	if r := run(t, "-acquisitions", "1000", "-new", "etcd"); r.Lost > 0 {
		t.Errorf("%d leases lost", r.Lost)
	}
}

// EfsLock processes work on the same files until those are sealed, and again afterwards.
func TestAFleetMovesBesideEfsLock(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("python3 has to be installed: make test does")
	}
	r := run(t, "-acquisitions", "600", "-legacy", "2", "-processes", "6")
	if r.LegacySections == 0 {
		t.Error("the EfsLock processes never had a lock")
	}
	if r.WorstWait > 600 {
		t.Errorf("somebody waited for %v s", r.WorstWait)
	}
}

// The witness sees what it is there for.
func TestWitness(t *testing.T) {
	a, b := &process{number: 1, phase: "old"}, &process{number: 2, phase: "new"}
	for want, says := range map[string]func(w *witness){
		"overlaps": func(w *witness) {
			w.hear(a, message{Kind: isIn, Key: "k", Token: 1, At: 10, Until: 100})
			w.hear(b, message{Kind: isIn, Key: "k", Token: 2, At: 50, Until: 150})
		},
		"tokens out of order": func(w *witness) {
			w.hear(a, message{Kind: isIn, Key: "k", Token: 2, At: 10, Until: 100})
			w.hear(a, message{Kind: isOut, Key: "k", Token: 2, At: 20})
			w.hear(b, message{Kind: isIn, Key: "k", Token: 2, At: 50, Until: 150})
		},
		"wrong values": func(w *witness) {
			w.hear(a, message{Kind: isIn, Key: "k", Token: 1, At: 10, Until: 100})
			w.hear(a, message{Kind: isSetting, Key: "k", Token: 1, Value: "x"})
			w.hear(a, message{Kind: isSet, Key: "k", Token: 1, Value: "x"})
			w.hear(a, message{Kind: isRead, Key: "k", Token: 1, Value: ""})
		},
		"refused for their phase": func(w *witness) {
			w.hear(a, message{Kind: isRefused, Key: "k", Text: "not admitted"})
		},
	} {
		w := newWitness()
		says(w)
		if err := w.fault(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	w := newWitness()
	w.hear(a, message{Kind: isIn, Key: "k", Token: 1, At: 10, Until: 100})
	w.hear(a, message{Kind: isSetting, Key: "k", Token: 1, Value: "x"})
	w.gone(a)
	w.hear(b, message{Kind: isIn, Key: "k", Token: 2, At: 50, Until: 150})
	w.hear(b, message{Kind: isRead, Key: "k", Token: 2, Value: "x"})
	if err := w.fault(); err != nil {
		t.Errorf("of one that was killed while it set a value: %v", err)
	}
	w.hear(b, message{Kind: isRead, Key: "k", Token: 2, Value: ""})
	if w.fault() == nil {
		t.Error("a value that came and went was not seen")
	}
	// One that was stopped as soon as it was granted: before it could say so, and as it did.
	for _, m := range []message{{Token: 1, At: 300, Until: 100}, {Token: 1, At: 50, Until: 100, heard: 300}} {
		w := newWitness()
		w.hear(b, message{Kind: isIn, Key: "k", Token: 2, At: 150, Until: 250})
		m.Kind, m.Key = isIn, "k"
		w.hear(a, m)
		w.hear(b, message{Kind: isOut, Key: "k", Token: 2, At: 240})
		if err := w.fault(); err != nil || w.late != 1 || w.holds[0].Ended != "left" {
			t.Errorf("of one that came in after its deadline: %v, late %d, its successor %s", err, w.late, w.holds[0].Ended)
		}
	}
}
