package redislock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// attemptError says what an Acquire's error means. The contract is strict: an
// error that does not match ErrUnavailable promises that nothing was taken.
func (b *Backend) attemptError(err error) error {
	if errors.Is(err, backend.ErrUnavailable) {
		return err // our own words
	}
	v, err := b.explain(err)
	if v == refused && !b.repeats {
		return err
	}
	if errors.Is(err, backend.ErrCorrupt) || errors.Is(err, backend.ErrTokensExhausted) || errors.Is(err, backend.ErrClosed) {
		// The scripts find these before they take anything, and an attempt that had
		// taken the lock would have found its own record.
		return err
	}
	return backend.Unavailable(err)
}

// verbError is for the other verbs, whose only definite errors are ErrLost and
// what a script found.
func (b *Backend) verbError(err error) error {
	if err == nil {
		return nil
	}
	return b.attemptError(err)
}

// verdict is what an error says of the request, and of those that come after it.
type verdict int

const (
	// unknown: nothing.
	unknown verdict = iota
	// refused: the server did nothing, and will not another time.
	refused
	// misfit: the server and the URL or client do not fit. It is as good as refused
	// when the server is first asked; later it can be a server that was replaced.
	misfit
	// passing: the server is there, and cannot serve now.
	passing
)

// refusals are the errors with which a server refuses a command before it does
// anything, and which do not pass by themselves (permission.go has more). Others that
// refuse do pass, such as LOADING, READONLY and CLUSTERDOWN during a failover: they
// are unavailability.
var refusals = []struct{ prefix, meaning string }{
	{"NOAUTH", "the server asks for a password and the URL or client has none"},
	{"WRONGPASS", "the user name or password is wrong"},
	{"ERR invalid password", "the password is wrong"},
	{"ERR DB index is out of range", "the server has no such database"},
}

const inCluster = "the server is one of a Redis Cluster: open it with cluster=true"

var passings = []struct{ prefix, meaning string }{
	{"OOM", "the server is out of memory (maxmemory) and its eviction policy frees none"},
	{"READONLY", "the server is a read-only replica, not the primary"},
	{"LOADING", "the server is still loading its data"},
	{"MASTERDOWN", "the server is a replica that has lost its primary"},
	{"CLUSTERDOWN", "the cluster does not serve this slot"},
	{"TRYAGAIN", "the cluster is moving this slot"},
	{"ASK", "the cluster is moving this slot"},
	{"MISCONF", "the server cannot save its data and refuses to write"},
	{"NOREPLICAS", "the server has fewer good replicas than its min-replicas-to-write"},
	{"BUSY", "the server is busy with a script"},
	{"ERR max number of clients", "the server has no room for another connection (maxclients)"},
	// what proxies answer while the server behind them does not
	{"ERR Connection ", "a proxy does not reach the server"},
	{"ERR Host ", "a proxy does not reach the server"},
	{"no upstream host", "a proxy does not reach the server"},
	{"upstream failure", "a proxy does not reach the server"},
}

// explain puts what go-redis returned into words.
func (b *Backend) explain(err error) (verdict, error) {
	if errors.Is(err, redis.ErrClosed) {
		if b.closed.Load() {
			return unknown, backend.ErrClosed
		}
		return unknown, fmt.Errorf("redis: the client given to New was closed: %w", err)
	}
	var reply redis.Error
	if errors.As(err, &reply) {
		text := reply.Error()
		switch {
		case strings.Contains(text, "HASPCORRUPT "):
			_, what, _ := strings.Cut(text, "HASPCORRUPT ")
			return unknown, fmt.Errorf("%w: %s", backend.ErrCorrupt, what)
		case strings.Contains(text, "WRONGTYPE"):
			return unknown, fmt.Errorf("%w: something else has one of the lock's keys: %s", backend.ErrCorrupt, text)
		case strings.Contains(text, "HASPWITHDRAWN"):
			return unknown, errors.New("redis: the claim was withdrawn before this attempt arrived")
		case strings.Contains(text, "HASPUSEDUP"):
			return unknown, backend.ErrTokensExhausted
		}
		if right, ok := b.denied(text); ok {
			return refused, b.lacks(err, right)
		}
		for _, r := range refusals {
			if replies(text, r.prefix) {
				return refused, b.at(r.meaning, err)
			}
		}
		for _, r := range passings {
			if replies(text, r.prefix) {
				return passing, b.at(r.meaning, err)
			}
		}
		if replies(text, "MOVED") {
			if b.exact {
				return misfit, b.at(inCluster, err)
			}
			return passing, b.at("the cluster's slots are moving", err)
		}
		return misfit, b.at("the server answered with an error", err)
	}
	var record tls.RecordHeaderError
	var unknownCA x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var alert tls.AlertError
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.As(err, &record):
		return misfit, b.at("the server does not speak TLS on this port (redis: instead of rediss:?)", err)
	case errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &certificate):
		return misfit, b.at("the server's TLS certificate is not trusted", err)
	case errors.As(err, &alert):
		return misfit, b.at("the server refused the TLS connection", err)
	case strings.Contains(err.Error(), `\x15\x03`), strings.Contains(err.Error(), "\x15\x03"):
		return misfit, b.at("the server speaks TLS on this port (rediss: instead of redis:?)", err)
	case errors.Is(err, errHandshake) && !errors.Is(err, context.Canceled):
		return unknown, b.at("the server does not answer as one that speaks TLS (redis: instead of rediss:?)", err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return passing, b.at("the server, or a proxy in front of it, closed the connection: it cannot serve, has no room for another (maxclients), or wants TLS (rediss: instead of redis:?)", err)
	case errors.Is(err, context.Canceled):
		return unknown, b.at("the context ended before the answer came", err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return unknown, b.at("no answer in time", err)
	}
	return unknown, b.at("no answer", err)
}

// replies tells whether an error reply is of this kind. Before Redis 7 the errors
// of commands in scripts come wrapped in the script's own.
func replies(text, prefix string) bool {
	return strings.HasPrefix(text, prefix) ||
		strings.HasPrefix(text, "ERR Error running script") && strings.Contains(text, ": -"+prefix)
}

func (b *Backend) at(meaning string, err error) error {
	if b.where == "" {
		return fmt.Errorf("redis: %s: %w", meaning, err)
	}
	return fmt.Errorf("redis at %s: %s: %w", b.where, meaning, err)
}
