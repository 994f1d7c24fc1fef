//go:build unix

package job

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the controlling terminal of this process. A nil one does nothing.
type terminal struct {
	f    *os.File
	own  int  // this process's group
	want bool // the command is to be in the foreground when it continues
}

func openTerminal() *terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return &terminal{f: f, own: unix.Getpgrp()}
}

// Foreground tells whether this process's group has the terminal now.
func Foreground() bool {
	t := openTerminal()
	defer t.close()
	return t != nil && t.foreground() == t.own
}

// Interrupt ends this process by SIGINT, as it would have ended without a handler
// for it: shells stop a script if, and only if, a command of it ended that way. It
// returns if that cannot be had: the kernel keeps process 1 from ending so.
func Interrupt() {
	if unix.Getpid() == 1 {
		return
	}
	signal.Reset(unix.SIGINT)
	_ = unix.Kill(unix.Getpid(), unix.SIGINT)
	time.Sleep(time.Second) // it arrives on any thread, in a moment
}

func (t *terminal) close() {
	if t != nil {
		t.f.Close()
	}
}

func (t *terminal) fd() int { return int(t.f.Fd()) }

// foreground returns the group that has the terminal now; below 0 if the terminal
// has gone.
func (t *terminal) foreground() (pgid int) {
	pgid, err := unix.IoctlGetInt(t.fd(), unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return pgid
}

// attributes starts the command in the foreground if this process is an
// interactive shell's job all by itself. As part of a pipeline it must not take
// the terminal from its neighbours (a pager), and in a script Ctrl-C has to reach
// the script too: there the command gets the terminal when it reads from it.
func (t *terminal) attributes(a *syscall.SysProcAttr) {
	if t == nil || t.own != os.Getpid() || t.foreground() != t.own {
		return
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if !isTerminal(f) {
			return
		}
	}
	a.Foreground, a.Ctty = true, t.fd()
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// set makes pgid the foreground group. A background process that does so is
// stopped by SIGTTOU unless it ignores that.
func (t *terminal) set(pgid int) {
	signal.Ignore(unix.SIGTTOU)
	_ = unix.IoctlSetPointerInt(t.fd(), unix.TIOCSPGRP, pgid)
}

// takeBack makes this process's group the foreground again if pgid is.
func (t *terminal) takeBack(pgid int) {
	if t != nil && t.foreground() == pgid {
		t.set(t.own)
	}
}

// FromTerminal tells whether sig is one by which a terminal stops commands.
func FromTerminal(sig syscall.Signal) bool {
	return sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU
}

// Yield deals with a command that the terminal has stopped (Stopped told of sig):
// it gets the terminal if it wants to read and this process may give it;
// otherwise this process stops too, so that its shell learns of it, and Yield
// returns when it is continued. Resume has to follow then, which it says, and also
// if the terminal has gone.
func (j *Job) Yield(sig syscall.Signal) (resume bool) {
	t := j.tty
	if t == nil {
		return false // nobody to continue it but who stopped it
	}
	front := t.foreground()
	switch sig {
	case unix.SIGTTIN, unix.SIGTTOU:
		t.want = true
		if front == t.own || front == j.pgid {
			return true
		}
	case unix.SIGTSTP:
		t.want = front == j.pgid
	default:
		return false // not the terminal's doing
	}
	// Whether it stops or not, this process has to hear of Ctrl-C and of the
	// terminal's end: the command cannot.
	t.takeBack(j.pgid)
	if t.foreground() < 0 {
		// It went before it was taken back, and told the command's group alone, which
		// hears nothing until it is continued.
		return true
	}
	if orphaned() {
		return false
	}
	// Nobody but the guard ends the command if this process stays stopped.
	j.guard.start()
	// That kill has returned does not mean that the process has stopped: it may
	// do so any time later, but not once SIGCONT has come.
	cont := make(chan os.Signal, 1)
	signal.Notify(cont, unix.SIGCONT)
	defer signal.Stop(cont)
	_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	<-cont
	return true
}

// orphaned tells whether there is no shell to continue this process's group, or
// none that is known of. The kernel itself would not stop such a group by
// SIGTSTP, but Go cannot go back to the kernel's handling once it was caught.
func orphaned() bool {
	own := unix.Getpgrp()
	sid, err := unix.Getsid(0)
	if err != nil {
		return true
	}
	for pid := os.Getppid(); pid > 1; pid = parent(pid) {
		pgid, err := unix.Getpgid(pid)
		if err != nil {
			return true
		}
		if pgid != own {
			psid, err := unix.Getsid(pid)
			return err != nil || psid != sid
		}
	}
	return true
}

// Resume continues the group, in the foreground if it wants and this process has
// that to give.
func (j *Job) Resume() {
	if t := j.tty; t != nil && t.want && t.foreground() == t.own {
		t.set(j.pgid)
	}
	j.Continue()
}
