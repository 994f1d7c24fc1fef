package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"

	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// lookUp finds the command's program as a shell does, before anything is locked
// for a command that cannot run.
func lookUp(name string) (path string, err error) {
	if !job.Supported {
		return "", &exitError{exitUnavailable, job.ErrUnsupported}
	}
	shown := redactArg(name)
	path, err = exec.LookPath(name)
	switch {
	case err == nil, errors.Is(err, exec.ErrDot): // whoever has "." in PATH means it
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", &exitError{exitNotFound, fmt.Errorf("command not found: %s; nothing was locked", shown)}
	}
	var ee *exec.Error
	if errors.As(err, &ee) {
		err = ee.Err
	}
	return "", &exitError{exitCannotRun, fmt.Errorf("%s cannot be run: %w; nothing was locked", shown, err)}
}

// cannotRun is for a command that turned out not to run when the lock was held:
// not a program for this machine, or its interpreter is missing.
func cannotRun(name string, err error) *exitError {
	return &exitError{exitCannotRun, fmt.Errorf("%s cannot be run: %w", redactArg(name), err)}
}
