//go:build !unix

package cli

import (
	"errors"
	"os"
	"os/exec"
)

// replace runs another program instead of this one, which exits with its status.
func replace(path string, args []string) error {
	c := exec.Command(path, args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return err
	}
	os.Exit(c.ProcessState.ExitCode())
	return nil
}
