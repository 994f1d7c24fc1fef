//go:build linux

package main_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// speaksEtcd checks that the hasp in dir has etcd's backend, called by a link too.
func speaksEtcd(t *testing.T, dir string) {
	t.Helper()
	link := filepath.Join(tempDir(t), "hasp")
	if err := os.Symlink(filepath.Join(dir, "hasp"), link); err != nil {
		t.Fatal(err)
	}
	for _, hasp := range []string{filepath.Join(dir, "hasp"), link} {
		code, _, stderr := runCmd(t, exec.Command(hasp, "run", "--on", "ETCD://127.0.0.1:1/?timeout=1s", "k", "--", "true"))
		if code != 69 || !strings.Contains(stderr, "connection refused") {
			t.Errorf("%s: exit %d, want 69 from etcd's backend: %s", hasp, code, stderr)
		}
		if _, out, _ := runCmd(t, exec.Command(hasp, "version")); !strings.Contains(out, " etcd, etcds,") {
			t.Errorf("%s: version says %q", hasp, out)
		}
	}
}

func TestMakeInstallsTheWhole(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if code, out, stderr := runCmd(t, exec.Command("make", "-C", "../..", "install", "PREFIX=/usr", "DESTDIR="+dir)); code != 0 {
		t.Fatalf("make install: exit %d: %s%s", code, out, stderr)
	}
	speaksEtcd(t, filepath.Join(dir, "usr", "bin"))
}

func TestAnArchiveHasTheWhole(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	cmd := exec.Command("../../scripts/package")
	cmd.Env = append(os.Environ(), "DIST="+dir)
	code, out, stderr := runCmd(t, cmd)
	if code != 0 {
		t.Fatalf("scripts/package: exit %d: %s%s", code, out, stderr)
	}
	archive := strings.TrimSpace(out)
	sums := exec.Command("sha256sum", "--strict", "-c", "SHA256SUMS")
	sums.Dir = dir
	if code, out, stderr := runCmd(t, sums); code != 0 || out != filepath.Base(archive)+": OK\n" {
		t.Errorf("SHA256SUMS: exit %d: %s%s", code, out, stderr)
	}
	if code, _, stderr := runCmd(t, exec.Command("tar", "-C", dir, "-xzf", archive)); code != 0 {
		t.Fatalf("tar: %s", stderr)
	}
	speaksEtcd(t, strings.TrimSuffix(archive, ".tar.gz"))
}

// hasp hands over to no other part than its own.
func TestPartsOfDifferentBuilds(t *testing.T) {
	t.Parallel()
	other := filepath.Join(tempDir(t), "hasp-etcd")
	if code, _, stderr := runCmd(t, exec.Command("go", "build", "-tags", "other", "-o", other, "./hasp-etcd")); code != 0 {
		t.Fatal(stderr)
	}
	script := filepath.Join(tempDir(t), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho handed over\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ part, says string }{
		"missing":       {"", "other part is missing"},
		"another build": {other, "is not of the same build"},
		"hasp itself":   {bin, "is not of the same build"},
		"no program":    {script, "cannot be recognized"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			copyFile(t, bin, filepath.Join(dir, "hasp"))
			if c.part != "" {
				copyFile(t, c.part, filepath.Join(dir, "hasp-etcd"))
			}
			cmd := exec.Command(filepath.Join(dir, "hasp"), "run", "--on", "etcd://127.0.0.1:1/?timeout=1s", "k", "--", "true")
			// One in PATH does not help.
			cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"))
			code, out, stderr := runCmd(t, cmd)
			if code != 70 || out != "" || !strings.Contains(stderr, c.says) || !strings.Contains(stderr, "make install") {
				t.Errorf("exit %d, want 70: %s%s", code, out, stderr)
			}
			if _, out, _ := runCmd(t, exec.Command(filepath.Join(dir, "hasp"), "version")); strings.Contains(out, "etcd") {
				t.Errorf("version says %q", out)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	r, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(w, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
