//go:build unix

package main_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"syscall"
	"testing"
)

// migration is a URL between two directories, and what a process of a phase is given.
func migration(t *testing.T) (op string, of func(phase string) string) {
	old, new := "efs://"+tempDir(t), "efs://"+tempDir(t)
	of = func(phase string) string {
		return "migrate:?name=sweeps&phase=" + phase + "&old=" + url.QueryEscape(old) + "&new=" + url.QueryEscape(new)
	}
	return strings.Replace(of(""), "&phase=", "", 1), of
}

// An operator takes a fleet from one directory to another and back, and every process is
// refused that is in the wrong phase.
func TestMigrate(t *testing.T) {
	t.Parallel()
	op, of := migration(t)
	must := func(want int, words string, args ...string) string {
		t.Helper()
		code, out, errs := run(t, args...)
		if code != want || !strings.Contains(out+errs, words) {
			t.Fatalf("hasp %q: status %d, want %d; %s%s", args, code, want, out, errs)
		}
		return out
	}
	must(1, "hasp migrate start", "migrate", "status", op)
	must(78, "has no record", "run", "--on", of("old"), "k", "--", "true")
	must(78, "hasp migrate start", "migrate", "advance", op)
	must(0, "would lead", "migrate", "start", "--dry-run", op)
	must(0, "stage old", "migrate", "start", op)
	must(78, "has a record", "migrate", "start", op)
	must(0, "", "run", "--on", of("old"), "k", "--", "true")
	must(78, "stage old", "run", "--on", of("both"), "k", "--", "true")
	must(0, "from stage old to old+both", "migrate", "advance", "--to", "old+both", op)
	must(0, "at stage old+both already", "migrate", "advance", "--to", "old+both", op)
	must(78, "not to both+new", "migrate", "advance", "--to", "both+new", op)
	must(64, "want old, old+both", "migrate", "advance", "--to", "", op)

	held := holding(t, "k", "--on", of("old"))
	must(75, "held by", "run", "--try", "--on", of("both"), "k", "--", "true")
	must(0, "both", "migrate", "advance", op)
	must(75, `"k" is held by`, "migrate", "advance", op)
	out := must(75, "", "migrate", "advance", "-o", "json", op)
	var step struct {
		Done    bool
		Refused struct {
			Passes  bool
			Holders []struct{ Key string }
		}
	}
	if err := json.Unmarshal([]byte(out), &step); err != nil || step.Done || !step.Refused.Passes || len(step.Refused.Holders) != 1 || step.Refused.Holders[0].Key != "k" {
		t.Errorf("%v: %s", err, out)
	}
	status := must(0, "not now", "migrate", "status", op)
	for _, w := range []string{"held in the old store", "last seen", "back to old+both: safe"} {
		if !strings.Contains(status, w) {
			t.Errorf("status does not say %q:\n%s", w, status)
		}
	}
	held.signal(syscall.SIGTERM)
	held.wait()
	must(78, "--legacy-gone", "migrate", "advance", "--wait", op)
	must(0, "both+new", "migrate", "advance", "--wait", "--legacy-gone", op)
	must(78, "stage both+new", "run", "--on", of("old"), "k", "--", "true")
	must(0, "", "run", "--on", of("new"), "k", "--", "true")
	must(0, "", "once", "--on", of("new"), "sweep", "--keep", "--", "echo", "id-1")
	must(0, "settled", "migrate", "advance", "--wait", op)
	must(0, "id-1", "value", "--on", of("new"), "sweep")
	must(78, "stage new", "run", "--on", of("both"), "k", "--", "true")
	for range 4 {
		must(0, "from stage", "migrate", "back", "--wait", op)
	}
	must(0, "id-1", "value", "--on", of("old"), "sweep")
	must(0, "finished", "migrate", "finish", op)
	must(78, "finished", "run", "--on", of("old"), "k", "--", "true")

	must(64, "want the URL of a migration", "migrate", "status")
	must(64, "is a URL", "run", of("old"), "--", "true") // and no lock file of that name
	must(64, "is not the URL of a migration", "migrate", "status", "--on", "mem:")
	must(64, "unknown option", "run", "--on", of("old")+"&x=1", "k", "--", "true")
	must(64, "want old, both or new", "run", "--on", of("older"), "k", "--", "true")
}

// A migration to or from etcd is for the part that has etcd, and one between stores that
// no program has together is refused.
func TestMigrateHandsOver(t *testing.T) {
	t.Parallel()
	old := url.QueryEscape("efs://" + tempDir(t))
	u := "migrate:?name=s&phase=both&old=" + old + "&new="
	code, out, errs := run(t, "status", "--on", u+url.QueryEscape("etcd://user:hunter2@127.0.0.1:1/?timeout=100ms"), "k")
	if code != 69 || strings.Contains(out+errs, "hunter2") || strings.Contains(errs, "no backend") {
		t.Errorf("status %d: %s%s", code, out, errs)
	}
	code, _, errs = run(t, "status", "--on", "migrate:?name=s&phase=both&old=nosuch%3Ax&new=etcd%3A%2F%2F127.0.0.1%3A1", "k")
	if code != 64 || !strings.Contains(errs, "no program has") {
		t.Errorf("status %d: %s", code, errs)
	}
}

// Seal closes the old store's locks to those who do not look, and unseal opens them.
func TestMigrateSeal(t *testing.T) {
	t.Parallel()
	op, of := migration(t)
	old, _, _ := strings.Cut(strings.SplitN(of("old"), "old=", 2)[1], "&")
	old, err := url.QueryUnescape(old)
	if err != nil {
		t.Fatal(err)
	}
	must := func(want int, words string, args ...string) {
		t.Helper()
		code, out, errs := run(t, args...)
		if code != want || !strings.Contains(out+errs, words) {
			t.Fatalf("hasp %q: status %d, want %d; %s%s", args, code, want, out, errs)
		}
	}
	must(0, "stage old", "migrate", "start", op)
	must(0, "", "run", "--on", of("old"), "k", "--", "true")
	must(0, "old+both", "migrate", "advance", op)
	must(78, "phase old", "migrate", "seal", op)
	must(0, "both", "migrate", "advance", op)
	must(78, "hasp migrate seal", "migrate", "advance", op)
	must(0, "right one", "migrate", "seal", "--dry-run", op)
	must(0, "seal: 1 locks", "migrate", "seal", "--wait", op)
	must(0, "both (sealed)", "migrate", "status", op)
	must(0, `"sealed":true`, "migrate", "status", "-o", "json", op)
	must(78, "moved to", "run", "--on", old, "k", "--", "true")
	must(0, "", "run", "--on", of("both"), "k", "--", "true")
	must(0, "both+new", "migrate", "advance", op)
	must(0, "", "run", "--on", of("new"), "k", "--", "true")
	must(0, "", "run", "--on", of("both"), "k", "--", "true")
	must(78, "phase new", "migrate", "unseal", op)
	must(0, "both", "migrate", "back", op)
	must(0, `"keys":["k"]`, "migrate", "unseal", "-o", "json", op)
	must(0, "", "run", "--on", old, "k", "--", "true")
}
