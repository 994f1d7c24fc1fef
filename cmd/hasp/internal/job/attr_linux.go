package job

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// attributes puts the command into a group of its own and has the kernel kill it
// when this process ends, however it ends.
func attributes(t *terminal) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	t.attributes(a)
	return a
}

// becomeReaper makes orphans of the group children of this process. Where it is
// refused their own init has to collect them.
func becomeReaper() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

const self = "/proc/self/exe" // also after the file was replaced by an upgrade

// guardDelay: until then the kernel's signal has to do.
const guardDelay = 50 * time.Millisecond
