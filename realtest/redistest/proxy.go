package redistest

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy that a test can cut: a partition between one client and
// the server.
type Proxy struct {
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	target string
	cut    bool
	heal   chan struct{} // closed when not cut
	delay  time.Duration // of each piece of data, either way
	conns  map[net.Conn]bool
	subs   map[net.Conn]bool // clients that have subscribed
	deaf   map[net.Conn]bool // those that are told nothing
	repls  map[net.Conn]bool // clients that are replicas
	pass   chan struct{}     // closed while replicas are sent what there is
	peers  map[net.Conn]bool // clients that are replicas or sentinels, and the server's ends of these
	join   chan struct{}     // closed while the server hears them, and they it
	closed bool
}

// StartProxy starts a proxy that leads to target, and stops it when the test
// ends.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{l: l, target: target, heal: make(chan struct{}), conns: map[net.Conn]bool{}, subs: map[net.Conn]bool{}, deaf: map[net.Conn]bool{},
		repls: map[net.Conn]bool{}, pass: make(chan struct{}), peers: map[net.Conn]bool{}, join: make(chan struct{})}
	close(p.heal)
	close(p.pass)
	close(p.join)
	p.wg.Go(p.accept)
	tb.Cleanup(p.Close)
	return p
}

// Addr is the proxy's host:port.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Cut makes both sides hear nothing of each other. Connections stay open, as in a
// network that loses every packet, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.cut, p.heal = true, make(chan struct{})
	}
}

// Heal ends a Cut; what was sent meanwhile arrives.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		p.cut = false
		close(p.heal)
	}
}

// Delay makes each piece of data that is passed on from now on, either way, wait for d
// first. Data stay in order, so a connection that is busy is slow as well.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Deafen makes the connections that have a subscription half open: the server goes
// on to send, and the client receives nothing. Those that are made later are whole.
func (p *Proxy) Deafen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.subs {
		p.deaf[c] = true
	}
}

// Lag has the server's replicas hear nothing from it, though their connections stay open,
// until LoseLag. Other clients notice nothing.
func (p *Proxy) Lag() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pass = make(chan struct{})
}

// LoseLag ends a Lag, and closes the replicas' connections: what was held back is lost.
func (p *Proxy) LoseLag() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.repls {
		c.Close()
	}
	select {
	case <-p.pass:
	default:
		close(p.pass)
	}
}

// Isolate has the server and its replicas and sentinels hear nothing of each other until
// Rejoin, as in a network that loses every packet between them, though not those of other
// clients. It goes by what they say first: neither greets as a client's library does.
func (p *Proxy) Isolate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.join = make(chan struct{})
}

// Rejoin ends that. What was sent meanwhile is lost with the connections.
func (p *Proxy) Rejoin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.join:
		return
	default:
	}
	for c := range p.peers {
		c.Close()
	}
	close(p.join)
}

// isPeer tells whether a connection that begins with this is a replica's or a sentinel's.
func isPeer(first []byte) bool {
	return bytes.Contains(first, []byte("sentinel-")) || bytes.HasPrefix(first, []byte("*1\r\n$4\r\nPING\r\n"))
}

// Drop closes all connections.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// Retarget leads new connections elsewhere and closes the old ones.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.Drop()
}

// Close ends the proxy before the test does.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Heal()
	p.LoseLag()
	p.Rejoin()
	p.l.Close()
	p.Drop()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.track(client, server) {
		return
	}
	defer p.forget(client, server)
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(server, client) })
	wg.Go(func() { p.copy(client, server) })
	wg.Wait()
}

func (p *Proxy) track(cs ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		p.conns[c] = true
	}
	return !p.closed
}

func (p *Proxy) forget(cs ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		delete(p.conns, c)
		delete(p.subs, c)
		delete(p.deaf, c)
		delete(p.repls, c)
		delete(p.peers, c)
	}
}

// copy passes data on, but holds it back while the proxy is cut. When one
// direction ends, both do.
func (p *Proxy) copy(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for first := true; ; first = false {
		n, err := src.Read(buf)
		p.mu.Lock()
		if first && isPeer(buf[:n]) {
			p.peers[src], p.peers[dst] = true, true
		}
		var join chan struct{}
		if p.peers[src] {
			join = p.join
		}
		heal, delay := p.heal, p.delay
		if bytes.Contains(buf[:n], []byte("\nsubscribe\r")) {
			p.subs[src] = true
		}
		if bytes.Contains(buf[:n], []byte("\nPSYNC\r")) {
			p.repls[src] = true
		}
		var pass chan struct{}
		if p.repls[dst] {
			pass = p.pass
		}
		lost := p.deaf[dst]
		p.mu.Unlock()
		if delay > 0 {
			time.Sleep(delay)
		}
		<-heal
		if pass != nil {
			<-pass
		}
		if join != nil {
			<-join
		}
		if n > 0 && !lost {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
