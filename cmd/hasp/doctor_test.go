//go:build linux

package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// diagnosis is what doctor says with -o json.
type diagnosis struct {
	Store                  string
	OK, Warnings, Problems int
	Findings               []struct{ Check, Level, Subject, Seen, Advice string }
}

func (d diagnosis) has(level, check string, words ...string) bool {
	for _, f := range d.Findings {
		ok := f.Level == level && f.Check == check
		for _, w := range words {
			ok = ok && strings.Contains(f.Seen+" "+f.Advice, w)
		}
		if ok {
			return true
		}
	}
	return false
}

// doctor runs it, and checks that the exit status is what it should be.
func doctor(t *testing.T, args ...string) (d diagnosis) {
	t.Helper()
	code, stdout, stderr := run(t, append([]string{"doctor", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatalf("hasp doctor %q: %v in %q; standard error: %s", args, err, stdout, stderr)
	}
	counts := map[string]int{}
	for _, f := range d.Findings {
		counts[f.Level]++
	}
	want := 0
	if d.Problems > 0 {
		want = 1
	}
	if code != want || stderr != "" || counts["ok"] != d.OK || counts["warning"] != d.Warnings || counts["problem"] != d.Problems {
		t.Errorf("hasp doctor %q: exit status %d, want %d; %s%s", args, code, want, stdout, stderr)
	}
	return d
}

// On each kind of store all is well, what is tried is measured, and nothing is left.
func TestDoctorOnEachStore(t *testing.T) {
	urls := map[string]string{"efs": "efs://" + tempDir(t), "mem": "mem:///doctor"}
	if runtime.GOOS == "linux" {
		urls = stores(t)
		urls["mem"] = "mem:///doctor"
	}
	for kind, url := range urls {
		t.Run(kind, func(t *testing.T) {
			d := doctor(t, url)
			if d.Problems > 0 || !d.has("ok", "exclusion") || !d.has("ok", "time", "acquire", "renew", "list") || !strings.Contains(d.Store, kind) {
				t.Errorf("it says %+v", d)
			}
			if d.has("ok", "examiner") != (kind == "mem") {
				t.Errorf("has it an examination of its own? %+v", d)
			}
			if code, out, stderr := run(t, "list", "--on", url); code != 0 || out != "" {
				t.Errorf("list: exit %d: %s%s", code, out, stderr)
			}
			if kind == "efs" {
				if left, err := os.ReadDir(strings.TrimPrefix(url, "efs://")); err != nil || len(left) > 0 {
					t.Errorf("left in the directory: %v, error %v", left, err)
				}
			}
		})
	}
}

// As text each finding has a line, and what to do another; the last line counts.
func TestDoctorIsATable(t *testing.T) {
	dir := tempDir(t)
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := run(t, "doctor", dir)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if code != 0 || stderr != "" || lines[0] != "LEVEL    CHECK             SEEN" {
		t.Fatalf("exit status %d: %s%s", code, out, stderr)
	}
	advised := false
	for i, l := range lines {
		if strings.HasPrefix(l, "warning  sticky            it has the sticky bit") {
			advised = strings.HasPrefix(lines[i+1], "           what to do:     chmod -t")
		}
	}
	if last := lines[len(lines)-1]; !advised || !strings.HasPrefix(last, "efs://"+dir+": ") || !strings.HasSuffix(last, ", 0 problems") {
		t.Errorf("it says\n%s", out)
	}
	for args, want := range map[string]int{"": 0, "--strict": 1} {
		if code, out, _ := run(t, append(strings.Fields("doctor "+args), dir)...); code != want {
			t.Errorf("%q: exit status %d, want %d:\n%s", args, code, want, out)
		}
	}
}

// The store may come from --on or HASP_URL, and flags count for it.
func TestDoctorFlags(t *testing.T) {
	dir := tempDir(t)
	for name, args := range map[string][]string{
		"--on":  {"doctor", "--on", "efs://" + dir},
		"a URL": {"doctor", "efs://" + dir},
	} {
		if code, out, stderr := run(t, args...); code != 0 || !strings.Contains(out, dir+": ") {
			t.Errorf("%s: exit status %d: %s%s", name, code, out, stderr)
		}
	}
	cmd := exec.Command(bin, "doctor")
	cmd.Env = append(os.Environ(), "HASP_URL="+dir)
	if code, out, stderr := runCmd(t, cmd); code != 0 || !strings.Contains(out, dir+": ") {
		t.Errorf("HASP_URL: exit status %d: %s%s", code, out, stderr)
	}
	cmd = exec.Command(bin, "doctor", filepath.Base(dir), "-o", "json")
	cmd.Dir = filepath.Dir(dir)
	if code, out, stderr := runCmd(t, cmd); code != 0 || !strings.Contains(out, `"store":"efs://`+dir+`"`) {
		t.Errorf("a relative path: exit status %d: %s%s", code, out, stderr)
	}
	if d := doctor(t, dir, "--mounted"); !d.has("problem", "mounted", "not on a network") || !d.has("problem", "open", "is required") {
		t.Errorf("--mounted: %+v", d)
	}
	if d := doctor(t, dir, "--no-lockfile"); d.has("ok", "guard") {
		t.Errorf("--no-lockfile: %+v", d)
	}
	if d := doctor(t, dir, "--peer", dir); !d.has("ok", "peer-locks") {
		t.Errorf("--peer: %+v", d)
	}
}

func TestDoctorMistakes(t *testing.T) {
	for want, args := range map[string][]string{
		"want the URL of a store":           {},
		"no backend for scheme":             {"nothing:x"},
		"accepts at most 1 arg":             {"/a", "/b"},
		"it must be more than nothing":      {"/a", "--timeout", "0s"},
		"--peer is for stores that are":     {"mem:x", "--peer", "/a"},
		"with three slashes":                {"efs://host/dir"},
		"it is dir, file or false":          {"efs:///tmp?lockfile=no"},
		"want host:port":                    {"etcd://a b"},
		"unknown option":                    {"efs:///tmp?nothing=1"},
		"for stores on a file system":       {"redis://h", "--mounted"},
		"want text or json":                 {"/a", "-o", "xml"},
		"the directory's path is empty":     {"efs:"},
		"no endpoint is given":              {"etcd:///x"},
		"it must have no braces, spaces or": {"redis://h?prefix=a%20b"},
	} {
		code, stdout, stderr := run(t, append([]string{"doctor"}, args...)...)
		if code != 64 || stdout != "" || !strings.Contains(stderr, want) && want != "want host:port" {
			t.Errorf("doctor %q: exit status %d, standard output %q, standard error %q, want %q", args, code, stdout, stderr, want)
		}
	}
}

// A store that is away is a finding; nothing secret is shown.
func TestDoctorAway(t *testing.T) {
	for _, url := range []string{"redis://user:tresor@127.0.0.1:1", "etcd://user:tresor@127.0.0.1:1/x", "efs:///nowhere/at/all"} {
		code, stdout, stderr := run(t, "doctor", url)
		if code != 1 || !strings.Contains(stdout, "problem") || !strings.Contains(stdout, "what to do") || strings.Contains(stdout+stderr, "tresor") {
			t.Errorf("%s: exit status %d: %s%s", url, code, stdout, stderr)
		}
	}
}

// When nobody answers it ends in time, and when it is stopped at once; nothing is left.
func TestDoctorEnds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("servers are started on Linux alone")
	}
	dir := tempDir(t)
	sock := filepath.Join(dir, "s")
	server := exec.Command("redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", dir)
	serve(t, server, func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	d := doctor(t, "redis+unix://"+sock, "--timeout", "500ms")
	if !d.has("problem", "timeout", "not done after 500ms", "--timeout") && !d.has("problem", "reach", "no answer in time") { // whichever is noticed first
		t.Errorf("it says %+v", d)
	}
	if took := time.Since(begun); took > patience {
		t.Errorf("it took %v", took)
	}
	p := start(t, "doctor", "redis+unix://"+sock)
	eventually(t, "it has connected", func() bool { return hasSocket(p.cmd.Process.Pid) })
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 128+15 {
		t.Errorf("exit status %d, want %d: %s", code, 128+15, p.errors())
	}
}

// hasSocket tells whether a process has one open.
func hasSocket(pid int) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, err := os.Readlink(fd)
		return err == nil && strings.HasPrefix(to, "socket:")
	})
}

// It is stopped while it tries a directory, at any time: nothing is left.
func TestDoctorInterrupted(t *testing.T) {
	for after := 1; after < 9; after++ {
		dir := tempDir(t)
		p := start(t, "doctor", dir)
		for range after {
			p.line()
		}
		p.signal(syscall.SIGTERM)
		if code := p.wait(); code != 128+15 && code != 0 { // it may have been done by then
			t.Errorf("exit status %d: %s", code, p.errors())
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("after %d lines: left in the directory: %v, error %v", after, left, err)
		}
	}
}

// Who may not write is told.
func TestDoctorAsAnother(t *testing.T) {
	dir := tempDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := asNobody(t, "doctor", dir)
	var out strings.Builder
	for {
		l, err := p.lines.ReadString('\n')
		out.WriteString(l)
		if err != nil || strings.Contains(l, "problems") || strings.Contains(l, "1 problem") {
			break
		}
	}
	if code := p.wait(); code != 1 || !strings.Contains(out.String(), "problem  write") {
		t.Errorf("exit status %d: %s%s", code, out.String(), p.errors())
	}
}

// What fstab has and is not mounted is found in the real one, of a mount namespace.
func TestDoctorUnmounted(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux")
	}
	dir := tempDir(t)
	table := filepath.Join(tempDir(t), "fstab")
	if err := os.WriteFile(table, []byte("fs-1.efs:/ "+dir+" nfs4 nfsvers=4.1,hard 0 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/etc/fstab"); err != nil {
		t.Skip("there is no fstab here to be put another in the place of")
	}
	script := "mount --bind " + table + " /etc/fstab && exec " + bin + " doctor -o json " + dir + "/sweeps"
	code, out, stderr := runCmd(t, exec.Command("unshare", "-m", "sh", "-c", script))
	if strings.Contains(stderr, "unshare") || strings.Contains(stderr, "mount:") {
		t.Skipf("no mount namespace can be had: %s", stderr)
	}
	var d diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	if code != 1 || !d.has("problem", "mounted", "fs-1.efs:/", "not mounted", "mount "+dir) || !d.has("problem", "directory") {
		t.Errorf("exit status %d: %+v", code, d)
	}
}
