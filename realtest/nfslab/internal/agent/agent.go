// Package agent runs commands in a host of the lab: the server half runs there, the
// client half in the process that started the lab. A connection is one command.
//
// The client sends a Request as a line of JSON, then frames; the server sends
// frames. A frame is a kind, a length (4 bytes, big-endian) and that many bytes.
package agent

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Port is where agents listen.
const Port = 7000

// Request is the command to run.
type Request struct {
	Argv []string
	Env  []string // added to the agent's own
	Dir  string
}

// The kinds of frames.
const (
	frameStdout = 'o'
	frameStderr = 'e'
	frameExit   = 'x' // 4 bytes: the exit status; 128 + n if signal n ended it
	frameFailed = 'f' // the command could not be run: why
	frameSignal = 's' // from the client; 1 byte, for the command's process group
)

const maxFrame = 1 << 20

func writeFrame(w io.Writer, kind byte, data []byte) error {
	b := make([]byte, 5, 5+len(data))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(data)))
	_, err := w.Write(append(b, data...))
	return err
}

func readFrame(r io.Reader) (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(r, data)
	return head[0], data, err
}
