//go:build unix

package job

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// group is a process group.
type group struct {
	pgid int
	next time.Time // when the zombies may be counted again
}

// signal sends sig to all of the group. That there is nobody left is no error.
func (g *group) signal(sig syscall.Signal) error {
	if g.pgid <= 1 {
		return nil
	}
	if err := unix.Kill(-g.pgid, sig); err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}

// gone tells whether nobody of the group runs any more. A zombie whose parent has
// left the group, and lives on, is not this process's to collect: it may stay for
// ever, and does nothing.
func (g *group) gone() bool {
	reap(g.pgid)
	if unix.Kill(-g.pgid, 0) == unix.ESRCH {
		return true
	}
	begun := time.Now()
	if begun.Before(g.next) {
		return false
	}
	// Between two looks at it a process can start another and end, over and over.
	// Not after SIGKILL: nothing that has it pending starts anything. It does no harm
	// to zombies.
	gone := nobodyRuns(g.pgid) && g.signal(unix.SIGKILL) == nil && nobodyRuns(g.pgid)
	// A tenth of a processor at most, on a host with very many processes.
	g.next = time.Now().Add(10 * time.Since(begun))
	return gone
}

// reap collects those of the group that have ended and are this process's
// children.
func reap(pgid int) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-pgid, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
