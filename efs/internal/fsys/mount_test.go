//go:build unix

package fsys

import (
	"runtime"
	"strings"
	"testing"
)

// The warnings and refusals of mounts, by what the system says of them.
func TestMounts(t *testing.T) {
	for _, c := range []struct {
		m              Mount
		refused, warns string
	}{
		{Mount{Type: "ext4", Source: "server:/", Options: []string{"rw"}}, "", ""},
		{Mount{Type: "nfs4", Source: "server:/", Options: []string{"rw", "vers=4.1", "hard"}}, "", ""},
		{Mount{Type: "nfs4", Source: "server:/", Options: []string{"rw", "vers=4.1", "soft"}}, "", "soft"},
		{Mount{Type: "nfs4", Source: "server:/", Options: []string{"rw", "vers=4.0", "hard"}}, "", "4.0"},
		{Mount{Type: "nfs4", Source: "server:/", Options: []string{"rw", "vers=4.1", "nocto"}}, "nocto", ""},
		{Mount{Type: "nfs", Source: "server:/", Options: []string{"rw", "vers=3"}}, "version 3", ""},
		{Mount{Type: "fuse.s3fs", Source: "server:/", Options: []string{"rw"}}, "not atomic", "fuse.s3fs"},
		{Mount{Type: "cifs", Source: "server:/", Options: []string{"rw"}}, "", "cifs"},
		{Mount{Type: "gfs2", Source: "/dev/dm-1", Options: []string{"rw"}}, "", "one clock"},
		{Mount{Type: "ceph", Source: "server:/", Options: []string{"rw"}}, "", "one clock"},
		{Mount{Type: "a-new-one", Source: "x", Options: []string{"rw"}}, "", "one clock"},
		{Mount{Type: "vfat", Source: "/dev/sda1", Options: []string{"rw"}}, "", ""},
		{Mount{Type: "fuse", Source: "mountpoint-s3", Options: []string{"rw"}}, "not atomic", "fuse"},
		{Mount{Type: "fuse", Source: "blobfuse2", Options: []string{"rw"}}, "not atomic", "fuse"},
		{Mount{Type: "fuse.sshfs", Source: "host:", Options: []string{"rw"}}, "", "fuse.sshfs"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=loose"}}, "cache=loose", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=fscache"}}, "cache=fscache", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=none"}}, "", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw"}}, "", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=mmap"}}, "", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=5"}}, "", "9p"}, // mmap, from Linux 6.4 on
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=0x5"}}, "", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=1"}}, "", "9p"}, // readahead
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=f"}}, "cache=f", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=0x8f"}}, "cache=0x8f", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=2"}}, "cache=2", "9p"},
		{Mount{Type: "9p", Source: "share", Options: []string{"rw", "cache=whatever"}}, "cache=whatever", "9p"},
	} {
		if why := c.m.Refusal(); (why == "") != (c.refused == "") || !strings.Contains(why, c.refused) {
			t.Errorf("%v: refused for %q, want %q", c.m, why, c.refused)
		}
		if ws := strings.Join(c.m.Warnings(), "; "); (ws == "") != (c.warns == "") || !strings.Contains(ws, c.warns) {
			t.Errorf("%v: warnings %q, want %q", c.m, ws, c.warns)
		}
	}
	for _, c := range []struct {
		types            []string
		network, relayed bool
	}{
		{[]string{"", "ext4", "xfs", "tmpfs", "overlay", "vfat", "exfat", "hfsplus"}, false, false},
		{[]string{"nfs", "nfs4", "cifs", "9p", "virtiofs", "fuseblk"}, true, false},
		{[]string{"fuse", "fuse.sshfs", "ceph", "lustre", "glusterfs", "gfs2", "ocfs2", "gpfs", "beegfs", "a-new-one"}, true, true},
	} {
		for _, name := range c.types {
			if m := (Mount{Type: name}); m.Network() != c.network || m.Relayed() != c.relayed {
				t.Errorf("%s: on a network %v, relayed %v", name, m.Network(), m.Relayed())
			}
		}
	}
	if runtime.GOOS == "linux" {
		if m, ok := MountOf("/proc"); !ok || m.Type != "proc" || m.Network() {
			t.Errorf("/proc is on %+v, %v", m, ok)
		}
	}
}
