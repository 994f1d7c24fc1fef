//go:build unix

package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// lock is what status -o json prints.
type lock struct {
	Key    string
	State  string
	Token  uint64
	Holder *struct {
		Owner, Host string
		PID         int
	}
}

func status(t *testing.T, key string, flags ...string) (l lock) {
	t.Helper()
	code, out, stderr := run(t, append([]string{"status", "-o", "json", key}, flags...)...)
	if code != 0 {
		t.Fatalf("status: exit %d: %s", code, stderr)
	}
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		t.Fatalf("status: %v: %s", err, out)
	}
	return l
}

func TestEnvironmentAndStandardStreams(t *testing.T) {
	key := lockPath(t)
	p := start(t, "run", "--owner", "me", key, "--", "sh", "-c",
		`echo "$HASP_KEY"; echo "$HASP_TOKEN"; echo "$HASP_HOLDER"; cat; echo problem >&2`)
	if got := p.line(); got != key {
		t.Errorf("HASP_KEY is %q, want %q", got, key)
	}
	now := status(t, key)
	if got := p.line(); got != fmt.Sprint(now.Token) {
		t.Errorf("HASP_TOKEN is %s, want %d", got, now.Token)
	}
	want := fmt.Sprintf("me (host %s, pid %d)", now.Holder.Host, p.cmd.Process.Pid)
	if got := p.line(); got != want {
		t.Errorf("HASP_HOLDER is %q, want %q", got, want)
	}
	fmt.Fprintln(p.in, "through standard input")
	if got := p.line(); got != "through standard input" {
		t.Errorf("got %q", got)
	}
	p.in.Close()
	if code := p.wait(); code != 0 || p.errors() != "problem\n" {
		t.Errorf("exit %d, standard error %q", code, p.errors())
	}
}

// A hasp run by a hasp's command gives its own token, once.
func TestEnvironmentOfANestedRun(t *testing.T) {
	dir := tempDir(t)
	code, out, stderr := run(t, "run", dir+"/outer", "--", bin, "run", dir+"/inner", "--", "env")
	if code != 0 || strings.Count(out, "HASP_TOKEN=") != 1 || !strings.Contains(out, "HASP_KEY="+dir+"/inner\n") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
}

func TestKeysOfAStore(t *testing.T) {
	dir := tempDir(t)
	t.Setenv("HASP_URL", "efs://"+dir)
	code, out, stderr := run(t, "run", "deep/in/key", "--", "sh", "-c", `echo $HASP_KEY`)
	if code != 0 || out != "deep/in/key\n" {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "deep", "in", ".key.hasp")); err != nil {
		t.Error(err)
	}
}

// A path goes where the kernel says, not where its text seems to: another program
// that opens the same path must find the same lock.
func TestDotDotAfterALink(t *testing.T) {
	dir := tempDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "far", "away"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("far", "away"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := run(t, "run", dir+"/link/../lock", "--", "test", "-e", filepath.Join(dir, "far", "lock"))
	if code != 0 {
		t.Errorf("the lock file is not where open(2) has it: exit %d: %s", code, stderr)
	}
}

func TestNoLockfile(t *testing.T) {
	key := lockPath(t)
	code, _, stderr := run(t, "run", "--no-lockfile", key, "--", "test", "!", "-e", key)
	if code != 0 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if code, _, _ := run(t, "run", key, "--", "test", "-e", key); code != 0 {
		t.Error("without the flag there is no lock file")
	}
}

func TestOnce(t *testing.T) {
	dir := tempDir(t)
	key, mark := filepath.Join(dir, "lock"), filepath.Join(dir, "done")
	once := func() (code int, ran bool) {
		t.Helper()
		code, out, stderr := run(t, "once", "-o", "json", key, "--unless", mark, "--", "sh", "-c", `echo made; touch "$0"`, mark)
		var res struct {
			Key, Error string
			Ran        bool
			Exit       int
			Token      uint64
		}
		if err := json.Unmarshal([]byte(stderr), &res); err != nil {
			t.Fatalf("%v: %q", err, stderr)
		}
		if (out == "made\n") != res.Ran || (res.Token != 0) != res.Ran || res.Exit != code || res.Key != key || res.Error != "" {
			t.Errorf("output %q, result %s", out, stderr)
		}
		return code, res.Ran
	}
	if code, ran := once(); code != 0 || !ran {
		t.Errorf("first: exit %d, ran %v", code, ran)
	}
	if code, ran := once(); code != 0 || ran {
		t.Errorf("second: exit %d, ran %v", code, ran)
	}
}

func TestOnceAmongMany(t *testing.T) {
	dir := tempDir(t)
	key, mark := filepath.Join(dir, "lock"), filepath.Join(dir, "done")
	var ps []*proc
	for range 8 {
		ps = append(ps, start(t, "once", key, "--unless", mark, "--", "sh", "-c", `echo >> "$0".runs; mv "$0".runs "$0"`, mark))
	}
	for _, p := range ps {
		if code := p.wait(); code != 0 {
			t.Errorf("exit %d: %s", code, p.errors())
		}
	}
	text, err := os.ReadFile(mark)
	if err != nil || string(text) != "\n" {
		t.Errorf("it ran %d times (%v)", strings.Count(string(text), "\n"), err)
	}
}

// golden replaces what differs from run to run by its kind.
func golden(s string, names ...string) string {
	for i, n := range names {
		s = strings.ReplaceAll(s, n, fmt.Sprintf("<%d>", i))
	}
	s = regexp.MustCompile(`"(owner|host)":"[^"]+"`).ReplaceAllString(s, `"$1":"<s>"`)
	s = regexp.MustCompile(`"(token|pid)":[1-9][0-9]*`).ReplaceAllString(s, `"$1":<n>`)
	return regexp.MustCompile(`"(held|remaining)_seconds":[0-9]+(\.[0-9]+)?([,}])`).ReplaceAllString(s, `"${1}_seconds":<s>$3`)
}

const heldJSON = `{"key":"<0>/lock","state":"held","holder":{"owner":"<s>","host":"<s>","pid":<n>},"token":<n>,"ttl_seconds":60,"held_seconds":<s>,"remaining_seconds":<s>,"note":""}`

func TestJSON(t *testing.T) {
	dir := tempDir(t)
	key := filepath.Join(dir, "lock")
	ask := func(want string, wantCode int, args ...string) {
		t.Helper()
		code, out, stderr := run(t, append(args, "-o", "json")...)
		if got := strings.TrimSpace(golden(out, dir)); code != wantCode || got != want {
			t.Errorf("hasp %s: exit %d, want %d\n got %s\nwant %s\n%s", args[0], code, wantCode, got, want, stderr)
		}
	}
	const free = `{"key":"<0>/lock","state":"free","holder":null,"token":0,"ttl_seconds":0,"held_seconds":<s>,"remaining_seconds":<s>,"note":""}`
	ask(free, 0, "status", key)
	ask(`[]`, 0, "list", dir)
	ask(`{"key":"<0>/lock","broken":false,"now":null}`, 0, "break", key, "--token", "1")

	p := holding(t, key, "--timeout", "60s")
	token := fmt.Sprint(status(t, key).Token)
	ask(heldJSON, 0, "status", key)
	ask("["+heldJSON+"]", 0, "list", dir)
	ask("["+strings.Replace(heldJSON, "<0>/lock", "lock", 1)+"]", 0, "list", "--on", "efs://"+dir)
	ask("["+strings.Replace(heldJSON, "<0>/lock", "lock", 1)+"]", 0, "list", "--on", "efs://"+dir, "lo")
	ask(`[]`, 0, "list", "--on", "efs://"+dir, "x")
	ask(`{"key":"<0>/lock","broken":false,"now":`+heldJSON+`}`, 75, "break", key, "--token", "1")
	ask(`{"key":"<0>/lock","broken":true,"now":null}`, 0, "break", key, "--token", token)
	p.in.Close()
	p.wait()
}

func TestText(t *testing.T) {
	dir := tempDir(t)
	key := filepath.Join(dir, "lock")
	p := holding(t, key, "--owner", "me")
	_, out, _ := run(t, "status", key)
	if want := fmt.Sprintf("%s: held by me (host ", key); !strings.HasPrefix(out, want) || !strings.Contains(out, "stale in ") {
		t.Errorf("status: %q, want %q first", out, want)
	}
	_, list, _ := run(t, "list", dir)
	if lines := strings.Split(list, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], "KEY ") || strings.Index(lines[0], "HOLDER") != strings.Index(lines[1], "me (host ") {
		t.Errorf("list: %q", list)
	}
	code, _, stderr := run(t, "break", key, "--token", "1")
	if code != 75 || !strings.Contains(stderr, "now held by me (host ") {
		t.Errorf("break: exit %d: %s", code, stderr)
	}
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("the holder: exit %d: %s", code, p.errors())
	}
}

// Looking does not make anything.
func TestLookingAtADirectoryThatIsNotThere(t *testing.T) {
	dir := filepath.Join(tempDir(t), "missing")
	for _, args := range [][]string{{"status", dir + "/lock"}, {"break", dir + "/lock", "--token", "0"}} {
		if code, out, stderr := run(t, args...); code != 0 || !strings.Contains(out, dir) {
			t.Errorf("%q: exit %d: %s%s", args, code, out, stderr)
		}
	}
	if code, _, stderr := run(t, "list", dir); code == 0 || !strings.Contains(stderr, "no such file") {
		t.Errorf("list: exit %d: %s", code, stderr)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
}

func TestVersionAndCompletion(t *testing.T) {
	_, long, _ := run(t, "version")
	if code, out, _ := run(t, "--version"); code != 0 || out != long || !strings.HasPrefix(out, "hasp ") {
		t.Errorf("--version: exit %d: %q, want %q", code, out, long)
	}
	code, out, _ := run(t, "version", "-o", "json")
	var v struct {
		Go       string
		Backends []string
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || !strings.HasPrefix(v.Go, "go") || !strings.Contains(strings.Join(v.Backends, " "), "efs") {
		t.Errorf("version: exit %d: %v: %s", code, err, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, stderr := run(t, "completion", shell); code != 0 || !strings.Contains(out, "hasp") {
			t.Errorf("completion %s: exit %d: %s", shell, code, stderr)
		}
	}
}

// A scheme that this program lacks is the business of the program hasp-SCHEME.
func TestHandOver(t *testing.T) {
	dir := tempDir(t)
	script := "#!/bin/sh\necho \"$@\"\nexit 5\n"
	if err := os.WriteFile(filepath.Join(dir, "hasp-elsewhere"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "run", "--on", "elsewhere://host", "k", "--", "true")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	p := startCmd(t, cmd)
	if got, want := p.line(), "run --on elsewhere://host k -- true"; got != want {
		t.Errorf("its arguments are %q, want %q", got, want)
	}
	if code := p.wait(); code != 5 {
		t.Errorf("exit %d, want its own, 5", code)
	}
}
