package cli

import (
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dieBySignals has the kernel itself end this process when a signal asks it to. Go's
// runtime does that in a handler, on any thread, and exec ends the threads: a handler that
// had just begun would be gone with its signal, and the new program know nothing of it.
func dieBySignals() {
	if unix.Getpid() == 1 {
		return // which the kernel does not end; Go's handler does
	}
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if signal.Ignored(sig) {
			continue
		}
		// A sigaction of zeros is the default action, wherever its fields are. The one
		// system where sets of signals are longer than 8 bytes refuses it, and is none
		// the worse for that.
		var action [16]uint64
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
}
