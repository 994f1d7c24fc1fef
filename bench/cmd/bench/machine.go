//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// fact is a line of the table about the machine.
type fact struct{ name, value string }

// machine finds out what the figures were made on.
func (r *report) machine(ctx context.Context, l *lab) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	c := newRedis(l.redis)
	defer c.Close()
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	e, err := newEtcd(l.etcd)
	if err != nil {
		return err
	}
	defer e.Close()
	status, err := e.Status(ctx, l.etcd)
	if err != nil {
		return err
	}
	r.facts = []fact{
		{"processor", fmt.Sprintf("%d × %s", runtime.NumCPU(), processor())},
		{"system", fmt.Sprintf("%s %s, %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), runtime.GOARCH)},
		{"Go", runtime.Version()},
		{"Redis", field(info, "redis_version:") + ", no persistence, TCP on the loopback interface"},
		{"etcd", status.Version + ", one node, embedded in a process of its own, with fsync"},
		{"temporary folder", fileSystem(l.tmp)},
		{"load average at the start", load()},
	}
	return nil
}

// field is the rest of the line of text that starts with prefix.
func field(text, prefix string) string {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "of unknown version"
}

// processor is its name, where the system has it in a file.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "processor"
	}
	for lines := bufio.NewScanner(strings.NewReader(string(text))); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "processor"
}

// load is the load average of the last minute: what else the machine does.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// fileSystems are the numbers by which Linux names them.
var fileSystems = map[uint32]string{
	0xef53: "ext4", 0x01021994: "tmpfs", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs",
}

func fileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil {
		if name, ok := fileSystems[uint32(st.Type)]; ok {
			return name
		}
	}
	return "local disk"
}
