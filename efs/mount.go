//go:build unix

package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hasplock/hasp/efs/internal/fsys"
	"github.com/hasplock/hasp/efs/internal/statedir"
)

func checkMounted(dir string) error {
	m, known := fsys.MountOf(dir)
	switch {
	case !known:
		return fmt.Errorf("%s: this system does not tell on which file system it is, and it is required to be on a network", dir)
	case !m.Remote():
		return fmt.Errorf("%s is on %s, which is not on a network: the file system that is required there is not mounted", dir, m.Type)
	}
	return nil
}

// check looks over the root directory and its mount.
func (b *Backend) check() error {
	fi, err := os.Stat(b.dir)
	switch {
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s: %w", b.dir, fsys.ErrNoDir)
	}
	i, err := b.fs.Stat(b.dir+"/.", false) // what a link leads to
	if err != nil {
		return err
	}
	b.dev = i.ID.Dev
	if b.opts.Mounted {
		if err := checkMounted(b.dir); err != nil {
			return err
		}
	}
	m, known := fsys.MountOf(b.dir)
	b.mount, b.local = m, known && !m.Network()
	b.files.Store(!b.local)
	b.poll = b.opts.pollFor(!b.local)
	if known && m.Has("ro") {
		return fmt.Errorf("%s is mounted read-only: %w", b.dir, syscall.EROFS)
	}
	if known && !b.opts.AnyMount {
		if why := m.Refusal(); why != "" {
			return fmt.Errorf("%s: %s (option anymount=true opens it all the same)", b.dir, why)
		}
	}
	if known {
		for _, w := range m.Warnings() {
			b.warn = append(b.warn, b.dir+": "+w)
		}
	}
	if sticks(fi, b.opts) {
		b.warn = append(b.warn, b.dir+" "+hasSticky)
	}
	writable := false
	switch err := unix.Faccessat(unix.AT_FDCWD, b.dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err {
	case nil:
		writable = true
	case syscall.EROFS:
		return fmt.Errorf("%s: %w: locks need to be written", b.dir, err)
	case syscall.EACCES, syscall.EPERM:
		b.warn = append(b.warn, fmt.Sprintf("%s cannot be written by this user: only locks in directories below it that can be will work", b.dir))
	}
	return b.checkTimes(writable)
}

const hasSticky = "has the sticky bit: what one user's processes leave there cannot be taken over by another's"

func sticks(fi fs.FileInfo, o Options) bool {
	return fi.Mode()&fs.ModeSticky != 0 && o.LockFile != NoLockFile
}

// judgeTimes tells the clock what is known of times on a file system, and returns whether more
// has to be found out by trying.
func judgeTimes(c *statedir.Clock, m fsys.Mount) (try bool) {
	switch {
	case m.TimesKnown():
		c.Trust()
		return false
	case m.Relayed():
		c.Relayed()
	case strings.HasPrefix(m.Type, "nfs"):
		return false
	default:
		c.Foreign()
	}
	return m.Type != ""
}

// checkTimes finds out whether directories' times can be trusted. Of the servers of NFS it
// is found out when a holder seems dead, since it costs requests.
func (b *Backend) checkTimes(writable bool) error {
	if !judgeTimes(&b.clock, b.mount) || !writable {
		return nil
	}
	err := statedir.New(b.fs, &b.clock, "", b.dir+"/try").ProveTimes()
	if errors.Is(err, statedir.ErrTimesStand) && !b.opts.AnyMount {
		return fmt.Errorf("%s is on %s: %w (option anymount=true opens it all the same: a dead holder's lock is then taken over by one who has seen it stand still for its TTL)", b.dir, b.mount.Type, err)
	}
	if err != nil && !errors.Is(err, statedir.ErrTimesStand) && !fsys.Definite(err) {
		return err
	}
	return nil
}
