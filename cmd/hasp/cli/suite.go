package cli

import (
	"context"
	"io"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Suite is what verify needs of the conformance suite. Package cli/verify provides
// it.
type Suite interface {
	// Worker does not return if this process was started by Check.
	Worker()
	// Check tries a store.
	Check(context.Context, Verification) (Verdict, error)
}

// Verification says what to try.
type Verification struct {
	Name          string // of the store, as it may be shown
	URL           string
	MinTTL, Slack time.Duration
	KeyPrefix     string
	Fair          bool
	Has           map[backend.Capability]bool
	InMemory      bool     // of one process
	LockFiles     bool     // keys are in the way of directories
	WorkerCommand []string // starts a process that calls Worker
	Progress      func(line string)
}

// Verdict is what came of it. It marshals to JSON.
type Verdict interface {
	Tried() bool // anything at all
	Failed() bool
	WriteHTML(io.Writer) error
	WriteTable(io.Writer) error
}

// theSuite is nil in a program that has none.
var theSuite Suite

// Provide makes verify a subcommand that this program itself does. It is called from
// init.
func Provide(s Suite) { theSuite = s }
