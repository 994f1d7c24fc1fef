//go:build unix

package cli

import (
	"os"
	"syscall"
)

// replace runs another program in this process; it returns only if that fails.
func replace(path string, args []string) error { return syscall.Exec(path, args, os.Environ()) }
