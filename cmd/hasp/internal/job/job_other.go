//go:build !unix

package job

import (
	"syscall"
	"time"
)

// Job cannot be had on this system.
type Job struct{}

// Start returns ErrUnsupported.
func Start(Spec) (*Job, error) { return nil, ErrUnsupported }

// Guard does nothing: there are no guards on this system.
func Guard() {}

// Foreground is false: there is no such thing on this system.
func Foreground() bool { return false }

// Interrupt does nothing on this system.
func Interrupt() {}

// Supported tells whether Start can work.
const Supported = false

func (j *Job) Done() <-chan struct{}          { return nil }
func (j *Job) Status() Status                 { return Status{} }
func (j *Job) Stopped() <-chan syscall.Signal { return nil }
func (j *Job) Signal(syscall.Signal) error    { return ErrUnsupported }
func (j *Job) Terminate() error               { return ErrUnsupported }
func (j *Job) Kill() error                    { return ErrUnsupported }
func (j *Job) Extend(time.Duration) error     { return ErrUnsupported }
func (j *Job) Gone() bool                     { return true }
func (j *Job) Close()                         {}
func (j *Job) Continue()                      {}
func (j *Job) Resume()                        {}

// FromTerminal is for systems whose terminals stop commands.
func FromTerminal(syscall.Signal) bool { return false }

// Yield does nothing on this system.
func (j *Job) Yield(syscall.Signal) (resume bool) { return false }
