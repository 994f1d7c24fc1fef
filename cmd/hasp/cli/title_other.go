//go:build !linux

package cli

// hideArguments does nothing where that cannot be had.
func hideArguments() {}
