//go:build linux

package efs

import (
	"os"
	"os/exec"
	"testing"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// Times in whole seconds are told, and what that means for TTLs.
func TestExamineTimesInSeconds(t *testing.T) {
	t.Parallel()
	dir := mounted(t, 16, []string{"mkfs.ext4", "-q", "-I", "128"}, "mount")
	got := examined(t, fsys.OS{}, dir, nil, nil)
	mustFind(t, got, backend.LevelWarning, "times", "steps of 1s", "2s", "--timeout")
	if ps := got.problems(); ps != nil {
		t.Errorf("problems:%v", ps)
	}
	dir = mounted(t, 16, []string{"mkfs.ext4", "-q", "-I", "256"}, "mount")
	mustFind(t, examined(t, fsys.OS{}, dir, nil, nil), backend.LevelOK, "times")
}

// A file system without inodes, and one that may not be written.
func TestExamineFullAndReadOnly(t *testing.T) {
	dir := tmpfs(t, "size=1m,nr_inodes=3")
	if err := os.WriteFile(dir+"/a", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/b", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got := examined(t, fsys.OS{}, dir, nil, nil)
	mustFind(t, got, backend.LevelProblem, "space", "0 inodes free", "remove")
	mustFind(t, got, backend.LevelProblem, "write", "nothing can be tried")
	dir = tmpfs(t, "size=1m")
	if out, err := exec.Command("mount", "-o", "remount,ro", dir).CombinedOutput(); err != nil {
		t.Fatalf("remount: %s", out)
	}
	mustFind(t, examined(t, fsys.OS{}, dir, nil, nil), backend.LevelProblem, "read-only", "read-write")
}

// Through a program that remembers names it is told how late a rename is seen.
func TestExaminePeerOfSSHFS(t *testing.T) {
	t.Parallel()
	options, below := sshd(t), full(t)
	peer := relayed(t, "sshfs", "-o", options+",dcache_timeout=1", "root@127.0.0.1:"+below)
	mustFind(t, peered(t, fsys.OS{}, below, peer), backend.LevelWarning, "peer-sight", "late", "dir_cache=no")
}
