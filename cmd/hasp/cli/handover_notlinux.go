//go:build unix && !linux

package cli

// dieBySignals leaves it to Go's runtime to end this process when a signal asks it to,
// which it does but for a moment in exec.
func dieBySignals() {}
