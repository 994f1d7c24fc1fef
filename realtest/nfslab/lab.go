//go:build linux

package nfslab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Options of a lab. The zero value is one client with the options that AWS EFS
// documents, NFS 4.1, and a server lease of 10 s.
type Options struct {
	Clients int           // default 1, at most 200
	Version string        // NFS version: 4.0, 4.1 (default) or 4.2
	Lease   time.Duration // the server's lease and grace period; default and least 10 s
	Mount   string        // mount options, added to those of MountOptions
	Memory  string        // of each host; default 256M
}

// MountOptions are what AWS EFS documents for its mounts.
const MountOptions = "hard,timeo=600,retrans=2,noresvport,rsize=1048576,wsize=1048576"

const (
	network   = "10.77.0." // in a namespace of its own, so it is free
	gateway   = network + "254"
	bridge    = "lab"
	modules   = "/usr/lib/uml/modules"
	bootLimit = time.Minute
	dialLimit = 10 * time.Second
)

// Lab is a server and its clients.
type Lab struct {
	Server  *Host
	Clients []*Host

	opts Options
	dir  string
	net  *namespace
}

// Check says what is missing to start a lab here, or nil.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("nfslab: user-mode kernels with a network need root")
	}
	var missing []string
	for command, pkg := range map[string]string{"linux.uml": "user-mode-linux", "modprobe": "kmod", "mount.nfs4": "nfs-common",
		"rpc.nfsd": "nfs-kernel-server", "ip": "iproute2", "mkfs.ext4": "e2fsprogs"} {
		if _, err := exec.LookPath(command); err != nil {
			missing = append(missing, pkg)
		}
	}
	if missing != nil {
		return fmt.Errorf("nfslab: install %s (scripts/nfs-needs does)", strings.Join(missing, ", "))
	}
	return nil
}

// Start boots the server and the clients, which have mounted the export when it
// returns. The caller must Close the lab.
func Start(o Options) (_ *Lab, err error) {
	if err := Check(); err != nil {
		return nil, err
	}
	o.Clients = max(o.Clients, 1)
	if o.Clients > 200 {
		return nil, fmt.Errorf("nfslab: %d clients are too many: at most 200", o.Clients)
	}
	if o.Version == "" {
		o.Version = "4.1"
	}
	if o.Memory == "" {
		o.Memory = "256M"
	}
	o.Lease = max(o.Lease, 10*time.Second)
	// Not a test's own folder: what is written there is mounted over in the hosts.
	dir, err := os.MkdirTemp("", "hasp-nfslab-")
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: o, dir: dir}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := l.prepare(); err != nil {
		return nil, err
	}
	if l.net, err = newNamespace(); err != nil {
		return nil, err
	}
	if err := l.net.run("ip link set lo up", "ip link add "+bridge+" type bridge", "ip addr add "+gateway+"/24 dev "+bridge, "ip link set "+bridge+" up"); err != nil {
		return nil, err
	}
	l.Server = newHost(l, 1)
	if err := l.Server.Boot(); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	errs := make([]error, o.Clients)
	for i := range o.Clients {
		h := newHost(l, i+2)
		l.Clients = append(l.Clients, h)
		wg.Go(func() { errs[i] = h.Boot() })
	}
	wg.Wait()
	return l, errors.Join(errs...)
}

// prepare makes what the hosts need in the lab's folder.
func (l *Lab) prepare() error {
	if err := os.Chmod(l.dir, 0o755); err != nil {
		return err
	}
	releases, err := filepath.Glob(modules + "/*")
	if err == nil && len(releases) == 0 {
		err = fmt.Errorf("nfslab: no kernel modules in %s: install user-mode-linux", modules)
	}
	if err != nil {
		return err
	}
	for _, d := range []string{"export", "mnt", "bin", "lib/modules"} {
		if err := os.MkdirAll(filepath.Join(l.dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, r := range releases {
		if err := os.Symlink(r, filepath.Join(l.dir, "lib/modules", filepath.Base(r))); err != nil {
			return err
		}
	}
	script := "#!/bin/sh\nexec modprobe -d " + l.dir + ` "$@"` + "\n"
	if err := os.WriteFile(filepath.Join(l.dir, "modprobe"), []byte(script), 0o755); err != nil {
		return err
	}
	disk := filepath.Join(l.dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(disk, 256<<20); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return Build("", "github.com/hasplock/hasp/realtest/nfslab/internal/host", filepath.Join(l.dir, "host"))
}

// Build builds a Go package, without C, to a program at path. dir is where the go
// command runs; empty for here.
func Build(dir, pkg, path string) error {
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", pkg, err, out)
	}
	return nil
}

// Mount is where clients have the export.
func (l *Lab) Mount() string { return filepath.Join(l.dir, "mnt") }

// Bin is a folder for programs: all hosts see it by this path.
func (l *Lab) Bin() string { return filepath.Join(l.dir, "bin") }

// Listen listens on this machine at an address that the hosts can reach.
func (l *Lab) Listen() (net.Listener, error) {
	return l.net.listen(gateway + ":0")
}

// Close powers all hosts off and removes the lab's network and files.
func (l *Lab) Close() error {
	for _, h := range append(l.Clients, l.Server) {
		if h != nil {
			h.Crash()
		}
	}
	if l.net != nil {
		l.net.close()
	}
	return os.RemoveAll(l.dir)
}
