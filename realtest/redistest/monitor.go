package redistest

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Monitor hears what a server executes (MONITOR), for as long as the test lasts: when
// the server has been restarted, or has closed the connection, it connects again.
type Monitor struct {
	s        *Server
	attached func() bool
	heard    func(Command)
	work     sync.WaitGroup
	stop     chan struct{}

	mu    sync.Mutex
	conn  net.Conn
	marks map[string]chan struct{} // closed when they are heard
}

// Command is one that a server has executed.
type Command struct {
	At     time.Time // by the server's clock
	Script bool      // a script called it, so a client of the server asked for it
	Args   []string
}

// StartMonitor calls heard for each command, and attached whenever it begins to hear,
// which says whether to go on; otherwise it begins anew. The two are never called at the
// same time.
func StartMonitor(tb testing.TB, s *Server, attached func() bool, heard func(Command)) *Monitor {
	m := &Monitor{s: s, attached: attached, heard: heard, stop: make(chan struct{}), marks: map[string]chan struct{}{}}
	m.work.Go(m.run)
	tb.Cleanup(m.close)
	return m
}

func (m *Monitor) run() {
	for {
		m.listen()
		select {
		case <-m.stop:
			return
		case <-time.After(10 * time.Millisecond): // a server does not tell when it is there again
		}
	}
}

// listen hears one connection to its end.
func (m *Monitor) listen() {
	c, err := net.DialTimeout("tcp", m.s.addr, time.Second)
	if err != nil {
		return
	}
	defer c.Close()
	m.mu.Lock()
	select {
	case <-m.stop:
		m.mu.Unlock()
		return
	default:
	}
	m.conn = c
	m.mu.Unlock()
	if _, err := fmt.Fprint(c, "CLIENT SETNAME redistest\r\nMONITOR\r\n"); err != nil {
		return
	}
	r := bufio.NewReader(c)
	for range 2 {
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
			return
		}
	}
	if !m.attached() {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if cmd, ok := parseMonitor(strings.TrimRight(line, "\r\n")); ok {
			m.mark(cmd)
			m.heard(cmd)
		}
	}
}

func (m *Monitor) mark(cmd Command) {
	if len(cmd.Args) != 2 || !strings.EqualFold(cmd.Args[0], "echo") {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if heard := m.marks[cmd.Args[1]]; heard != nil {
		close(heard)
		delete(m.marks, cmd.Args[1])
	}
}

// Sync waits until what the server has executed so far is heard.
func (m *Monitor) Sync() {
	m.s.tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		mark, heard := rand.Text(), make(chan struct{})
		m.mu.Lock()
		m.marks[mark] = heard
		m.mu.Unlock()
		m.s.Do("echo", mark)
		select {
		case <-heard:
			return
		case <-time.After(time.Second): // it may have been connecting
		}
		if time.Now().After(deadline) {
			m.s.tb.Fatalf("nothing is heard of the Redis server at %s", m.s.addr)
		}
	}
}

func (m *Monitor) close() {
	m.mu.Lock()
	close(m.stop)
	if m.conn != nil {
		m.conn.Close()
	}
	m.mu.Unlock()
	m.work.Wait()
}

// parseMonitor reads a line such as
//
//	+1700000000.123456 [0 lua] "SET" "name" "a \"value\""
func parseMonitor(line string) (Command, bool) {
	var cmd Command
	at, rest, ok := strings.Cut(strings.TrimPrefix(line, "+"), " [")
	from, args, ok2 := strings.Cut(rest, "] ")
	sec, usec, ok3 := strings.Cut(at, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	us, err2 := strconv.ParseInt(usec, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || err2 != nil {
		return cmd, false
	}
	cmd.At, cmd.Script = time.Unix(s, us*1000), strings.HasSuffix(from, " lua")
	for args != "" {
		quoted, err := strconv.QuotedPrefix(args)
		if err != nil {
			return cmd, false
		}
		arg, err := strconv.Unquote(quoted)
		if err != nil {
			return cmd, false
		}
		cmd.Args = append(cmd.Args, arg)
		args = strings.TrimPrefix(args[len(quoted):], " ")
	}
	return cmd, len(cmd.Args) > 0
}
