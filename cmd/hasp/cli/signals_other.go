//go:build !unix

package cli

import "os"

var (
	forwarded    = []os.Signal{os.Interrupt}
	whileRunning []os.Signal
)

// surviveClosedPipes: there is no such signal on this system.
func surviveClosedPipes() {}

func isTerminating(sig os.Signal) bool { return sig == os.Interrupt }

func isContinue(os.Signal) bool { return false }
