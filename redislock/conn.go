package redislock

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is a connection on which reading and writing can be interrupted. It is read
// by one goroutine at a time and written by one. Deadlines count for what begins
// after they are set; they are put into effect only when there is something to wait
// for, because three timers for each request, which is what the library sets, cost
// as much as the engine.
type conn struct {
	net.Conn
	eager *eager // nil where there is none
	used  time.Time

	mu              sync.Mutex
	readBy, writeBy time.Time
	interrupted     bool
}

func newConn(c net.Conn, crowd func() bool) *conn {
	return &conn{Conn: c, eager: newEager(c, crowd)}
}

func (c *conn) Read(p []byte) (n int, err error) {
	if c.eager != nil {
		n, err = c.eager.read(p)
	}
	if n == 0 && err == nil {
		if err := c.arm(c.Conn.SetReadDeadline, &c.readBy); err != nil {
			return 0, err
		}
		n, err = c.Conn.Read(p)
		c.disarm(c.Conn.SetReadDeadline)
	}
	if n > 0 {
		c.used = time.Now()
	}
	return n, err
}

func (c *conn) Write(p []byte) (n int, err error) {
	if c.eager != nil {
		if n, err = c.eager.write(p); n == len(p) || err != nil {
			return n, err
		}
	}
	if err := c.arm(c.Conn.SetWriteDeadline, &c.writeBy); err != nil {
		return n, err
	}
	m, err := c.Conn.Write(p[n:])
	c.disarm(c.Conn.SetWriteDeadline)
	return n + m, err
}

// arm puts a deadline into effect; an error says that it was interrupted.
func (c *conn) arm(set func(time.Time) error, by *time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.interrupted {
		return os.ErrDeadlineExceeded
	}
	return set(*by)
}

func (c *conn) disarm(set func(time.Time) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.interrupted {
		_ = set(time.Time{}) // a connection that is closed has no use for it
	}
}

func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy, c.writeBy = t, t
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	return nil
}

// interrupt ends what is being read or written, and what would be until resume. If
// the connection is closed then, what has not been sent is not sent any more: a
// request that nobody waits for should not arrive after the one that takes it back.
func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	_ = c.Conn.SetDeadline(time.Unix(1, 0)) // fails if it is closed, and so ended
	c.linger(0)
}

func (c *conn) linger(seconds int) {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(seconds) // the same
	}
}

func (c *conn) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = false
	_ = c.Conn.SetDeadline(time.Time{})
	c.linger(-1) // the default
}

// freshFor is how long after an answer a connection is taken to be whole.
const freshFor = 5 * time.Millisecond

// SyscallConn is what the library looks through, before each command, to see
// whether the server has closed the connection. That costs as much as a write, and
// so soon after an answer it is not worth it.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if time.Since(c.used) < freshFor {
		return unread{}, nil
	}
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return unread{}, nil
	}
	return sc.SyscallConn()
}

// unread is a connection that nobody looks at.
type unread struct{}

func (unread) Control(func(uintptr)) error    { return nil }
func (unread) Read(func(uintptr) bool) error  { return nil }
func (unread) Write(func(uintptr) bool) error { return nil }
