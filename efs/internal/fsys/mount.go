//go:build unix

package fsys

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hasplock/hasp/backend"
)

// Mount is what the system says of the file system that a directory is on.
type Mount struct {
	Type    string
	Source  string
	Options []string
	Point   string // where it is mounted; empty if that is not known
}

// Has tells whether it is mounted with this option.
func (m Mount) Has(option string) bool { return slices.Contains(m.Options, option) }

func (m Mount) nfs() bool { return strings.HasPrefix(m.Type, "nfs") }
func (m Mount) fuse() bool {
	return m.Type == "fuseblk" || m.Type == "fuse" || strings.HasPrefix(m.Type, "fuse.")
}

// proven are types of which it is known that a directory's time moves with each rename in
// it. One host alone has such a file system, and its clock gives all times.
var proven = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "ramfs"}

// disks are other types that one host alone has, and those that no locks can be on.
var disks = []string{"exfat", "vfat", "msdos", "ntfs", "ntfs3", "hfs", "hfsplus", "apfs", "nilfs2", "minix", "udf", "ufs", "hpfs", "ubifs", "jffs2", "hostfs", "aufs", "ecryptfs", "squashfs", "erofs", "iso9660", "autofs", "proc", "sysfs", "cgroup2", "devtmpfs", "rootfs"}

// servers are types whose directories get their times from the server, besides NFS.
var servers = []string{"cifs", "smb3", "9p", "afs", "virtiofs"}

// Network tells whether what one host does may be seen late by another. So it is wherever it is
// not known that one host has it alone.
func (m Mount) Network() bool {
	return m.Type != "" && !slices.Contains(proven, m.Type) && !slices.Contains(disks, m.Type)
}

// Remote is Network without the FUSE programs that keep their files on a local disk.
func (m Mount) Remote() bool { return m.Network() && m.Type != "fuseblk" }

// TimesKnown tells whether a directory's time is known to move with each rename in it
// on this type of file system. Of NFS it is the server's that decides.
func (m Mount) TimesKnown() bool { return slices.Contains(proven, m.Type) }

// Relayed tells whether the times that are seen may be old, or by several clocks. A program
// that stands between the system and the files may remember what they were, and has a clock of
// its own: sshfs remembers attributes for 20 s, and programs on top of a network file system
// what that has cached. Where several hosts write to one disk, or to many servers (gfs2, ocfs2,
// ceph, lustre, gpfs, ...), each gives what it changes its own time, or it is not known who does.
func (m Mount) Relayed() bool {
	return m.fuse() && m.Type != "fuseblk" || m.severalClocks()
}

func (m Mount) severalClocks() bool {
	return m.Network() && !m.fuse() && !m.nfs() && !slices.Contains(servers, m.Type)
}

// objectStores are programs that show a store of objects as files, by their names as
// types (after "fuse.") or, where they mount as plain fuse, as sources.
var objectStores = []string{"s3fs", "goofys", "geesefs", "gcsfuse", "mountpoint-s3", "rclone", "blobfuse", "blobfuse2", "s3ql", "ossfs", "cosfs"}

// A Note is what there is to say of a way in which a file system is mounted.
type Note struct {
	ID           string
	Level        backend.Level // a problem: locks on it would not exclude
	Seen, Advice string
}

func (n Note) String() string {
	if n.Advice == "" {
		return n.Seen
	}
	return n.Seen + "; " + n.Advice
}

// Notes returns what is to be said of the mount.
func (m Mount) Notes() (ns []Note) {
	add := func(level backend.Level, id, seen, advice string) { ns = append(ns, Note{id, level, seen, advice}) }
	if m.fuse() {
		for _, name := range []string{strings.TrimPrefix(m.Type, "fuse."), m.Source} {
			if slices.Contains(objectStores, name) {
				add(backend.LevelProblem, "object-store", fmt.Sprintf("a rename on %s is not atomic, and the lock rests on that", name), "keep locks on a file system, in Redis or in etcd")
				break
			}
		}
	}
	if m.Has("nocto") {
		add(backend.LevelProblem, "nocto", "it is mounted with nocto: what other clients did is seen too late", "mount it without")
	}
	if m.nfs() && (m.Has("vers=3") || m.Has("vers=2") || m.Has("nfsvers=3")) {
		add(backend.LevelProblem, "nfs-version", "it is mounted with NFS version 3 or older, which repeats requests without knowing that they were carried out", "mount it with vers=4.1")
	}
	for _, o := range m.Options {
		if how, ok := strings.CutPrefix(o, "cache="); ok && m.Type == "9p" && !coherent9p(how) {
			add(backend.LevelProblem, "9p-cache", fmt.Sprintf("it is mounted with cache=%s: what others did is never seen", how), "mount it with cache=none")
		}
	}
	if m.Has("soft") || m.Has("softerr") {
		add(backend.LevelWarning, "soft", "it is mounted soft: when the server is slow, calls fail and locks are lost that a hard mount would keep", "mount it with hard")
	}
	if m.Has("vers=4.0") {
		add(backend.LevelWarning, "nfs-version", "it is mounted with NFS version 4.0, which has no sessions: 4.1 answers repeated requests more reliably", "mount it with vers=4.1")
	}
	if m.severalClocks() {
		add(backend.LevelWarning, "clocks", fmt.Sprintf("its file system is %s, of which it is not known that one clock gives all times: a dead holder's lock is taken over only by one who has waited for its TTL", m.Type), "run hasp verify on it")
	} else if m.Relayed() {
		add(backend.LevelWarning, "fuse", fmt.Sprintf("its file system is %s, and what its program says may be old: a dead holder's lock is taken over only by one who has waited for its TTL, and releases are noticed as late as it remembers", m.Type), "tell it to remember nothing (sshfs remembers for 20 s, and with dir_cache=no not at all)")
	} else if m.Network() && !m.nfs() {
		add(backend.LevelWarning, "type", fmt.Sprintf("its file system is %s, which Open cannot judge", m.Type), "run hasp verify on it")
	}
	if m.nfs() && m.Has("noac") {
		add(backend.LevelOK, "noac", "it is mounted with noac, which locks do not need: each look asks the server more often", "")
	}
	return ns
}

// Refusal returns why locks on this mount would not exclude, or "".
func (m Mount) Refusal() string {
	for _, n := range m.Notes() {
		if n.Level == backend.LevelProblem {
			return n.String()
		}
	}
	return ""
}

// Warnings returns what a user should know of.
func (m Mount) Warnings() (ws []string) {
	for _, n := range m.Notes() {
		if n.Level == backend.LevelWarning {
			ws = append(ws, n.String())
		}
	}
	return ws
}

// coherent9p tells whether this cache mode of 9p, as the system shows it, keeps neither names
// nor attributes. From Linux 6.4 on that is a number, in hexadecimal, of which 1 is the
// content of files that are open, and 4 that it is written later.
func coherent9p(how string) bool {
	switch how {
	case "none", "mmap", "readahead":
		return true
	}
	bits, err := strconv.ParseUint(strings.TrimPrefix(how, "0x"), 16, 32)
	return err == nil && bits&^(1|4) == 0
}
