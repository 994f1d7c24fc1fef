//go:build linux

package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// zombies returns how many children of pid have ended and were not collected.
func zombies(pid int) (n int) {
	for _, child := range children(pid) {
		if state(child) == "Z" {
			n++
		}
	}
	return n
}

// Helpers whose parents have ended are hasp's, and are collected while the command
// runs, whichever group they are in.
func TestOrphansAreCollected(t *testing.T) {
	p := start(t, "run", lockPath(t), "--", "sh", "-c", `
i=0; while [ $i -lt 100 ]; do (sh -c : &); (setsid sh -c : &); i=$((i+1)); done
sh -c 'sleep 0.2 & echo $! >&3' 3>&1
echo made; read x; exit 0`)
	adopted := p.pid()
	if got := p.line(); got != "made" {
		t.Fatalf("got %q", got)
	}
	hasp := p.cmd.Process.Pid
	eventually(t, "it has adopted the last one, and collected it", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", adopted))
		return err != nil
	})
	eventually(t, "no zombies are left", func() bool { return zombies(hasp) == 0 })
	p.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d: %s", code, p.errors())
	}
}

// As process 1 hasp has orphans also while it waits, and they may be in its own
// group: what a script has started before it became hasp.
func TestOrphansOfProcessOne(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a namespace; what it is for is tested by CI, which is root")
	}
	key := lockPath(t)
	holder := holding(t, key)
	p := startCmd(t, exec.Command("unshare", "--pid", "--fork", "--kill-child", "sh", "-c",
		`sleep 0.2 & sleep 0.2 & setsid sleep 0.2 & exec "$0" run "$1" -- true`, bin, key))
	p.waiting()
	init := children(p.cmd.Process.Pid)
	if len(init) != 1 {
		t.Fatalf("the processes 1 are %v", init)
	}
	eventually(t, "its orphans have ended and are collected", func() bool { return len(children(init[0])) == 0 })
	holder.in.Close()
	if code := p.wait(); code != 0 {
		t.Errorf("exit %d: %s", code, p.errors())
	}
}

// zombieOutside leaves a zombie in its group, whose parent leaves the group and
// lives on.
const zombieOutside = `import os, sys, time
if os.fork() == 0:
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
time.sleep(1000)`

// A group of which nothing is left but zombies that are not hasp's to collect is gone.
func TestZombiesDoNotKeepTheLock(t *testing.T) {
	key := lockPath(t)
	p := start(t, "run", "--grace", "1s", key, "--", "sh", "-c", `python3 -c "$0" & read x; exit 7`, zombieOutside)
	parent := p.pid()
	t.Cleanup(func() { _ = syscall.Kill(parent, syscall.SIGKILL) })
	eventually(t, "there is a zombie", func() bool { return zombies(parent) == 1 })
	p.in.Close()
	if code := p.wait(); code != 7 {
		t.Errorf("exit %d, want the command's own, 7: %s", code, p.errors())
	}
	if zombies(parent) != 1 {
		t.Error("the zombie has gone: nothing was tested")
	}
	if s := status(t, key).State; s != "free" {
		t.Errorf("the lock is %s", s)
	}
}

// Where /proc is another namespace's it does not have the group, which is then not
// taken for gone.
func TestForeignProc(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a namespace; what it is for is tested by CI, which is root")
	}
	dir := tempDir(t)
	mark := filepath.Join(dir, "mark")
	p := startCmd(t, exec.Command("unshare", "--pid", "--fork", bin, "run", "--timeout", "300s", "--grace", "100s",
		filepath.Join(dir, "lock"), "--", "sh", "-c",
		`trap "" TERM; exec 3<&0; sh -c 'echo up; read x; touch "$0"' "$0" <&3 & exit 0`, mark))
	if got := p.line(); got != "up" {
		t.Fatalf("got %q", got)
	}
	fmt.Fprintln(p.in)
	if code := p.wait(); code != 0 || strings.Contains(p.errors(), "warning") {
		t.Errorf("exit %d: %s", code, p.errors())
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error("hasp has ended before what its command had left running:", err)
	}
}
