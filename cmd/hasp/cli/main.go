// Package cli is command hasp without its backends. A program that imports
// backends for their side effect and calls Main is the command for their URLs;
// named hasp-SCHEME and put in PATH, hasp itself hands over to it:
//
//	package main
//
//	import (
//		"github.com/hasplock/hasp/cmd/hasp/cli"
//		_ "example.com/mylock" // registers mylock:
//	)
//
//	func main() { cli.Main() }
package cli

import (
	"os"

	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// Main runs the command with the process's arguments, and exits.
func Main() {
	job.Guard()
	a := &app{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	code := a.run(os.Args[1:])
	if a.interrupted && code == exitSignal+2 {
		job.Interrupt()
	}
	os.Exit(code)
}
