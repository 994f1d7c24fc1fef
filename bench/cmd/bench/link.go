//go:build unix

package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A link is a way to a server that takes a while: what is sent arrives later by half of
// the delay in each direction, in order, and is not held up by what was sent before.
type link struct {
	listener net.Listener
	target   string
	half     time.Duration

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // nil when it is closed
	serves sync.WaitGroup
}

// link makes a way to target on which a round trip takes delay more. Loopback
// interfaces can be given a delay as well (netem), by root, and then all of them have it.
func (l *lab) link(target string, delay time.Duration) (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	k := &link{listener: ln, target: target, half: delay / 2, conns: map[net.Conn]struct{}{}}
	k.serves.Go(k.accept)
	l.stops = append(l.stops, k.close)
	return ln.Addr().String(), nil
}

func (k *link) close() error {
	err := k.listener.Close()
	k.mu.Lock()
	for c := range k.conns {
		c.Close()
	}
	k.conns = nil
	k.mu.Unlock()
	k.serves.Wait()
	return err
}

func (k *link) accept() {
	for {
		near, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.serves.Go(func() {
			defer near.Close()
			far, err := net.Dial("tcp", k.target)
			if err != nil {
				return
			}
			defer far.Close()
			if !k.keep(near, far) {
				return
			}
			var both sync.WaitGroup
			both.Go(func() { k.carry(far, near) })
			both.Go(func() { k.carry(near, far) })
			both.Wait()
		})
	}
}

func (k *link) keep(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		if k.conns == nil {
			return false
		}
		k.conns[c] = struct{}{}
	}
	return true
}

// carry brings what comes from one side to the other, and ends both.
func (k *link) carry(to, from net.Conn) {
	type packet struct {
		data []byte
		due  time.Time
	}
	queue := make(chan packet, 1024)
	var sends sync.WaitGroup
	sends.Go(func() {
		for p := range queue {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				from.Close()
			}
		}
	})
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			queue <- packet{buf[:n], time.Now().Add(k.half)}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				to.Close()
			}
			break
		}
	}
	close(queue)
	sends.Wait()
	to.Close()
	k.mu.Lock()
	delete(k.conns, from)
	k.mu.Unlock()
}
