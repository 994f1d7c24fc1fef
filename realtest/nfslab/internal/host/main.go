//go:build linux

// Command host is what a kernel of the lab runs first: it sets the host up as server
// or client, starts the agent, and then reaps processes whose parents have gone.

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp/realtest/nfslab/internal/agent"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "agent" {
		l, err := net.Listen("tcp4", net.JoinHostPort("", strconv.Itoa(agent.Port)))
		if err == nil {
			err = agent.Serve(l)
		}
		fmt.Println("nfshost: agent:", err)
		os.Exit(1)
	}
	err := initialize()
	fmt.Println("nfshost:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// initialize returns only if something failed: process 1 must not end.
func initialize() error {
	for k, v := range map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"} {
		os.Setenv(k, v)
	}
	var c agent.HostConfig
	b, err := os.ReadFile(os.Getenv("nfshost"))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := unix.Sethostname([]byte(c.Name)); err != nil {
		return err
	}
	// the kernel asks for modules by itself, too
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(c.Dir+"/modprobe"), 0o644); err != nil {
		return err
	}
	if err := run("ip link set lo up", "ip addr add "+c.Addr+" dev vec0", "ip link set vec0 up"); err != nil {
		return err
	}
	if c.Source == "" {
		err = serve(c)
	} else {
		err = mount(c)
	}
	if err != nil {
		return err
	}
	// A process of its own: this one waits for all children, those of others too.
	p, err := os.StartProcess("/proc/self/exe", []string{"nfshost", "agent"}, &os.ProcAttr{
		Files: []*os.File{nil, os.Stdout, os.Stderr}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && err != unix.EINTR || pid == p.Pid {
			return fmt.Errorf("the agent ended (%v)", err)
		}
	}
}

func run(commands ...string) error {
	for _, s := range commands {
		out, err := exec.Command("sh", "-c", s).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", s, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// serve exports an ext4 disk. What a server has to remember of its clients over a
// reboot is on that disk too: without it there would be no grace period.
func serve(c agent.HostConfig) error {
	if _, err := os.Stat("/dev/ubda"); err != nil {
		if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount /dev: %w", err)
		}
	}
	lease := strconv.Itoa(c.Lease)
	return run(
		"mount -t ext4 /dev/ubda "+c.Point,
		"mkdir -p "+c.Point+"/.server/v4recovery "+c.Point+"/.server/rpc_pipefs /run/rpcbind && chmod 1777 "+c.Point+" && chmod 700 "+c.Point+"/.server",
		"mount --bind "+c.Point+"/.server /var/lib/nfs && touch /var/lib/nfs/etab /var/lib/nfs/rmtab",
		c.Dir+"/modprobe nfsd",
		"mount -t nfsd nfsd /proc/fs/nfsd",
		"exportfs -o rw,no_root_squash,fsid=0,insecure,no_subtree_check,sync '*:"+c.Point+"'",
		"rpc.mountd -N 2 -N 3 </dev/null >/dev/null 2>&1",
		// the least that the kernel admits is 10 s
		"rpc.nfsd -N 3 -V 4.0 -U --lease-time "+lease+" --grace-time "+lease+" 4",
	)
}

// mount tries for a while: hosts may be booted in any order.
func mount(c agent.HostConfig) error {
	if err := run(c.Dir + "/modprobe nfsv4"); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := run("mount -t nfs4 -o " + c.Options + " " + c.Source + " " + c.Point)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
