package redislock

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// lane is a client of one connection, which one call at a time has to itself. So
// the call can be ended when its context is: the library waits for an answer until
// its deadline, whatever becomes of the context, and does not tell which connection
// of a pool a command is on.
type lane struct {
	client *redis.Client
	config *tls.Config // nil: no TLS
	dialer *net.Dialer
	crowd  func() bool // other calls are under way

	mu     sync.Mutex
	call   int   // counts them
	ended  bool  // the call was interrupted
	failed bool  // there was no connection to be had
	conn   *conn // the newest
	undial context.CancelFunc
}

// spareSize is how many connections the client of a lane may have. It has one; but
// a client as many of whose attempts to connect have failed goes on trying on its
// own.
const spareSize = 8

func newLane(o *redis.Options, crowd func() bool) *lane {
	timeout := o.DialTimeout
	if timeout <= 0 {
		timeout = dialTimeout
	}
	l := &lane{config: o.TLSConfig, dialer: newDialer(timeout), crowd: crowd}
	own := *o
	own.Dialer = l.dial
	own.PoolSize, own.MinIdleConns, own.MaxIdleConns, own.PipelinePoolSize = spareSize, 0, 0, -1
	// It would replace connections behind the lane's back.
	own.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	l.client = redis.NewClient(&own)
	return l
}

// begin starts a call and returns its number.
func (l *lane) begin() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.call++
	if l.ended && l.conn != nil {
		l.conn.resume() // the interruption came when the answer had been read
	}
	l.ended = false
	return l.call
}

// finish ends a call. A lane that could not connect is of no more use.
func (l *lane) finish() (failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.call++
	return l.failed
}

// interrupt makes a call return if it is still under way.
func (l *lane) interrupt(call int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.call != call || l.ended {
		return
	}
	l.ended = true
	if l.conn != nil {
		l.conn.interrupt()
	}
	if l.undial != nil {
		l.undial()
	}
}

// dial makes the connection. The library calls it with a context of its own, which
// knows nothing of the call's.
func (l *lane) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.dialer.Timeout)
	defer cancel()
	l.mu.Lock()
	if l.ended {
		cancel()
	}
	l.undial = cancel
	l.mu.Unlock()

	c, tracked, err := l.connect(ctx, network, addr)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.undial = nil
	if err != nil {
		l.failed = true
		return nil, err
	}
	l.conn = tracked
	if l.ended {
		tracked.interrupt()
	}
	return c, nil
}

func (l *lane) connect(ctx context.Context, network, addr string) (net.Conn, *conn, error) {
	raw, err := l.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, nil, err
	}
	tracked := newConn(raw, l.crowd)
	if l.config == nil {
		return tracked, tracked, nil
	}
	c, err := handshake(ctx, tracked, l.config)
	return c, tracked, err
}
