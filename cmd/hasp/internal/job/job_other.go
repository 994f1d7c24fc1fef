//go:build !unix

package job

import (
	"io"
	"os"
	"syscall"
	"time"
)

// Job cannot be had on this system.
type Job struct{}

// Start returns ErrUnsupported.
func Start(Spec) (*Job, error) { return nil, ErrUnsupported }

// Guard does nothing: there are no guards on this system.
func Guard(func(then string, left time.Duration)) {}

// Foreground is false: there is no such thing on this system.
func Foreground() bool { return false }

// Interrupt does nothing on this system.
func Interrupt() {}

// CollectOrphans does nothing: there are no orphans on this system.
func CollectOrphans() (stop func()) { return func() {} }

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

// Capture cannot be had without jobs.
type Capture struct{}

// NewCapture returns ErrUnsupported.
func NewCapture(int, io.Writer) (*Capture, error) { return nil, ErrUnsupported }

func (c *Capture) File() *os.File                      { return nil }
func (c *Capture) Started()                            {}
func (c *Capture) Output(time.Duration) ([]byte, bool) { return nil, true }
