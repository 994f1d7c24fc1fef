package conn

import (
	"context"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Dial makes a connection, which it tells raw of before it begins a TLS handshake.
type Dial func(ctx context.Context, network, addr string, raw func(net.Conn)) (net.Conn, error)

// single is a client of one connection, which one call at a time has to itself.
type single struct {
	client *redis.Client
	dialer Dial

	mu     sync.Mutex
	ended  bool // the call was interrupted
	failed bool // there was no connection to be had
	raw    net.Conn
	undial context.CancelFunc
}

// spareSize is how many connections the client of a single may have. It has one; but
// a client as many of whose attempts to connect have failed goes on trying on its
// own.
const spareSize = 8

func newSingle(o *redis.Options, dial Dial) *single {
	s := &single{dialer: dial}
	own := *o
	own.Dialer = s.dial
	own.PoolSize, own.MinIdleConns, own.MaxIdleConns, own.PipelinePoolSize = spareSize, 0, 0, -1
	// It would replace connections behind our back.
	own.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	s.client = redis.NewClient(&own)
	return s
}

func (s *single) hasFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// interrupt makes the call that is under way return.
func (s *single) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.cut()
	if s.undial != nil {
		s.undial()
	}
}

// cut closes the connection, and drops what has not been sent: a request that nobody
// waits for should not arrive after the one that takes it back. Called with mu held.
func (s *single) cut() {
	if t, ok := s.raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // fails if it is closed, and so ended
	}
	if s.raw != nil {
		_ = s.raw.Close() // the same
	}
}

// dial makes the connection. The library calls it with a context of its own, which
// knows nothing of the call's.
func (s *single) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.ended {
		cancel()
	}
	s.undial = cancel
	s.mu.Unlock()
	c, err := s.dialer(ctx, network, addr, func(raw net.Conn) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.raw = raw
		if s.ended {
			s.cut()
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undial = nil
	s.failed = s.failed || err != nil
	return c, err
}
