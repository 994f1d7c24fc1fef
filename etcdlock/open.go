package etcdlock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
)

func init() {
	backend.Register("etcd", open)
	backend.Register("etcds", open)
}

// defaultPort is where etcd serves clients.
const defaultPort = "2379"

// openTimeout bounds Open for callers whose context has no deadline.
const openTimeout = 10 * time.Second

// config is what a URL says; see the package comment.
type config struct {
	client      clientv3.Config
	prefix      string
	dialTimeout time.Duration
}

func open(ctx context.Context, u *url.URL) (backend.Backend, error) {
	cfg, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.dialTimeout)
	defer cancel()
	return openConfig(ctx, cfg)
}

func openConfig(ctx context.Context, cfg config) (backend.Backend, error) {
	if err := probe(ctx, cfg.client); err != nil {
		return nil, err
	}
	b, err := cfg.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.examineElected(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// connect makes the client, and logs in if there is a user.
func (cfg config) connect(ctx context.Context) (*Backend, error) {
	if dl, ok := ctx.Deadline(); ok {
		cfg.client.DialTimeout = time.Until(dl) // bounds the login
	}
	var users *login
	srv := server{cfg.client.Endpoints, cfg.client.Username, cfg.prefix}
	if srv.user != "" {
		users = newLogin(srv.user, cfg.client.Password)
		cfg.client.Username, cfg.client.Password = "", ""
		cfg.client.DialOptions = append(cfg.client.DialOptions, users.dialOptions()...)
	}
	client, err := clientv3.New(cfg.client)
	if err == nil && users != nil {
		if err = users.renew(ctx, client.ActiveConnection(), ""); err != nil {
			_ = client.Close() // there is something more important to say
		}
	}
	if err != nil {
		err, _ := srv.describe(ctx, err)
		return nil, err
	}
	b := New(client, &Options{Prefix: cfg.prefix})
	b.owned, b.user, b.login = true, srv.user, users
	return b, nil
}

// examineElected examines the store, and again while it says that it has no leader: that
// passes with the election, which takes a second or two. It ends with ctx, at
// openTimeout by default, which is Acquire's patience too.
func (b *Backend) examineElected(ctx context.Context) error {
	var before error // what the store said last
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := b.examine(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && before != nil:
			return withCause(ctx, before) // it says more than that time ran out
		case !electing(err):
			return err
		}
		before = err
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return withCause(ctx, before)
		}
	}
}

// probe returns once an endpoint answers, whatever it says, and otherwise an
// error that tells of each why not. It goes before the login, which would only
// report that time ran out.
func probe(ctx context.Context, cfg clientv3.Config) error {
	cfg.Username, cfg.Password = "", ""
	client, err := clientv3.New(cfg)
	if err != nil {
		return fmt.Errorf("etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	defer client.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	tries, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(cfg.Endpoints))
	for _, ep := range cfg.Endpoints {
		wg.Go(func() {
			err := knock(tries, ep, cfg.TLS)
			if err == nil {
				_, err = client.Status(tries, ep)
				switch code(err) {
				case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
					if err != nil {
						err = fmt.Errorf("it accepts connections, but does not answer as etcd does (if it expects TLS: etcds://): %w", err)
					}
				default:
					err = nil // it has answered
				}
			}
			if err != nil {
				err = fmt.Errorf("etcd at %s cannot be reached: %w", ep, err)
			}
			results <- err
		})
	}
	var errs []error
	for range cfg.Endpoints {
		err := <-results
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return backend.Unavailable(withCause(ctx, errors.Join(errs...)))
}

// knock connects to an endpoint and hangs up. etcd's client would try until ctx
// ends and then have nothing to say of the cause.
func knock(ctx context.Context, endpoint string, config *tls.Config) error {
	_, addr, _ := strings.Cut(endpoint, "://")
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if config == nil {
		return nil
	}
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
		return err
	}
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS (if it does not use it: etcd://, without TLS options): %w", err)
	}
	return nil
}

// parseURL reads a URL without touching the network.
func parseURL(u *url.URL) (config, error) {
	q := backend.NewQuery(u)
	cfg := config{
		prefix:      strings.TrimPrefix(u.Path, "/"),
		dialTimeout: q.Duration("timeout", openTimeout),
	}
	more := q.String("endpoints", "")
	cacert, cert, key := q.String("cacert", ""), q.String("cert", ""), q.String("key", "")
	insecure := q.Bool("insecure", false)
	keepalive := q.Duration("keepalive", 5*time.Second)
	if err := q.Err(); err != nil {
		return cfg, err
	}

	secure := u.Scheme == "etcds" || cacert != "" || cert != "" || key != "" || insecure
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	if strings.Contains(u.Host, "@") || strings.Contains(more, "@") {
		// What stands before it may be a password, and is not repeated.
		return cfg, errors.New("an endpoint has an @: user and password are given once, before the first host, " +
			"and are for all endpoints: want etcd://user:password@host:2379/prefix?endpoints=host:2379")
	}
	n := 0
	for _, h := range append(strings.Split(u.Host, ","), strings.Split(more, ",")...) {
		if h == "" {
			continue
		}
		n++
		host, err := hostPort(h)
		if err != nil {
			at := fmt.Sprintf("endpoint %d of the URL", n)
			if !strings.Contains(more, ":") { // else it may be a user's name, and a password
				at = fmt.Sprintf("endpoint %q", h)
			}
			return cfg, fmt.Errorf("%s: %w", at, err)
		}
		cfg.client.Endpoints = append(cfg.client.Endpoints, scheme+host)
	}
	if len(cfg.client.Endpoints) == 0 {
		return cfg, errors.New("no endpoint is given: want etcd://host:2379/prefix")
	}
	if u.User != nil {
		cfg.client.Username = u.User.Username()
		cfg.client.Password, _ = u.User.Password()
		if cfg.client.Username == "" || cfg.client.Password == "" {
			return cfg, errors.New("a user needs a name and a password: want etcd://user:password@host:2379/prefix")
		}
	}
	if secure {
		var err error
		if cfg.client.TLS, err = tlsConfig(cacert, cert, key, insecure); err != nil {
			return cfg, err
		}
	}
	// A connection that died without a word is noticed and replaced.
	cfg.client.DialKeepAliveTime = keepalive
	cfg.client.DialKeepAliveTimeout = max(keepalive/2, time.Second)
	cfg.client.DialTimeout = cfg.dialTimeout
	// What the client would log is returned as errors.
	cfg.client.Logger = zap.NewNop()
	return cfg, nil
}

var errEndpoint = errors.New("want host:port, with a port from 1 to 65535")

// hostPort checks an endpoint, and adds the default port. Its errors do not repeat it.
func hostPort(h string) (string, error) {
	host, port, err := net.SplitHostPort(h)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(h, "["), "]"), defaultPort
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", errEndpoint
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@?#[] ") {
		return "", errEndpoint
	}
	return net.JoinHostPort(host, port), nil
}

func tlsConfig(cacert, cert, key string, insecure bool) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure}
	if cacert != "" {
		pem, err := os.ReadFile(cacert)
		if err != nil {
			return nil, fmt.Errorf("option cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("option cacert: %s has no certificate in PEM format", cacert)
		}
	}
	if cert == "" && key == "" {
		return c, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("options cert and key belong together: one of them is missing")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("options cert and key: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
