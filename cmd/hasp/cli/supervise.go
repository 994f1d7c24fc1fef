package cli

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// unkillable is how long processes may take to end after SIGKILL before hasp
// gives up on them, the lease being lost anyway: one that hangs in a system call
// on a dead mount cannot be killed at all.
const unkillable = 5 * time.Second

// haltDelay is how late it may be known that a command was stopped.
const haltDelay = 5 * time.Second

// supervisor keeps a command and its lease together: it ends the command before
// the lease does, and keeps the lease until the last of the command's group has
// ended.
type supervisor struct {
	lease   *hasp.Lease
	job     *job.Job
	grace   time.Duration
	renewed <-chan struct{}
	signals <-chan os.Signal
	warn    func(error)

	out       outcome
	exited    bool             // the command itself has ended
	deadline  time.Time        // as last told to the guard
	term      *time.Timer      // when the group is asked to end
	kill      <-chan time.Time // when it is killed; nil before it was asked, and afterwards
	killAt    time.Time        // when that is
	killed    bool
	refused   bool // the last signal to end reached nobody: it is all another user's
	orphans   bool // the command had ended when the lease was lost,
	spent     bool // and what it had left had been killed
	gone      bool // all had ended when the loss was noticed
	gaveUp    bool
	halted    bool      // the command is stopped, for all that is known
	told      time.Time // when it was sent a signal to end
	unguarded bool      // and the user was told
	giveUp    <-chan time.Time
	poll      <-chan time.Time // when to look again for those who are left
	pause     time.Duration
	done      bool
}

// run returns when the group is gone.
func (s *supervisor) run() outcome {
	defer s.job.Close()
	s.term = time.NewTimer(time.Hour)
	defer s.term.Stop()
	s.extend()
	done, lost := s.job.Done(), s.lease.Done()
	for !s.done {
		select {
		case <-done:
			done = nil
			s.onExit()
		case <-lost:
			lost = nil
			s.onLost()
		case <-s.renewed:
			s.extend()
		case <-s.term.C:
			s.onTerm()
		case <-s.kill:
			s.onKill()
		case <-s.poll:
			s.look()
		case <-s.giveUp:
			s.gaveUp, s.done = true, true
		case sig := <-s.job.Stopped():
			s.onHalt(sig)
		case sig := <-s.signals:
			s.forward(sig)
		}
	}
	s.out.how = s.ending()
	return s.out
}

// left is how long the lease is still good for, by the clock that says less.
func (s *supervisor) left() time.Duration {
	now := time.Now()
	return min(s.deadline.Sub(now), s.deadline.Round(0).Sub(now.Round(0)))
}

// extend moves the deadlines on to the lease's.
func (s *supervisor) extend() {
	if s.out.stopped != nil {
		return // it has been told to end, and has that long
	}
	s.deadline = s.lease.Deadline()
	left := s.left()
	if err := s.job.Extend(left); err != nil && !s.unguarded {
		s.unguarded = true
		s.warn(fmt.Errorf("the guard process: %w; should hasp be killed now, children of the command may outlive it", err))
	}
	// A lease that was granted for less than --timeout is being renewed.
	s.term.Reset(left - min(s.grace, left/3))
}

// clockNoise is by how much the deadline of a lease moves although it is not renewed: it
// goes by two clocks, one of which is adjusted all the time. Renewals move it by more.
const clockNoise = 10 * time.Millisecond

// onTerm: the lease was not renewed and it is time to begin the end.
func (s *supervisor) onTerm() {
	if s.out.stopped != nil {
		return
	}
	if d := s.lease.Deadline(); d.Sub(s.deadline) > clockNoise { // renewed this very moment
		s.extend()
		return
	}
	if err := s.lease.Err(); err != nil {
		s.stop(err)
		return
	}
	s.stop(fmt.Errorf("%w: it could not be renewed, and ends in %s", hasp.ErrLost, backend.Round(max(0, s.left()))))
}

func (s *supervisor) onLost() {
	if err := s.lease.Err(); err != nil {
		s.stop(err)
	}
}

// onHalt is called when the command was stopped by sig.
func (s *supervisor) onHalt(sig syscall.Signal) {
	s.halted = true
	switch {
	case s.job.Yield(sig):
		s.onContinue()
		s.job.Resume()
		s.halted = false
	case time.Since(s.told) < haltDelay && job.FromTerminal(sig):
		// It may have been stopped first, and has not heard of the signal then. Once:
		// it may live on, and be stopped again.
		s.told = time.Time{}
		s.job.Continue()
		s.halted = false
	}
}

// onContinue is called when this process runs again after it was stopped: the
// command must not, if the lease has ended in between.
func (s *supervisor) onContinue() {
	if err := s.lease.Err(); err != nil {
		s.stop(err)
	}
}

// stop asks the group to end, and sees to it that it has by the deadline or that this
// process gives up on it: in each order in which the exit, the loss and the kill come.
func (s *supervisor) stop(why error) {
	if s.out.stopped == nil {
		s.out.stopped, s.orphans, s.spent = why, s.exited, s.killed
	}
	wait := min(s.grace, s.left())
	switch {
	case s.killed: // what was left by a command that has exited, while there was a lease
		s.despair()
	case wait <= 0:
		s.onKill()
	default:
		s.end(wait)
	}
}

// end asks the group to end, once, as many programs take a second SIGTERM for an order to
// drop everything. It is killed after wait, or when that was to be if it is earlier.
func (s *supervisor) end(wait time.Duration) {
	at := time.Now().Add(wait)
	if s.kill == nil {
		s.refused = false
		if err := s.job.Terminate(); err != nil {
			s.refused = true
			s.warn(fmt.Errorf("the command could not be sent SIGTERM: %w", err))
		}
	} else if s.killAt.Before(at) {
		return
	}
	s.kill, s.killAt = time.After(wait), at
}

func (s *supervisor) onKill() {
	s.kill, s.killed, s.refused = nil, true, false
	if err := s.job.Kill(); err != nil {
		s.refused = true
		s.warn(fmt.Errorf("the command could not be killed: %w", err))
	}
	if s.out.stopped != nil {
		s.despair()
	}
}

// despair has this process give up on a group that was killed and has no lease any more.
// With a lease it is waited for, however long that takes.
func (s *supervisor) despair() {
	if s.giveUp == nil {
		s.giveUp = time.After(unkillable)
	}
}

// onExit: the command has ended. Those it has left running in its group are still
// doing what the lock is for, so they end before the lock does.
func (s *supervisor) onExit() {
	s.out.code = s.job.Status().Code
	if s.out.code == 128+int(syscall.SIGTERM) || s.out.code == 128+int(syscall.SIGKILL) {
		// If this process was late, the guard has done what it should have.
		select {
		case <-s.term.C:
			s.onTerm()
		default:
		}
	}
	s.exited = true
	lost := s.lease.Err() // it may have ended while this process was stopped
	switch {
	case s.job.Gone():
		if s.out.stopped == nil {
			s.out.stopped, s.gone = lost, lost != nil
		}
		s.done = true
		return
	case lost != nil:
		s.stop(lost)
	case !s.killed:
		s.end(s.grace)
	}
	s.look()
}

// look ends the supervision when nobody is left.
func (s *supervisor) look() {
	if s.job.Gone() {
		s.done = true
		return
	}
	s.pause = min(max(2*s.pause, time.Millisecond), 50*time.Millisecond)
	s.poll = time.After(s.pause)
}

// forward passes a signal that this process got on to the group.
func (s *supervisor) forward(sig os.Signal) {
	if isContinue(sig) {
		s.onContinue()
		s.halted = false
	}
	if sig == os.Interrupt && job.Foreground() {
		s.out.interrupted = true
	}
	if n, ok := sig.(syscall.Signal); ok {
		if err := s.job.Signal(n); err != nil {
			s.warn(fmt.Errorf("signal %v could not be passed on to the command: %w", sig, err))
		}
	}
	if isTerminating(sig) {
		s.told = time.Now()
		if s.halted {
			// It would not hear of it: its terminal may be gone, and nobody there who
			// could continue it.
			s.halted = false
			s.job.Continue()
		}
	}
}
