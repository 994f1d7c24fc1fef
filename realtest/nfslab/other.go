//go:build !linux

package nfslab

import "errors"

// Check says that there is no lab on this system.
func Check() error { return errors.New("nfslab: user-mode kernels need Linux") }
