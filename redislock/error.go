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

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// attemptError says what an Acquire's error means. The contract is strict: an
// error that does not match ErrUnavailable promises that nothing was taken.
func (b *Backend) attemptError(err error) error {
	err, refused := b.explain(err)
	if refused && !b.repeats {
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

// refusals are the errors with which a server refuses a command before it does
// anything, and which do not pass by themselves. Others that refuse do pass, such
// as LOADING, READONLY and CLUSTERDOWN during a failover: they are unavailability.
var refusals = []struct{ prefix, meaning string }{
	{"NOAUTH", "the server asks for a password and the URL or client has none"},
	{"WRONGPASS", "the user name or password is wrong"},
	{"ERR invalid password", "the password is wrong"},
	{"NOPERM", "the user lacks a permission (see the package documentation for the list)"},
	{"ERR The user executing the script can't", "the user lacks a permission (see the package documentation for the list)"},
	{"OOM", "the server is out of memory (maxmemory) and its eviction policy frees none"},
	{"ERR DB index is out of range", "the server has no such database"},
}

const inCluster = "the server is one of a Redis Cluster: open it with cluster=true"

var passing = []struct{ prefix, meaning string }{
	{"READONLY", "the server is a read-only replica, not the primary"},
	{"LOADING", "the server is still loading its data"},
	{"MASTERDOWN", "the server is a replica that has lost its primary"},
	{"CLUSTERDOWN", "the cluster does not serve this slot"},
	{"TRYAGAIN", "the cluster is moving this slot"},
	{"MOVED", inCluster},
	{"MISCONF", "the server cannot save its data and refuses to write"},
	{"NOREPLICAS", "the server has fewer good replicas than its min-replicas-to-write"},
	{"BUSY", "the server is busy with a script"},
	{"ERR max number of clients reached", "the server has no room for another connection"},
}

// explain puts what go-redis returned into words. refused is true if the server
// said so before it did anything.
func (b *Backend) explain(err error) (_ error, refused bool) {
	if errors.Is(err, redis.ErrClosed) {
		if b.closed.Load() {
			return backend.ErrClosed, false
		}
		return fmt.Errorf("redis: the client given to New was closed: %w", err), false
	}
	var reply redis.Error
	if errors.As(err, &reply) {
		text := reply.Error()
		switch {
		case strings.Contains(text, "HASPCORRUPT "):
			_, what, _ := strings.Cut(text, "HASPCORRUPT ")
			return fmt.Errorf("%w: %s", backend.ErrCorrupt, what), false
		case strings.Contains(text, "WRONGTYPE"):
			return fmt.Errorf("%w: something else has one of the lock's keys: %s", backend.ErrCorrupt, text), false
		case strings.Contains(text, "HASPUSEDUP"):
			return backend.ErrTokensExhausted, false
		}
		for _, r := range refusals {
			if replies(text, r.prefix) {
				return b.at(r.meaning, err), true
			}
		}
		for _, r := range passing {
			if replies(text, r.prefix) {
				return b.at(r.meaning, err), false
			}
		}
		return b.at("the server answered with an error", err), false
	}
	var record tls.RecordHeaderError
	var unknownCA x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var alert tls.AlertError
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.As(err, &record):
		return b.at("the server does not speak TLS on this port (redis: instead of rediss:?)", err), false
	case errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &certificate):
		return b.at("the server's TLS certificate is not trusted", err), false
	case errors.As(err, &alert):
		return b.at("the server refused the TLS connection", err), false
	case strings.Contains(err.Error(), `\x15\x03`), strings.Contains(err.Error(), "\x15\x03"):
		return b.at("the server speaks TLS on this port (rediss: instead of redis:?)", err), false
	case errors.Is(err, errHandshake) && !errors.Is(err, context.Canceled):
		return b.at("the server does not answer as one that speaks TLS (redis: instead of rediss:?)", err), false
	case errors.Is(err, io.EOF):
		return b.at("the server closed the connection, as it does if it wants TLS and the client does not (rediss: instead of redis:?)", err), false
	case errors.Is(err, context.Canceled):
		return b.at("the context ended before the answer came", err), false
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return b.at("no answer in time", err), false
	}
	return b.at("no answer", err), false
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
