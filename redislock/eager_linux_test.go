package redislock

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// unconnectable returns an address where attempts to connect wait for ever: nobody
// accepts, and there is no room in the queue.
func unconnectable(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 8 {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			if os.IsTimeout(err) {
				return addr
			}
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of connections does not fill up")
	return ""
}

// Where answers do not come at once, fewer and fewer of them are waited for awake.
func TestEagerGivesUp(t *testing.T) {
	crowded := false
	c, other := pair(t, func() bool { return crowded })
	e := c.eager
	e.many = true
	var buf [8]byte
	for _, rest := range []int{1, 3, 7, 15} {
		if n, _ := e.read(buf[:]); n != 0 || e.rest != rest {
			t.Fatalf("nothing to read: %d bytes, and %d to be waited for asleep, want %d", n, e.rest, rest)
		}
		for range rest {
			if n, _ := e.read(buf[:]); n != 0 {
				t.Fatalf("read %d bytes", n)
			}
		}
	}
	if _, err := other.Write([]byte("now")); err != nil {
		t.Fatal(err)
	}
	for n := 0; n == 0; n, _ = e.read(buf[:]) {
		e.rest = 0
	}
	if string(buf[:3]) != "now" || e.next != 0 {
		t.Errorf("read %q; after the next failure %d are waited for asleep", buf[:3], e.next)
	}
	crowded = true
	for range 100 {
		if n, _ := e.read(buf[:]); n != 0 || e.rest != 0 {
			t.Fatalf("in a crowd: read %d bytes, rest %d", n, e.rest)
		}
	}
	e.next = maxRest
	crowded = false
	if e.read(buf[:]); e.rest != maxRest {
		t.Errorf("%d are waited for asleep, want %d at most", e.rest, maxRest)
	}
}

// readAtOnce fills p by looking, without waiting.
func readAtOnce(t *testing.T, e *eager, p []byte) {
	t.Helper()
	e.rest, e.many = 0, false
	for start := time.Now(); len(p) > 0; {
		n, err := e.read(p)
		if err != nil || time.Since(start) > time.Minute {
			t.Fatalf("what has come cannot be read at once: %v", err)
		}
		p = p[n:]
	}
}
