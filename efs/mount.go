//go:build unix

package efs

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mount is what the system says of the file system that a directory is on.
type mount struct {
	fstype  string
	options []string
}

func (m mount) has(option string) bool {
	for _, o := range m.options {
		if o == option {
			return true
		}
	}
	return false
}

func (m mount) network() bool {
	switch {
	case strings.HasPrefix(m.fstype, "nfs"), strings.HasPrefix(m.fstype, "fuse"), m.fstype == "cifs", m.fstype == "smb3", m.fstype == "9p", m.fstype == "ceph":
		return true
	}
	return false
}

// refusal returns why locks on this mount would not exclude, or "".
func (m mount) refusal() string {
	switch {
	case m.fstype == "fuse.s3fs" || m.fstype == "fuse.goofys" || m.fstype == "fuse.gcsfuse" || m.fstype == "fuse.mountpoint-s3" || m.fstype == "fuse.rclone" || m.fstype == "fuse.blobfuse":
		return fmt.Sprintf("a rename on %s is not atomic, and the lock rests on that", m.fstype)
	case m.has("nocto"):
		return "it is mounted with nocto: what other clients did is seen too late; mount it without"
	case strings.HasPrefix(m.fstype, "nfs") && (m.has("vers=3") || m.has("vers=2") || m.has("nfsvers=3")):
		return "it is mounted with NFS version 3 or older, which repeats requests without knowing that they were carried out; mount it with vers=4.1"
	}
	return ""
}

// warnings returns what a user should know of.
func (m mount) warnings() []string {
	var ws []string
	if m.has("soft") || m.has("softerr") {
		ws = append(ws, "it is mounted soft: when the server is slow, calls fail and locks are lost that a hard mount would keep")
	}
	if m.has("vers=4.0") {
		ws = append(ws, "it is mounted with NFS version 4.0, which has no sessions: 4.1 answers repeated requests more reliably")
	}
	if m.fstype == "cifs" || m.fstype == "smb3" || m.fstype == "9p" || strings.HasPrefix(m.fstype, "fuse") {
		ws = append(ws, fmt.Sprintf("its file system is %s, on which hasp has not been tested: run hasp verify on it", m.fstype))
	}
	return ws
}

// check looks over the root directory and its mount.
func (b *Backend) check(fi fs.FileInfo) error {
	m, known := mountOf(b.rootDir)
	b.local = known && !m.network()
	b.useLink.Store(!b.local)
	b.poll = pollFor(b.opts, !b.local)
	if known && m.has("ro") {
		return fmt.Errorf("%s is mounted read-only: %w", b.dir, syscall.EROFS)
	}
	if known && !b.opts.AnyMount {
		if why := m.refusal(); why != "" {
			return fmt.Errorf("%s: %s (option anymount=true opens it all the same)", b.dir, why)
		}
	}
	if known {
		for _, w := range m.warnings() {
			b.warn = append(b.warn, b.dir+": "+w)
		}
	}
	if fi.Mode()&fs.ModeSticky != 0 && !b.opts.NoLockFile {
		b.warn = append(b.warn, fmt.Sprintf("%s has the sticky bit: one user's lock files cannot be removed by another's processes when they are stale", b.dir))
	}
	switch err := unix.Faccessat(int(b.rootDir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS); err {
	case nil:
	case syscall.EROFS:
		return fmt.Errorf("%s: %w: locks need to be written", b.dir, err)
	case syscall.EACCES, syscall.EPERM:
		b.warn = append(b.warn, fmt.Sprintf("%s cannot be written by this user: only locks in directories below it that can be will work", b.dir))
	}
	return nil
}
