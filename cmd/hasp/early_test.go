//go:build linux

package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// silent returns the address of a server that accepts connections and never answers, and
// what is closed when the first has come.
func silent(t *testing.T) (addr string, came <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	first := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if n == 0 {
				close(first)
			}
		}
	}()
	return l.Addr().String(), first
}

// bySignal tells whether p was ended by sig: by the signal itself, or with its status.
func (p *proc) bySignal(sig syscall.Signal) bool {
	p.t.Helper()
	code := p.wait()
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ws.Signaled() && ws.Signal() == sig || code == 128+int(sig)
}

// A signal while a store is opened is what hasp was ended by, whatever the store makes of
// it, and hasp ends at once.
func TestSignalWhileAStoreIsOpened(t *testing.T) {
	for _, scheme := range []string{"etcd", "redis"} {
		for verb, args := range map[string][]string{
			"run":    {"run", "k", "--", "true"},
			"once":   {"once", "k", "--keep", "--", "true"},
			"json":   {"run", "-o", "json", "k", "--", "true"},
			"forget": {"forget", "k"},
			"doctor": {"doctor"},
			"verify": {"verify"},
			"status": {"status", "k"},
			"value":  {"value", "k"},
			"list":   {"list"},
			"break":  {"break", "k", "--token", "1"},
		} {
			for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
				t.Run(fmt.Sprint(scheme, " ", verb, " ", sig), func(t *testing.T) {
					t.Parallel()
					addr, came := silent(t)
					args := slices.Concat(args[:1], []string{"--on", scheme + "://" + addr}, args[1:])
					p := start(t, args...)
					select {
					case <-came:
					case <-time.After(patience):
						t.Fatalf("it does not connect: %s", p.errors())
					}
					p.signal(sig)
					if !p.bySignal(sig) {
						t.Errorf("%v, want signal %d: %s", p.cmd.ProcessState, sig, p.errors())
					}
				})
			}
		}
	}
}

// A Ctrl-C while a store is opened is the script's too.
func TestTerminalInAScriptThatConnects(t *testing.T) {
	for _, scheme := range []string{"etcd", "redis"} {
		for _, args := range []string{"run k -- true", "once k --keep -- true", "-o json run k -- true", "forget k", "doctor"} {
			t.Run(scheme+" "+args, func(t *testing.T) {
				t.Parallel()
				addr, came := silent(t)
				p, keys, screen := onTerminal(t, "bash", "-c", bin+" --on "+scheme+"://"+addr+" "+args+"; echo went on")
				select {
				case <-came:
				case <-time.After(patience):
					t.Fatalf("it does not connect: %s", screen)
				}
				fmt.Fprint(keys, "\x03")
				p.wait()
				if s := screen.String(); strings.Contains(s, "went on") {
					t.Errorf("the script was not stopped: %q", s)
				}
			})
		}
	}
}

// A signal while hasp looks for its other part ends it: the part would know nothing of it,
// and would take the lock.
func TestSignalWhileHandingOver(t *testing.T) {
	dir := tempDir(t)
	hasp, part := filepath.Join(dir, "hasp"), filepath.Join(dir, "hasp-etcd")
	if err := os.Link(bin, hasp); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(part, 0o755); err != nil { // that stops whoever looks into it
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"run", "k", "--", "true", "--timeout", "5s"},
		{"once", "k", "--keep", "--", "true", "--timeout", "5s"},
		{"forget", "k"},
		{"doctor"},
		{"verify"},
	} {
		p := startCmd(t, exec.Command(hasp, slices.Concat(args[:1], []string{"--on", "etcd://127.0.0.1:1"}, args[1:])...))
		eventually(t, "it looks for its other part", func() bool { return opening(p.cmd.Process.Pid) })
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("%s: it goes on", args[0])
		}
		if s := p.errors(); s != "" {
			t.Errorf("%s: it says what its other part is going to say: %s", args[0], s)
		}
		if !p.bySignal(syscall.SIGTERM) {
			t.Errorf("%s: %v: %s", args[0], p.cmd.ProcessState, p.errors())
		}
	}
}

// opening tells whether a thread of the process waits for a file to be opened.
func opening(pid int) bool {
	calls, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	return slices.ContainsFunc(calls, func(path string) bool {
		text, _ := os.ReadFile(path)
		return strings.HasPrefix(string(text), fmt.Sprint(syscall.SYS_OPENAT, " "))
	})
}

// A SIGTERM at any time after the start ends hasp, and the command if it has begun.
func TestSignalEarly(t *testing.T) {
	for name, url := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range 60 {
				p := start(t, "run", "--on", url, fmt.Sprint("k", i), "--", "sleep", "5")
				time.Sleep(time.Duration(i) * 2 * time.Millisecond) // which of its steps it is in matters to nobody
				p.signal(syscall.SIGTERM)
				if !p.bySignal(syscall.SIGTERM) {
					t.Errorf("after %d ms: %v: %s", 2*i, p.cmd.ProcessState, p.errors())
				}
			}
		})
	}
}

// What the command line is warned of is said once, also by two programs.
func TestMisplacedFlagIsWarnedOfOnce(t *testing.T) {
	for name, url := range stores(t) {
		code, _, stderr := run(t, "run", "--on", url, "k", "--", "sh", "-c", "exit 0", "sh", "--timeout", "5s")
		if code != 0 || strings.Count(stderr, "--timeout after --") != 1 {
			t.Errorf("%s: exit %d, want one warning: %s", name, code, stderr)
		}
	}
}
