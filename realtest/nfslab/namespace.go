//go:build linux

package nfslab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace that lives as long as this, and a thread in
// it. Programs that the thread starts are in the namespace.
//
// The thread is the parent of all hosts and ends with the process at the latest, and
// hosts get SIGKILL when it does. So no host is left of a lab whose process was killed.
type namespace struct {
	file *os.File // names it
	work chan func()
	quit chan struct{}
	once sync.Once
	end  chan struct{}
}

func newNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func()), quit: make(chan struct{}), end: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(n.end)
		// Never unlocked: a thread in another namespace is no use to others, and
		// ends with its goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.file, err = os.Open("/proc/thread-self/ns/net")
		}
		started <- err
		if err != nil {
			return
		}
		for {
			select {
			case f := <-n.work:
				f()
			case <-n.quit:
				return
			}
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("nfslab: a network namespace: %w", err)
	}
	return n, nil
}

var errClosed = errors.New("nfslab: the lab is closed")

// start starts cmd on the namespace's thread.
func (n *namespace) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	select {
	case n.work <- func() { result <- cmd.Start() }:
		return <-result
	case <-n.quit:
		return errClosed
	}
}

func (n *namespace) run(commands ...string) error {
	for _, s := range commands {
		f := strings.Fields(s)
		cmd := exec.Command(f[0], f[1:]...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		err := n.start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %s", s, err, strings.TrimSpace(out.String()))
		}
	}
	return nil
}

// visit runs f in the namespace, on a thread of its own, since f may take long. A
// socket stays in the namespace in which it was made.
func (n *namespace) visit(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, as above
		err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func (n *namespace) dial(host string, port int, limit time.Duration) (c net.Conn, err error) {
	err = n.visit(func() (err error) {
		c, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", host, port), limit)
		return err
	})
	return c, err
}

func (n *namespace) listen(addr string) (l net.Listener, err error) {
	err = n.visit(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	return l, err
}

func (n *namespace) close() {
	n.once.Do(func() {
		close(n.quit)
		<-n.end
		n.file.Close()
	})
}
