package redislock

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// awake is about how long an answer is waited for without going to sleep, more if
// others want the processor. Going to sleep and being woken takes longer than a
// server on the same machine needs to answer.
const awake = 100 * time.Microsecond

// maxRest is how many answers are waited for asleep, at most, before it is tried
// again whether one comes in time.
const maxRest = 1023

// eager reads and writes what it can at once, and waits awake for what is about to
// come: only if it is the only call under way and there is another processor for
// whoever answers. Where answers take longer than that it stops trying, but for
// one in a thousand.
type eager struct {
	raw        syscall.RawConn
	network    string
	crowd      func() bool
	many       bool // processors
	rest, next int  // answers not to wait for, now and after the next failure

	p           []byte
	n           int
	errno       error
	wait        bool
	look, offer func(fd uintptr) bool // made once
}

func newEager(c net.Conn, crowd func() bool) *eager {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	e := &eager{raw: raw, network: c.RemoteAddr().Network(), crowd: crowd, many: min(runtime.GOMAXPROCS(0), runtime.NumCPU()) > 1}
	e.look, e.offer = e.tryRead, e.tryWrite
	return e
}

// read returns nothing, and no error, if there is nothing yet, at the end, and on a
// connection that is interrupted or closed here.
func (e *eager) read(p []byte) (int, error) {
	if e.rest > 0 {
		e.rest--
		return 0, nil
	}
	e.wait = e.many && !e.crowd()
	n, err := e.try("read", e.raw.Read, e.look, p)
	switch {
	case n > 0:
		e.next = 0
	case e.wait:
		e.next = min(2*e.next+1, maxRest)
		e.rest = e.next
	}
	return n, err
}

// write returns how much the connection took at once.
func (e *eager) write(p []byte) (int, error) {
	return e.try("write", e.raw.Write, e.offer, p)
}

// try has f read or write p. An error of the system's is told once only, so it must
// not be left for the next who tries.
func (e *eager) try(op string, with func(func(uintptr) bool) error, f func(uintptr) bool, p []byte) (int, error) {
	e.p, e.n, e.errno = p, 0, nil
	err := with(f)
	e.p = nil
	if err != nil {
		return 0, nil
	}
	if e.errno != nil {
		return max(e.n, 0), &net.OpError{Op: op, Net: e.network, Err: os.NewSyscallError(op, e.errno)}
	}
	return max(e.n, 0), nil
}

func (e *eager) tryRead(fd uintptr) bool {
	for start := time.Now(); ; {
		n, err := syscall.Read(int(fd), e.p)
		switch err {
		case nil:
			e.n = n
			return true
		case syscall.EAGAIN, syscall.EINTR:
		default:
			e.errno = err
			return true
		}
		if !e.wait || time.Since(start) > awake {
			return true
		}
		// The server may be waiting for this very processor.
		_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

func (e *eager) tryWrite(fd uintptr) bool {
	n, err := syscall.Write(int(fd), e.p)
	e.n = n
	if err != nil && err != syscall.EAGAIN && err != syscall.EINTR {
		e.errno = err
	}
	return true
}
