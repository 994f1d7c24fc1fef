//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// childArg makes this program one of its own child processes.
const childArg = "child"

// task is what a child process is told, in JSON.
type task struct {
	Role   string // etcd, handoff, crowd or leases
	Kind   string // the contestant
	Addr   string // the server, or the directory
	Peer   string `json:",omitempty"`
	Dir    string `json:",omitempty"`
	Key    string `json:",omitempty"`
	N      int    `json:",omitempty"`
	Sizes  sizes  `json:",omitempty"`
	Local  bool   `json:",omitempty"` // crowd: one Locker for all waiters of the process
	Window time.Duration
	Last   time.Duration
	Fill   time.Duration
}

// message is a line between the processes.
type message struct {
	Word string
	Data json.RawMessage `json:",omitempty"`
}

// childMain is main in a child process. It ends when the parent does.
func childMain(text string) int {
	var t task
	err := json.Unmarshal([]byte(text), &t)
	if err == nil {
		switch t.Role {
		case "etcd":
			err = serveEtcd(t)
		case "handoff":
			err = waitForHandOffs(t)
		case "crowd":
			err = joinCrowd(t)
		case "leases":
			err = holdLeases(t)
		default:
			err = fmt.Errorf("no such role: %q", t.Role)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s %s: %v\n", t.Role, t.Kind, err)
		return 1
	}
	return 0
}

var stdout sync.Mutex

// say writes a message to the parent.
func say(word string, data any) error {
	m := message{Word: word}
	if data != nil {
		var err error
		if m.Data, err = json.Marshal(data); err != nil {
			return err
		}
	}
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	stdout.Lock()
	defer stdout.Unlock()
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}

// orders yields the parent's words. When the parent ends it is closed, after a call
// of ended.
func orders(ended func()) <-chan string {
	ch := make(chan string, 1) // the next word waits here, so that the end is seen
	go func() {
		defer close(ch)
		defer ended()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			ch <- in.Text()
		}
	}()
	return ch
}

// child is such a process, seen from the parent.
type child struct {
	task  task
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan message
}

func startChild(t task) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	p := &child{task: t, cmd: exec.Command(exe, childArg, string(text)), lines: make(chan message, 16)}
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.lines)
		for dec := json.NewDecoder(out); ; {
			var m message
			if dec.Decode(&m) != nil {
				return
			}
			p.lines <- m
		}
	}()
	return p, nil
}

// tell sends the child a word.
func (p *child) tell(word string) error {
	_, err := fmt.Fprintln(p.stdin, word)
	return err
}

// expect waits for a message with this word and stores what it carries in data.
func (p *child) expect(ctx context.Context, word string, data any) error {
	select {
	case m, ok := <-p.lines:
		if !ok {
			return fmt.Errorf("process %s (%s) ended before it said %q", p.task.Role, p.task.Kind, word)
		}
		if m.Word != word {
			return fmt.Errorf("process %s (%s) said %q instead of %q", p.task.Role, p.task.Kind, m.Word, word)
		}
		if data == nil {
			return nil
		}
		return json.Unmarshal(m.Data, data)
	case <-ctx.Done():
		return fmt.Errorf("process %s (%s) has not said %q: %w", p.task.Role, p.task.Kind, word, context.Cause(ctx))
	}
}

// endTimeout bounds how long a child may take to end by itself.
const endTimeout = 10 * time.Second

// end closes the child's standard input, which ends it, and kills it if it does not.
func (p *child) end() error {
	_ = p.stdin.Close() // it may have ended
	timer := time.AfterFunc(endTimeout, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for range p.lines { // Wait closes the pipe that they come from
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); errors.As(err, &exit) {
		return fmt.Errorf("process %s (%s): %w", p.task.Role, p.task.Kind, err)
	} else if err != nil {
		return err
	}
	return nil
}
