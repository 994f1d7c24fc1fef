package redislock

import (
	"net"
	"runtime"
	"syscall"
	"time"
)

// awake is how long an answer is waited for without going to sleep. Going to sleep
// and being woken takes longer than a server on the same machine needs to answer.
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
	crowd      func() bool
	many       bool // processors
	rest, next int  // answers not to wait for, now and after the next failure

	p           []byte
	n           int
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
	e := &eager{raw: raw, crowd: crowd, many: min(runtime.GOMAXPROCS(0), runtime.NumCPU()) > 1}
	e.look, e.offer = e.tryRead, e.tryWrite
	return e
}

// read returns 0 if there is nothing yet, or the connection has an error that the
// next reader will meet too.
func (e *eager) read(p []byte) int {
	if e.rest > 0 {
		e.rest--
		return 0
	}
	e.p, e.n, e.wait = p, 0, e.many && !e.crowd()
	_ = e.raw.Read(e.look) // the next reader meets the error too
	e.p = nil
	switch {
	case e.n > 0:
		e.next = 0
	case e.wait:
		e.next = min(2*e.next+1, maxRest)
		e.rest = e.next
	}
	return e.n
}

func (e *eager) tryRead(fd uintptr) bool {
	for start := time.Now(); ; {
		for range 4 {
			n, err := syscall.Read(int(fd), e.p)
			if err != syscall.EAGAIN {
				e.n = max(n, 0)
				return true
			}
			if !e.wait {
				return true
			}
			// The server may be waiting for this very processor.
			_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		}
		if time.Since(start) > awake {
			return true
		}
	}
}

// write returns how much the connection took at once.
func (e *eager) write(p []byte) int {
	e.p, e.n = p, 0
	_ = e.raw.Write(e.offer) // the next writer meets the error too
	e.p = nil
	return e.n
}

func (e *eager) tryWrite(fd uintptr) bool {
	n, _ := syscall.Write(int(fd), e.p) // the next writer meets the error too
	e.n = max(n, 0)
	return true
}
