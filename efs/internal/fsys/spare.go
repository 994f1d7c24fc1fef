//go:build unix

package fsys

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A holder's heartbeat is a rename and a look, which need no descriptor. But the name may
// have been changed by who waits, or raises the token, and then it has to be listed; and
// a lock file is written to. So one descriptor is set aside for the process: when there
// is no other it is closed, and opened again as what is needed. Somebody else may be
// faster in between; then the request fails, and is repeated like any other.

var spare = struct {
	mu    sync.Mutex
	users int
	free  chan int     // has the descriptor while nobody uses it, or -1 if it is to be opened
	lent  atomic.Int64 // the descriptor that was opened in its place
	short atomic.Bool  // free has -1
}{free: make(chan int, 1)}

func init() { spare.lent.Store(-1) }

// spareWait is how long a request waits for another to give the descriptor back.
const spareWait = time.Second

// Reserve sets a descriptor aside, until free is called, which is to be done once.
func Reserve() (free func()) {
	spare.mu.Lock()
	defer spare.mu.Unlock()
	if spare.users++; spare.users == 1 {
		refill()
	}
	return func() {
		spare.mu.Lock()
		defer spare.mu.Unlock()
		if spare.users--; spare.users > 0 {
			return
		}
		select {
		case fd := <-spare.free:
			spare.short.Store(false)
			if fd >= 0 {
				unix.Close(fd)
			}
		default: // it is lent, and will not be opened again
		}
	}
}

// refill puts a descriptor aside. Called with mu held.
func refill() {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	select {
	case spare.free <- fd:
		spare.short.Store(fd < 0)
	default: // there is one: it was lent when the last user went, and the next has come
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// openSpare opens a path in place of the descriptor that was set aside. Another goroutine
// may have taken the place of what has just been closed; it gives it back soon.
func openSpare(path string, flags int, mode uint32) (fd int, err error) {
	for end := time.Now().Add(spareWait); ; {
		if !reserved() {
			return -1, unix.EMFILE
		}
		select {
		case old := <-spare.free:
			if old >= 0 {
				unix.Close(old)
			}
		case <-time.After(time.Until(end)):
			return -1, unix.EMFILE
		}
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode)
		for err == unix.EINTR {
			fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode)
		}
		if err == nil {
			spare.lent.Store(int64(fd))
			return fd, nil
		}
		giveBack()
		if err != unix.EMFILE && err != unix.ENFILE || time.Now().After(end) {
			return -1, err
		}
		time.Sleep(time.Millisecond)
	}
}

func reserved() bool {
	spare.mu.Lock()
	defer spare.mu.Unlock()
	return spare.users > 0
}

// closed is called when fd has been closed.
func closed(fd int) {
	if spare.lent.CompareAndSwap(int64(fd), -1) {
		giveBack()
	} else if spare.short.Load() {
		select {
		case old := <-spare.free:
			if old >= 0 { // another has done it
				unix.Close(old)
			}
			giveBack()
		default:
		}
	}
}

// giveBack sets a descriptor aside again, if anybody wants that still.
func giveBack() {
	spare.mu.Lock()
	defer spare.mu.Unlock()
	spare.short.Store(false)
	if spare.users > 0 {
		refill()
	}
}

// shut closes fd.
func shut(fd int) error {
	err := unix.Close(fd)
	closed(fd)
	return err
}
