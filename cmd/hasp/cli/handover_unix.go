//go:build unix

package cli

import (
	"os"
	"syscall"
)

// replace runs another program in this process; it returns only if that fails. A signal
// to end that comes meanwhile ends the process.
func replace(path string, args []string) error {
	dieBySignals()
	return syscall.Exec(path, args, os.Environ())
}
