package torture

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// message is a line, in JSON, that a process sends to the witness.
type message struct {
	Verb     string
	Who      string
	PID      int
	Visit    uint64 // numbers the sections of one connection
	Key      string
	Token    uint64
	At       time.Duration // when it acquired, or was told of its loss
	Deadline time.Duration
	TTL      time.Duration // of the lease
	Waited   time.Duration
	Command  bool // under hasp run

	Kind, Text string // of an error
	Strange    bool   // it is none that a fault explains
}

const (
	verbIn    = "in"    // it has acquired, and waits for an answer
	verbUntil = "until" // it holds until a later deadline
	verbLost  = "lost"  // it was told that it has lost the lock
	verbOut   = "out"   // it is about to release, and waits for an answer
	verbError = "error"

	answerYes = "yes"
	answerNo  = "no" // the token is refused
)

func parseMessage(line string) (message, error) {
	var m message
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		return m, fmt.Errorf("the witness was sent %q: %w", line, err)
	}
	return m, nil
}

// now is the machine's monotonic clock, which all processes share.
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(ts.Nano())
}

// alive tells whether a process runs, or could if it were continued.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

// link is a process's connection to the witness. One goroutine at a time waits for an
// answer.
type link struct {
	who     string
	conn    net.Conn
	answers *bufio.Scanner
	asking  sync.Mutex

	mu     sync.Mutex // guards what follows and writes
	visits uint64
}

func dialWitness(addr, who string) (*link, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &link{who: who, conn: c, answers: bufio.NewScanner(c)}, nil
}

func (l *link) visit() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.visits++
	return l.visits
}

// tell sends a message. An error means that the witness has gone, and the test with it.
func (l *link) tell(m message) error {
	m.Who, m.PID = l.who, os.Getpid()
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.conn.Write(append(line, '\n'))
	return err
}

// ask sends a message and waits for the answer: false if the token is refused.
func (l *link) ask(m message) (bool, error) {
	l.asking.Lock()
	defer l.asking.Unlock()
	if err := l.tell(m); err != nil {
		return false, err
	}
	if !l.answers.Scan() {
		return false, errors.Join(errors.New("the witness has gone"), l.answers.Err())
	}
	return l.answers.Text() == answerYes, nil
}
