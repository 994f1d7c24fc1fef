//go:build unix

package efs

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/efs/internal/fsys"
)

// examineMounted looks whether the directory is on the file system that it is to be on. fi is
// nil if it is not there.
func (x *examiner) examineMounted(y backend.Finder, fi fs.FileInfo) {
	there := existing(x.dir)
	m, known := fsys.MountOf(there)
	missing := fsys.Unmounted(x.fstab, there)
	for _, u := range fsys.Unmounted(x.fstab, x.dir) {
		if !slices.ContainsFunc(missing, func(o fsys.Mount) bool { return o.Point == u.Point }) {
			missing = append(missing, u)
		}
	}
	for _, u := range missing {
		y.Problem("mounted", "mount "+u.Point+", and mount=required in the URL (--mounted) refuses locks where it is not",
			"%s has %s (%s) at %s, and that is not mounted: %s is on %s, of this host alone", x.fstab, backend.Redact(u.Source), u.Type, u.Point, there, orUnknown(m.Type))
	}
	switch {
	case len(missing) > 0:
	case x.opts.Mounted && (!known || !m.Remote()):
		y.Problem("mounted", "mount it", "%v", checkMounted(there))
	case m.Type == "autofs":
		y.Problem("mounted", "find out why the automounter does not mount it (its log says)", "%s is where an automounter is to mount something, and has not", m.Point)
	case known && !m.Network() && m.Point == "/" && there != "/" && isEmpty(there):
		y.Warn("mounted", "if a file system is to be mounted there, mount it; mount=required in the URL (--mounted) refuses locks where it is not",
			"%s is empty, and on the file system of / (%s), so of this host alone", there, m.Type)
	case known && fi != nil:
		y.OK("mounted", "%s is on %s, mounted at %s", x.dir, kindOf(m), m.Point)
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown file system"
	}
	return s
}

func kindOf(m fsys.Mount) string {
	if m.Network() {
		return "a file system that may be on a network"
	}
	return "a local file system, whose locks are between the processes of this host"
}

func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1) // io.EOF if there is none
	return len(names) == 0
}

// shownOptions are those that may matter.
var shownOptions = []string{"ro", "vers", "hard", "soft", "softerr", "timeo", "retrans", "nocto", "noac", "acregmin", "acregmax", "acdirmin", "acdirmax", "actimeo",
	"lookupcache", "local_lock", "nconnect", "fsc", "cache", "access", "noresvport"}

// examineMount looks at how it is mounted.
func (x *examiner) examineMount(y backend.Finder) {
	m, known := fsys.MountOf(x.dir)
	if !known {
		y.Warn("mount", "run hasp verify on it", "this system does not tell how %s is mounted", x.dir)
		return
	}
	x.mount = m
	describeMount(y, m)
	if m.Has("ro") {
		y.Problem("read-only", "mount it read-write", "%s is mounted read-only, and locks need to be written", m.Point)
	}
}

func describeMount(y backend.Finder, m fsys.Mount) {
	var options []string
	for _, o := range m.Options {
		name, _, _ := strings.Cut(o, "=")
		if slices.Contains(shownOptions, name) && !slices.Contains(options, o) {
			options = append(options, o)
		}
	}
	y.OK("mount", "%s", strings.TrimSuffix(fmt.Sprintf("%s from %s, %s", m.Type, backend.Redact(m.Source), strings.Join(options, ",")), ", "))
	for _, n := range m.Notes() {
		y(backend.Finding{ID: n.ID, Level: n.Level, Seen: n.Seen, Advice: n.Advice})
	}
	if major, minor, ok := release(); strings.HasPrefix(m.Type, "nfs4") && ok && (major > 6 || major == 6 && minor >= 19) {
		y.Warn("dir-delegations", "if heartbeats hang when a host dies, switch delegations off on the server (Linux: sysctl fs.leases-enable=0, before nfsd starts)",
			"Linux %d.%d asks for delegations of directories, and a server that grants them lets others wait for a host that died with one: not tried with locks", major, minor)
	}
}

// release is this system's version, if it is Linux.
func release() (major, minor int, ok bool) {
	var u unix.Utsname
	if unix.Uname(&u) != nil || unix.ByteSliceToString(u.Sysname[:]) != "Linux" {
		return 0, 0, false
	}
	n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major, minor, n == 2
}

// examineWriters looks at who can take locks.
func (x *examiner) examineWriters(y backend.Finder, fi fs.FileInfo) {
	owner := ""
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		owner = fmt.Sprintf(" of user %d, group %d", st.Uid, st.Gid)
	}
	may := "its owner alone"
	switch mode := fi.Mode(); {
	case mode&0o002 != 0:
		may = "everybody on a host that has it"
	case mode&0o020 != 0:
		may = "its owner and its group"
	}
	y.OK("writers", "%s%s: %s can take locks there; what hasp makes gets the same mode, whatever the umask", fi.Mode(), owner, may)
	if sticks(fi, x.opts) {
		y.Warn("sticky", "chmod -t it, or use lockfile=false where no EfsLock process is left", "it %s", hasSticky)
	}
}

const (
	// lowBytes and lowFiles are when room is told to be short: locks need little.
	lowBytes = 16 << 20
	lowFiles = 1000
)

func (x *examiner) examineSpace(y backend.Finder) {
	s, err := fsys.SpaceOf(x.dir)
	if err != nil {
		y.Warn("space", "see whether the file system answers", "the room that is left cannot be told: %v", err)
		return
	}
	describeSpace(y, s)
}

func describeSpace(y backend.Finder, s fsys.Space) {
	seen := fmt.Sprintf("%d MiB free of %d MiB", s.FreeBytes>>20, s.Bytes>>20)
	if s.Files > 0 {
		seen += fmt.Sprintf(", %d inodes free of %d", s.FreeFiles, s.Files)
	}
	const advice = "remove what is not needed: a key that is locked for the first time needs up to 5 inodes"
	switch {
	case s.Bytes > 0 && s.FreeBytes == 0, s.Files > 0 && s.FreeFiles == 0:
		y.Problem("space", advice, "full: %s", seen)
	case s.Bytes > 0 && s.FreeBytes < min(lowBytes, s.Bytes/20), s.Files > 0 && s.FreeFiles < min(lowFiles, s.Files/20):
		y.Warn("space", advice, "nearly full: %s", seen)
	default:
		y.OK("space", "%s", seen)
	}
}
