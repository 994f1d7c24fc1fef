//go:build linux

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal starts a command on a terminal of its own and returns the other end
// of that, and all that was seen on it so far.
func onTerminal(t *testing.T, name string, args ...string) (p *proc, keys *os.File, screen *watched) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Env = append(os.Environ(), "TERM=xterm", "PS1=$ ")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	p = &proc{t: t, cmd: cmd, done: make(chan struct{})}
	screen = &watched{}
	read := make(chan struct{})
	p.stderr = screen
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buf)
			_, _ = screen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	go func() {
		_ = cmd.Wait()
		<-read // which ends when nobody has the terminal open: all has been seen then
		close(p.done)
	}()
	t.Cleanup(func() {
		killSession(cmd.Process.Pid)
		<-p.done
		ptmx.Close()
	})
	return p, ptmx, screen
}

// killSession kills all that runs on a terminal.
func killSession(sid int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		// pid (name) state ppid pgrp session
		pid, _, _ := strings.Cut(string(text), " ")
		fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
		if len(fields) > 3 && fields[3] == strconv.Itoa(sid) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}

func (p *proc) shows(what string) {
	p.t.Helper()
	defer func() {
		if p.t.Failed() {
			p.t.Logf("on the terminal: %q", p.stderr.String())
		}
	}()
	eventually(p.t, fmt.Sprintf("%q is on the terminal", what), func() bool { return strings.Contains(p.stderr.String(), what) })
}

func TestTerminalIsTheCommands(t *testing.T) {
	p, keys, _ := onTerminal(t, bin, "run", lockPath(t), "--", "sh", "-c", `echo "ready"; read x; echo "<$x>"; read x; echo not reached`)
	p.shows("ready")
	fmt.Fprint(keys, "typed\n")
	p.shows("<typed>")
	fmt.Fprint(keys, "\x03")
	if code := p.wait(); code != 128+int(syscall.SIGINT) {
		t.Errorf("Ctrl-C: exit %d", code)
	}
}

func TestTerminalShowsWhoHoldsIt(t *testing.T) {
	key := lockPath(t)
	holder := holding(t, key, "--owner", "trainer-7")
	p, _, screen := onTerminal(t, bin, "run", key, "--", "echo", "mine")
	p.shows("held by trainer-7 (")
	first := strings.Count(screen.String(), "held by")
	eventually(t, "the line is kept up to date", func() bool { return strings.Count(screen.String(), "held by") > first })
	if s := screen.String(); strings.Contains(s, "\n") {
		t.Errorf("more than one line: %q", s)
	}
	holder.in.Close()
	p.shows("mine")
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if s := screen.String(); !strings.Contains(s, "\r\x1b[Kmine") {
		t.Errorf("the line was not taken away: %q", s)
	}
}

// On every store the line fits into 80 columns, whatever the names, and says who
// holds the lock, for how long, and what is left of the waiting; and it moves.
func TestTerminalLineFits(t *testing.T) {
	for name, url := range stores(t) {
		for i, owner := range []string{"me", "trainer-" + strings.Repeat("long-", 20) + "7", strings.Repeat("鎖", 40)} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				key := fmt.Sprintf("a/directory/that-is-so-deep/that/it-does-not/fit-into-the-line-%d/lock", i)
				holder := holding(t, key, "--on", url, "--owner", owner)
				p, _, screen := onTerminal(t, bin, "run", "--on", url, "--max-wait", "10m", key, "--", "echo", "mine")
				line := regexp.MustCompile(`^hasp: .*lock: held by \S.* for (\d+s\+?); (\d+m\d+s) left$`)
				var seen [][]string
				eventually(t, "the line has moved twice", func() bool {
					seen = nil
					parts := strings.Split(screen.String(), "\r\x1b[K")
					for _, part := range parts[min(1, len(parts)-1) : len(parts)-1] { // the last may be incomplete
						m := line.FindStringSubmatch(part)
						if m == nil {
							t.Fatalf("the line is %q", part)
						}
						wide := len([]rune(part)) + strings.Count(part, "鎖")
						if wide > 79 {
							t.Fatalf("%d columns: %q", wide, part)
						}
						if n := len(seen); n == 0 || seen[n-1][1] != m[1] && seen[n-1][2] != m[2] {
							seen = append(seen, m)
						}
					}
					return len(seen) > 2
				})
				t.Log(seen[0][0])
				holder.in.Close()
				p.shows("mine")
				if code := p.wait(); code != 0 {
					t.Errorf("exit %d", code)
				}
				holder.wait()
			})
		}
	}
}

// The end of a key is no place for the password of a URL either.
func TestTerminalLineHasNoSecret(t *testing.T) {
	t.Setenv("HASP_URL", redisServer(t))
	key := "https://" + strings.Repeat("user", 10) + ":hunter2@host/data"
	holder := holding(t, key)
	p, _, screen := onTerminal(t, bin, "run", key, "--", "echo", "mine")
	p.shows("held by")
	holder.in.Close()
	p.shows("mine")
	p.wait()
	if s := screen.String(); strings.Contains(s, "hunter2") {
		t.Errorf("on the terminal: %q", s)
	}
}

// A script's Ctrl-C is the script's as much as the command's.
func TestTerminalInAScript(t *testing.T) {
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(sleepVar, "1")
	p, keys, screen := onTerminal(t, "bash", "-c", bin+` run "$0" -- "$1"; echo went on`, lockPath(t), me)
	p.shows("ready")
	fmt.Fprint(keys, "\x03")
	p.wait()
	if s := screen.String(); strings.Contains(s, "went on") {
		t.Errorf("the script was not stopped: %q", s)
	}
}

func TestTerminalForACommandInAPipeline(t *testing.T) {
	p, keys, _ := onTerminal(t, "bash", "-c", bin+` run "$0" -- sh -c 'echo ready; read x; echo "<$x>"' | cat`, lockPath(t))
	p.shows("ready")
	fmt.Fprint(keys, "typed\n")
	p.shows("<typed>")
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestCtrlZ(t *testing.T) {
	p, keys, _ := onTerminal(t, "bash", "--norc", "--noprofile", "-i")
	fmt.Fprintf(keys, "%s run %s -- sh -c 'echo rea''dy; while read x; do echo \"<$x>\"; done'; echo ended=$?\n", bin, lockPath(t))
	p.shows("ready")
	fmt.Fprint(keys, "\x1a")
	p.shows("Stopped")
	fmt.Fprint(keys, "echo at the she''ll\n")
	p.shows("at the shell")
	fmt.Fprint(keys, "fg\n")
	fmt.Fprint(keys, "typed\n")
	p.shows("<typed>")
	fmt.Fprint(keys, "\x04")
	p.shows("ended=")
	fmt.Fprint(keys, "exit\n")
	p.wait()
}

// When its terminal goes away a stopped command is not left behind, with the lock.
func TestHangUpWhileStopped(t *testing.T) {
	key := lockPath(t)
	p, _, _ := onTerminal(t, "bash", "-c", bin+` run "$0" -- sh -c 'echo ready $$; read x'; exit`, key)
	p.shows("ready")
	var pid int
	if _, err := fmt.Sscanf(p.stderr.String(), "ready %d", &pid); err != nil {
		t.Fatal(err)
	}
	holder := status(t, key).Holder
	if holder == nil {
		t.Fatal("nobody holds the lock")
	}
	if err := syscall.Kill(pid, syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command is stopped", func() bool { return state(pid) == "T" })
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lock is free", func() bool { return status(t, key).State == "free" })
	eventually(t, "the command has gone", func() bool { return !alive(pid) })
}

// state is a process's, one letter.
func state(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:min(1, len(rest))]
}
