//go:build unix

package job

import (
	"fmt"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supported tells whether Start can work.
const Supported = true

// Job is a command that runs, and the rest of its process group.
type Job struct {
	pgid    int
	guard   *guard
	tty     *terminal // nil without one
	done    chan struct{}
	status  Status
	stopped chan syscall.Signal
}

// Start starts the command. What is wrong with the command itself (it is not a
// program, or its interpreter is missing) is the errno that exec gave.
func Start(s Spec) (*Job, error) {
	becomeReaper()
	j := &Job{
		guard:   &guard{grace: s.Grace},
		tty:     openTerminal(),
		done:    make(chan struct{}),
		stopped: make(chan syscall.Signal, 1),
	}
	started := make(chan error)
	go j.run(s, started)
	if err := <-started; err != nil {
		j.tty.close()
		return nil, err
	}
	if err := j.guard.watch(j.pgid); err != nil {
		// Without it, nothing here ends the command if this process dies.
		_ = j.Kill()
		<-j.done
		j.Close()
		return nil, fmt.Errorf("the guard process: %w", err)
	}
	return j, nil
}

// run starts the command and waits for it, from one thread for all its life:
// Linux ends a child when the thread that started it ends, not the process.
func (j *Job) run(s Spec, started chan<- error) {
	runtime.LockOSThread()
	// Not os.StartProcess: an os.Process cannot tell of stops.
	pid, err := syscall.ForkExec(s.Path, s.Args, &syscall.ProcAttr{
		Env:   s.Env,
		Files: []uintptr{0, 1, 2},
		Sys:   attributes(j.tty),
	})
	if err != nil {
		runtime.UnlockOSThread()
		started <- err
		return
	}
	j.pgid = pid
	started <- nil
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(j.pgid, &ws, unix.WUNTRACED, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			// Not ours any more, which only a parent that ignores SIGCHLD does.
			j.status = Status{Code: 1}
		case ws.Stopped():
			select {
			case j.stopped <- ws.StopSignal():
			default:
			}
			continue
		case ws.Signaled():
			j.status = Status{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
		case ws.Exited():
			j.status = Status{Code: ws.ExitStatus()}
		default:
			continue
		}
		close(j.done)
		return
	}
}

// Done is closed when the command itself has ended; others of its group may
// still run.
func (j *Job) Done() <-chan struct{} { return j.done }

// Status returns how the command ended, once Done is closed.
func (j *Job) Status() Status { return j.status }

// Stopped tells of each time that the command was stopped by a signal.
func (j *Job) Stopped() <-chan syscall.Signal { return j.stopped }

// Signal sends sig to the whole group. That there is nobody left is no error.
func (j *Job) Signal(sig syscall.Signal) error {
	if err := unix.Kill(-j.pgid, sig); err != nil && err != unix.ESRCH {
		return err
	}
	return nil
}

// Terminate asks the group to end, also those of it that are stopped.
func (j *Job) Terminate() error {
	j.guard.stopping()
	err := j.Signal(unix.SIGTERM)
	j.Continue()
	return err
}

// Continue continues those of the group that are stopped.
func (j *Job) Continue() { _ = j.Signal(unix.SIGCONT) }

// Kill ends the group.
func (j *Job) Kill() error { return j.Signal(unix.SIGKILL) }

// Extend makes left from now the deadline by which the guard kills the group,
// should this process be stopped, hang or lack the CPU to do it.
func (j *Job) Extend(left time.Duration) error { return j.guard.extend(left) }

// Gone tells whether the whole group has ended. Call it after Done only.
func (j *Job) Gone() bool {
	reap(j.pgid)
	return unix.Kill(-j.pgid, 0) == unix.ESRCH
}

// Close lets go of the guard and takes the terminal back. The group must be
// gone, or past saving.
func (j *Job) Close() {
	j.guard.end()
	j.tty.takeBack(j.pgid)
	j.tty.close()
}

// reap collects those of the group that have ended and whose parent has too:
// in a container nobody else may, and they would count as alive.
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
