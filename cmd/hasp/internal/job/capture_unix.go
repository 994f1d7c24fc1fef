//go:build unix

package job

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Capture takes what a command writes to its standard output, up to a limit. Beyond
// that it holds nothing back any more: all goes on to where it spills.
type Capture struct {
	limit int
	spill io.Writer
	r, w  *os.File
	buf   bytes.Buffer
	over  atomic.Bool // over the limit
	done  chan struct{}
}

// NewCapture makes one for a job: its file is the Spec's Stdout.
func NewCapture(limit int, spill io.Writer) (*Capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c := &Capture{limit: limit, spill: spill, r: r, w: w, done: make(chan struct{})}
	go c.read()
	return c, nil
}

// File is what the command writes to.
func (c *Capture) File() *os.File { return c.w }

// Started is to be called when the command has the file, or could not be started.
func (c *Capture) Started() { c.w.Close() }

func (c *Capture) read() {
	defer close(c.done)
	p := make([]byte, 32<<10)
	for {
		n, err := c.r.Read(p)
		c.take(p[:n])
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.drain(p)
			}
			return
		}
	}
}

// drain takes what is in the pipe and does not wait for more.
func (c *Capture) drain(p []byte) {
	_ = c.r.SetReadDeadline(time.Time{})
	rc, err := c.r.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Read(func(fd uintptr) bool {
		// No more than a pipe can hold: who has left the group may go on writing.
		for left := 1 << 20; left > 0; {
			n, err := unix.Read(int(fd), p)
			switch {
			case err == syscall.EINTR:
			case n <= 0:
				return true
			default:
				c.take(p[:n])
				left -= n
			}
		}
		return true
	})
}

func (c *Capture) take(p []byte) {
	if c.over.Load() {
		_, _ = c.spill.Write(p)
		return
	}
	c.buf.Write(p)
	if c.buf.Len() > c.limit {
		c.over.Store(true)
		_, _ = c.buf.WriteTo(c.spill)
	}
}

// Output returns what the command has written, and false if that was more than the
// limit and has been spilled. It is to be called when the command's group has
// ended: what a process that has left the group still has to say is not waited for,
// and where it is spilled to for no longer than d.
func (c *Capture) Output(d time.Duration) ([]byte, bool) {
	_ = c.r.SetReadDeadline(time.Now())
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C: // it hangs where it spills
		return nil, false
	}
	c.r.Close()
	if c.over.Load() {
		return nil, false
	}
	return c.buf.Bytes(), true
}
