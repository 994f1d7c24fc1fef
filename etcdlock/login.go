package etcdlock

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// login is a user and a password, and the token that etcd gave for them, of a client
// that was opened from a URL. The client library can do the same, but it sends the
// token along with its own requests for a new one, and etcd before version 3.5
// refuses those once the token has expired (after 300 s without a request, by
// default): then it asks again, and again, until the caller's time is over.
type login struct {
	user, password string

	// asking is a mutex that can be waited for under a context: one request for a
	// token is under way at a time.
	asking chan struct{}

	mu    sync.Mutex
	token string // empty: none yet, or etcd has no users
}

func newLogin(user, password string) *login {
	return &login{user: user, password: password, asking: make(chan struct{}, 1)}
}

// dialOptions make a client's connections use l.
func (l *login) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithPerRPCCredentials(l),
		grpc.WithChainUnaryInterceptor(l.unary),
	}
}

type withoutToken struct{}

// GetRequestMetadata implements [credentials.PerRPCCredentials].
func (l *login) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if ctx.Value(withoutToken{}) != nil {
		return nil, nil
	}
	token := l.current()
	if token == "" {
		return nil, nil
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: token}, nil
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials]. Without TLS
// the password is sent as it is, as etcd's own clients do.
func (l *login) RequireTransportSecurity() bool { return false }

// current returns the token; "" of no login.
func (l *login) current() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

// unary sends a request again with a new token if the one that it had is refused;
// it has not been carried out then.
func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	token := l.current()
	err := invoke(ctx, method, req, reply, cc, opts...)
	if ctx.Value(withoutToken{}) != nil || !tokenRefused(err) {
		return err
	}
	if err := l.renew(ctx, cc, token); err != nil {
		return err
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// tokenRefused tells whether err says that a request needs another token: it has
// expired, the server has forgotten it, users were changed since, or there was none.
func tokenRefused(err error) bool {
	return is(err, rpctypes.ErrInvalidAuthToken) || is(err, rpctypes.ErrAuthOldRevision) || is(err, rpctypes.ErrUserEmpty)
}

// renew gets a token unless another caller has got one since old was current.
func (l *login) renew(ctx context.Context, cc grpc.ClientConnInterface, old string) error {
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.current() != old {
		return nil
	}
	resp, err := etcdserverpb.NewAuthClient(cc).Authenticate(context.WithValue(ctx, withoutToken{}, true),
		&etcdserverpb.AuthenticateRequest{Name: l.user, Password: l.password}, callOptions...)
	token := ""
	switch {
	case err == nil:
		token = resp.Token
	case !is(err, rpctypes.ErrAuthNotEnabled):
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token = token
	return nil
}

// watchStream returns a context for a watch, and which of the client's streams it
// goes over: the client library keeps one for all watches whose requests carry the
// same metadata. A stream keeps the token that it began with, and etcd before version
// 3.5 refuses every watch on it when that has expired.
func (s *store) watchStream(ctx context.Context) (context.Context, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == 0 {
		return ctx, 0
	}
	return metadata.AppendToOutgoingContext(ctx, "hasp-stream", strconv.Itoa(s.stream)), s.stream
}

// watchRefused has later watches use another stream if err may be due to the token
// that this one began with. The look that comes before each gets a valid one.
func (s *store) watchRefused(stream int, err error) {
	// A watch is refused in words, and some servers have words around them.
	if !slices.ContainsFunc([]error{rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrPermissionDenied},
		func(reason error) bool { return strings.Contains(err.Error(), reason.Error()) }) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == stream {
		s.stream++
	}
}

// statusTimeout bounds the question which version a server has.
const statusTimeout = 2 * time.Second

// checkLogin refuses a client that has a user of its own, and not ours, where it would
// hang for good when its token has expired; see login. Nothing is known of such a
// client but its endpoints, so another cannot be made.
func (s *store) checkLogin(ctx context.Context) error {
	s.mu.Lock()
	checked := s.checked || s.client.Username == ""
	s.mu.Unlock()
	if checked {
		return nil
	}
	for _, endpoint := range s.client.Endpoints() {
		sctx, cancel := context.WithTimeout(ctx, statusTimeout)
		resp, err := s.client.Status(sctx, endpoint)
		cancel()
		if err != nil {
			continue // the request that is made next says more
		}
		if before(resp.Version, 3, 5) {
			return fmt.Errorf("etcd at %s is of version %s: there, etcd's client library cannot log in again as user %q when its token has expired, and hangs; "+
				"open the locks by URL (etcd://user:password@host:port/prefix) instead of on a client, or run etcd 3.5 or later", endpoint, resp.Version, s.user)
		}
		s.mu.Lock()
		s.checked = true
		s.mu.Unlock()
		return nil
	}
	return nil
}

// before tells whether a server's version is less than major.minor.
func before(version string, major, minor int) bool {
	var x, y int
	_, err := fmt.Sscanf(version, "%d.%d", &x, &y)
	return err == nil && (x < major || x == major && y < minor)
}
