// Package child has what tests do to servers' processes.
package child

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stop sends SIGSTOP to a child and returns when it has stopped: until some time
// after the signal was sent the child's threads go on, and may answer a request.
func Stop(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("wait for process %d to stop: %w", p.Pid, err)
			}
			return nil
		}
	}
}
