//go:build unix && !linux

package job

import "syscall"

// attributes puts the command into a group of its own. Where the kernel cannot
// end it together with this process the guard does, a few milliseconds later.
func attributes(t *terminal) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	t.attributes(a)
	return a
}

func becomeReaper() {}

const self = ""

// guardDelay is nothing where the guard is all there is.
const guardDelay = 0
