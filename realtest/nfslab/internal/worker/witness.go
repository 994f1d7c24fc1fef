package main

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// witness is the connection to it. One goroutine asks; another may tell.
type witness struct {
	name string
	mu   sync.Mutex // of c's writing and n
	c    net.Conn
	r    *bufio.Reader
	n    int // answers that nobody has read

	read  time.Time     // when the last answer was read …
	clock time.Duration // … and what the witness's clock was before that
}

func meet(name string) (*witness, error) {
	c, err := net.Dial("tcp4", *addr)
	if err != nil {
		return nil, err
	}
	return &witness{name: name, c: c, r: bufio.NewReader(c)}, nil
}

// hello begins a round with key.
func (w *witness) hello(key string) error {
	_, err := w.ask("hello " + key + " " + w.name)
	return err
}

// until is a moment of this host in the witness's terms, or one before it: an answer was on
// its way for a while. A monotonic clock of this machine's runs as all others do.
func (w *witness) until(t time.Time) string {
	return strconv.FormatInt(max(1, int64(w.clock+t.Sub(w.read))), 10)
}

// tell does not wait for the answer.
func (w *witness) tell(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintln(w.c, line)
	w.n++
}

// ask returns the answer, ok or refused.
func (w *witness) ask(line string) (answer string, err error) {
	w.tell(line)
	for w.unread() {
		line, err := w.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("the witness: %w", err)
		}
		f := strings.Fields(line)
		ns, err := strconv.ParseInt(f[len(f)-1], 10, 64)
		if err != nil || len(f) != 2 {
			return "", fmt.Errorf("the witness said %q", line)
		}
		answer, w.clock, w.read = f[0], time.Duration(ns), time.Now()
	}
	return answer, nil
}

// unread counts an answer that is about to be read.
func (w *witness) unread() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n == 0 {
		return false
	}
	w.n--
	return true
}

// watchProcessor tells of the times in which nothing ran here. On an idle machine there are
// none: a sleep of a millisecond takes one or two.
func (w *witness) watchProcessor() {
	const nap, long = time.Millisecond, 10 * time.Millisecond
	for last := time.Now(); ; {
		time.Sleep(nap)
		now := time.Now()
		if stood := now.Sub(last); stood > long {
			w.tell(fmt.Sprint("stood ", stood))
		}
		last = now
	}
}
