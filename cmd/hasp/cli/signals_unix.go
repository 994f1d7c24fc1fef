//go:build unix

package cli

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that users and supervisors send to programs.
var forwarded = []os.Signal{
	unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGWINCH, unix.SIGCONT,
}

// surviveClosedPipes makes writing to standard output or error without a reader an
// error of that write, not the end of this process, which may hold a lock. Not by
// ignoring the signal: the command would inherit that.
func surviveClosedPipes() {
	if !signal.Ignored(unix.SIGPIPE) {
		signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	}
}

// whileRunning are those that hasp itself obeys until there is a command.
var whileRunning = []os.Signal{unix.SIGTSTP}

func isTerminating(sig os.Signal) bool {
	switch sig {
	case unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT:
		return true
	}
	return false
}

func isContinue(sig os.Signal) bool { return sig == unix.SIGCONT }
