// Package cli is command hasp without its backends. A program that imports
// backends for their side effect and calls Main is the command for their URLs;
// named hasp-SCHEME and put in PATH, hasp itself hands over to it:
//
//	package main
//
//	import (
//		"github.com/hasplock/hasp/cmd/hasp/cli"
//		_ "github.com/hasplock/hasp/cmd/hasp/cli/verify" // the subcommand verify
//		_ "example.com/mylock" // registers mylock:
//	)
//
//	func main() { cli.Main() }
package cli

import (
	"os"
	"time"

	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// lastWords is how long the end of the program waits for whoever reads its
// messages. The lock is free by then.
const lastWords = 2 * time.Second

// Main runs the command with the process's arguments, and exits.
func Main() {
	job.Guard(releaseOrphaned)
	hideArguments()
	surviveClosedPipes()
	a := &app{stdout: redactingWriter{os.Stdout}, values: os.Stdout, stderr: &errorWriter{w: os.Stderr}, getenv: os.Getenv}
	code := a.run(os.Args[1:])
	a.stderr.flush(lastWords)
	if a.interrupted && code == exitSignal+2 {
		job.Interrupt()
	}
	os.Exit(code)
}
