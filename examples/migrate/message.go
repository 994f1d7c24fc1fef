//go:build unix

package main

import (
	"time"

	"github.com/hasplock/hasp/migrate"
)

// jobVar has a child's job, as JSON.
const jobVar = "HASP_EXAMPLE_JOB"

// job is what a child process is to do: work or take a step.
type job struct {
	URL string
	// A worker's.
	Number int
	Keys   int
	TTL    time.Duration
	// An operator's: start, advance, back, seal, unseal.
	Step       string
	To         migrate.Stage // of advance and back
	LegacyGone bool
}

// kind is what a worker says.
type kind string

const (
	isReady   kind = "ready"
	isWaiting kind = "waiting" // for Key
	isIn      kind = "in"      // it holds Key; answered
	isRead    kind = "read"    // it has found Value beside Key; answered
	isSetting kind = "setting" // it will set Value; answered
	isSet     kind = "set"     // it has
	isUnset   kind = "unset"   // it has not, for certain
	isOut     kind = "out"     // it leaves what Key protects; answered
	isFailed  kind = "failed"  // Text says why; it goes on
	isLost    kind = "lost"    // it has lost Key
	isRefused kind = "refused" // its phase is not admitted
)

// message is what a worker says. Times are Unix, in ns: all are of this machine.
type message struct {
	Kind  kind
	Key   string `json:",omitempty"`
	Token uint64 `json:",omitempty"`
	At    int64
	Until int64  `json:",omitempty"` // the lease's deadline
	Value string `json:",omitempty"`
	Text  string `json:",omitempty"`

	heard int64 // when it arrived, if that is known
}

// answered tells whether the worker waits for the witness's word.
func (k kind) answered() bool {
	return k == isIn || k == isRead || k == isSetting || k == isOut
}

const (
	wordGo   = "go"   // the answer
	wordStop = "stop" // end when no lock is held
)
