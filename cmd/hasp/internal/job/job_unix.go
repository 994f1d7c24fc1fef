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
	group   group
	guard   *guard
	tty     *terminal // nil without one
	done    chan struct{}
	status  Status
	stopped chan syscall.Signal
	reaper  *time.Timer   // until orphans are collected
	reaping chan struct{} // closed when they are
}

// reapDelay spares short commands the cost of collecting orphans: what ends before
// that is collected then, or by init.
const reapDelay = 50 * time.Millisecond

// CollectOrphans collects orphans from now until stop is called if this process is
// process 1 of its namespace, whose orphans are its own also while there is no
// command: those of programs that were started from outside, as docker exec does.
func CollectOrphans() (stop func()) {
	if unix.Getpid() != 1 {
		return func() {}
	}
	children.start()
	return children.stop
}

// Start starts the command. What is wrong with the command itself (it is not a
// program, or its interpreter is missing) is the errno that exec gave.
func Start(s Spec) (*Job, error) {
	becomeReaper()
	j := &Job{
		guard:   &guard{grace: s.Grace, then: s.Then},
		tty:     openTerminal(),
		done:    make(chan struct{}),
		stopped: make(chan syscall.Signal, 1),
		reaping: make(chan struct{}),
	}
	started := make(chan error)
	go j.run(s, started)
	if err := <-started; err != nil {
		j.tty.close()
		return nil, err
	}
	j.group.pgid = j.pgid
	j.reaper = time.AfterFunc(reapDelay, func() {
		children.start()
		close(j.reaping)
	})
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
	stdout := uintptr(1)
	if s.Stdout != nil {
		stdout = s.Stdout.Fd()
	}
	runtime.LockOSThread()
	// Not os.StartProcess: an os.Process cannot tell of stops.
	pid, err := children.fork(func() (int, error) {
		return syscall.ForkExec(s.Path, s.Args, &syscall.ProcAttr{
			Env:   s.Env,
			Files: []uintptr{0, stdout, 2},
			Sys:   attributes(j.tty),
		})
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
		children.waited(j.pgid)
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
func (j *Job) Signal(sig syscall.Signal) error { return j.group.signal(sig) }

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

// Gone tells whether nobody of the group runs any more. Call it after Done only.
func (j *Job) Gone() bool { return j.group.gone() }

// Close lets go of the guard and takes the terminal back. The group must be
// gone, or past saving.
func (j *Job) Close() {
	if !j.reaper.Stop() {
		<-j.reaping
		children.stop()
	}
	j.guard.end()
	j.tty.takeBack(j.pgid)
	j.tty.close()
}
