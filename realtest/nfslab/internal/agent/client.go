package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Process is a command that runs in a host.
type Process struct {
	conn net.Conn
	send sync.Mutex
	done chan struct{}
	code int
	err  error
}

// Start sends req over c, which the Process then owns. What the command writes
// goes to stdout and stderr as it comes.
func Start(c net.Conn, req Request, stdout, stderr io.Writer) (*Process, error) {
	line, err := json.Marshal(req)
	if err == nil {
		_, err = c.Write(append(line, '\n'))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	p := &Process{conn: c, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer c.Close()
		p.code, p.err = p.follow(stdout, stderr)
	}()
	return p, nil
}

func (p *Process) follow(stdout, stderr io.Writer) (int, error) {
	for {
		kind, data, err := readFrame(p.conn)
		if err != nil {
			return -1, fmt.Errorf("the host's agent: %w", err)
		}
		switch kind {
		case frameStdout:
			_, err = stdout.Write(data)
		case frameStderr:
			_, err = stderr.Write(data)
		case frameFailed:
			return -1, errors.New(string(data))
		case frameExit:
			if len(data) != 4 {
				return -1, errors.New("the host's agent: an exit without a status")
			}
			return int(binary.BigEndian.Uint32(data)), nil
		}
		if err != nil {
			return -1, err
		}
	}
}

// Wait returns the exit status, 128 + n if signal n ended the command. The error says
// that there is none: the command could not be run, or the connection ended.
func (p *Process) Wait() (int, error) {
	<-p.done
	return p.code, p.err
}

// Done is closed when Wait would return.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the command's process group.
func (p *Process) Signal(sig byte) error {
	p.send.Lock()
	defer p.send.Unlock()
	return writeFrame(p.conn, frameSignal, []byte{sig})
}

// Disconnect ends the connection. If the host can be reached it kills the command.
func (p *Process) Disconnect() {
	p.conn.Close()
	<-p.done
}
