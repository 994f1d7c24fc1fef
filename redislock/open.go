package redislock

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/redislock/internal/conn"
)

func init() {
	backend.Register("redis", Open)
	backend.Register("rediss", Open)
	backend.Register("redis+unix", Open)
}

// dialTimeout is the library's default.
const dialTimeout = 5 * time.Second

// Open opens the backend that u names, as the package documentation describes,
// and checks that it can acquire locks there, and be told of its turn. While the
// server is there and cannot serve, Open tries again, for 10 s, as Acquire would: that
// passes. Its errors then match [backend.ErrUnavailable], as when no server answers;
// one that matches [fs.ErrPermission] says which right the user lacks.
func Open(ctx context.Context, u *url.URL) (backend.Backend, error) {
	b, err := connect(u, nil)
	if err != nil {
		return nil, err
	}
	if err := b.probe(ctx); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// connect makes the backend that u names, and asks the server nothing. change, if not nil,
// may change what the URL says.
func connect(u *url.URL, change func(*Options)) (*Backend, error) {
	q := backend.NewQuery(u)
	opts := &Options{
		Prefix:          q.String("prefix", ""),
		TokenMemory:     q.Duration("token_memory", 0),
		Patience:        q.Duration("patience", 0),
		Replicas:        q.Int("replicas", 0, 0),
		ReplicasTimeout: q.Duration("replicas_timeout", 0),
	}
	hosts := strings.Split(u.Host, ",")
	cluster := q.Bool("cluster", false)
	rest := q.Rest() // the client library's own
	if err := q.Err(); err != nil {
		return nil, err
	}
	if change != nil {
		change(opts)
	}
	cluster = cluster || len(hosts) > 1 && !rest.Has("master_name")
	client, conns, err := newClient(u, hosts, rest, cluster)
	if err != nil {
		return nil, err
	}
	b, err := newBackend(client, opts)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	b.own = true
	b.conns = conns
	if name := rest.Get("master_name"); name != "" {
		b.where = fmt.Sprintf("%s (found by the sentinels at %s)", name, u.Host)
	}
	return b, nil
}

// newClient leaves to the library what it can parse. Its retries are off unless
// the URL asks for them: the engine retries, and it knows what an attempt of
// unknown outcome means. Where there is one server whose address does not change,
// the locks' own requests go over connections of ours, and the client has what remains: the
// subscription, and looking after waiters.
func newClient(u *url.URL, hosts []string, rest url.Values, cluster bool) (redis.UniversalClient, *conn.Pool, error) {
	v := *u
	v.Host = hosts[0]
	for _, h := range hosts[1:] {
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), "6379")
		}
		rest.Add("addr", h)
	}
	retries := rest.Has("max_retries")
	switch {
	case rest.Has("master_name"):
		v.RawQuery = rest.Encode()
		o, err := redis.ParseFailoverURL(v.String())
		if err != nil {
			return nil, nil, safe(err)
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, max(o.DialerRetries, 1)
		if !retries {
			o.MaxRetries = -1
		}
		client := redis.NewFailoverClient(o)
		client.AddHook(newSentinels(o))
		return client, nil, nil
	case cluster:
		v.RawQuery = rest.Encode()
		o, err := redis.ParseClusterURL(v.String())
		if err != nil {
			return nil, nil, safe(err)
		}
		o.ContextTimeoutEnabled, o.DialerRetries = true, max(o.DialerRetries, 1)
		if o.TLSConfig != nil {
			o.Dialer = tlsDialer(o.DialTimeout, o.TLSConfig)
		}
		return redis.NewClusterClient(o), nil, nil
	}
	if u.Scheme == "redis+unix" {
		v.Scheme = "unix"
	}
	v.RawQuery = rest.Encode()
	o, err := redis.ParseURL(v.String())
	if err != nil {
		return nil, nil, safe(err)
	}
	o.ContextTimeoutEnabled, o.DialerRetries = true, 1
	if !retries {
		o.MaxRetries = -1
	}
	var conns *conn.Pool
	if o.MaxRetries < 0 { // the library's pauses between attempts do not end with a call
		conns = conn.NewPool(*o, dialer(o.DialTimeout, o.TLSConfig))
		o.MinIdleConns = 0
	}
	if o.TLSConfig != nil {
		o.Dialer = tlsDialer(o.DialTimeout, o.TLSConfig)
	}
	return redis.NewClient(o), conns, nil
}

var errHandshake = errors.New("TLS handshake")

// dialer does what the library's own does, but respects the context, and tells a
// handshake that failed from a server that cannot be reached. Without a config there
// is no TLS.
func dialer(timeout time.Duration, config *tls.Config) conn.Dial {
	if timeout <= 0 {
		timeout = dialTimeout
	}
	d := newDialer(timeout)
	return func(ctx context.Context, network, addr string, raw func(net.Conn)) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		raw(c)
		if config == nil {
			return c, nil
		}
		return handshake(ctx, c, config)
	}
}

func tlsDialer(timeout time.Duration, config *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	dial := dialer(timeout, config)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(ctx, network, addr, func(net.Conn) {})
	}
}

func newDialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
}

func handshake(ctx context.Context, raw net.Conn, config *tls.Config) (net.Conn, error) {
	tc := tls.Client(raw, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // a failed handshake has closed it, as a rule
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return tc, nil
}

// safe keeps a URL, which may have a password in it, out of an error.
func safe(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
