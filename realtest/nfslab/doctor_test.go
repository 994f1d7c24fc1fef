//go:build linux

package nfslab_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/realtest/nfslab"
)

// diagnosis is what hasp doctor says with -o json.
type diagnosis struct {
	Problems int
	Findings []struct{ Check, Level, Subject, Seen, Advice string }
}

// doctor runs it on a host.
func doctor(t *testing.T, l *nfslab.Lab, h *nfslab.Host, args ...string) (d diagnosis) {
	t.Helper()
	argv := append([]string{filepath.Join(l.Bin(), "hasp"), "doctor", "-o", "json"}, args...)
	// Its exit status is 1 if there is a problem, which is looked at as Problems.
	out, err := h.Shell(patience(t), strings.Join(argv, " ")+" || [ $? = 1 ]")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range d.Findings {
		t.Logf("%s %s %s: %s", f.Level, f.Check, f.Subject, f.Seen)
	}
	return d
}

func (d diagnosis) mustHave(t *testing.T, level, check string, words ...string) {
	t.Helper()
	for _, f := range d.Findings {
		ok := f.Level == level && f.Check == check
		for _, w := range words {
			ok = ok && strings.Contains(f.Subject+" "+f.Seen+" "+f.Advice, w)
		}
		if ok {
			return
		}
	}
	t.Errorf("no %s of %q with %q", level, check, words)
}

// What is wrong with a mount is found on a real one, and a good one has no problem; two hosts'
// views, or two mounts of one host, are compared.
func TestDoctor(t *testing.T) {
	l := lab(t)
	d, h := folder(t, l), l.Clients[0]
	again := func(t *testing.T, h *nfslab.Host, name, options string) (path string) {
		t.Helper()
		point := filepath.Join(l.Bin(), "../doctor-"+name)
		shell(t, h, "mkdir -p "+point)
		if err := h.MountAgain(patience(t), point, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = h.Run(context.Background(), "umount", "-l", point) })
		return filepath.Join(point, filepath.Base(d))
	}
	t.Run("good", func(t *testing.T) {
		got := doctor(t, l, h, d)
		if got.Problems > 0 {
			t.Error("a good mount has problems")
		}
		for _, check := range []string{"mounted", "mount", "rename", "mkdir", "guard", "fence", "listing", "times", "clock", "exclusion"} {
			got.mustHave(t, "ok", check)
		}
		got.mustHave(t, "ok", "requests", "RENAME", "GETATTR")
		if left := shell(t, h, "ls -A "+d); left != "" {
			t.Errorf("left behind: %s", left)
		}
	})
	t.Run("delegations", func(t *testing.T) {
		doctor(t, l, h, "'efs://"+d+"?lockfile=file'").mustHave(t, "warning", "delegations", "lock may be lost", "leases-enable")
		doctor(t, l, h, d).mustHave(t, "warning", "delegations", "EfsLock")
		doctor(t, l, h, "'efs://"+d+"?lockfile=false'").mustHave(t, "ok", "delegations")
	})
	t.Run("soft", func(t *testing.T) {
		got := doctor(t, l, h, again(t, h, "soft", "soft"))
		got.mustHave(t, "warning", "soft", "mount it with hard")
		if got.Problems > 0 {
			t.Error("soft is no problem")
		}
	})
	t.Run("nocto", func(t *testing.T) {
		doctor(t, l, h, again(t, h, "nocto", "nocto")).mustHave(t, "problem", "nocto", "mount it without")
	})
	t.Run("peer", func(t *testing.T) {
		got := doctor(t, l, h, d, "--peer", again(t, h, "peer", ""))
		if got.Problems > 0 {
			t.Error("two mounts have problems")
		}
		for _, check := range []string{"peer-sight", "peer-rename", "peer-locks"} {
			got.mustHave(t, "ok", check)
		}
	})
	t.Run("clock", func(t *testing.T) {
		if err := l.Server.SetClock(patience(t), -10*time.Minute); err != nil {
			t.Fatal(err)
		}
		got := doctor(t, l, h, d)
		if err := l.Server.SetClock(patience(t), 0); err != nil {
			t.Fatal(err)
		}
		got.mustHave(t, "warning", "clock", "behind this host's", "NTP")
	})
	t.Run("gone", func(t *testing.T) {
		if err := l.Server.Stall(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got := doctor(t, l, h, d, "--timeout", "3s")
		if err := l.Server.Resume(); err != nil {
			t.Fatal(err)
		}
		got.mustHave(t, "problem", "timeout", "not done after 3s", "ls")
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
