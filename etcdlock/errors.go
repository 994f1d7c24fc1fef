package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fail says which operation on which key failed. Errors that the engine acts on
// by themselves (a *HeldError) are not wrapped.
func (b *Backend) fail(op, key string, err error) error {
	if key == "" {
		return fmt.Errorf("etcdlock: %s: %w", op, err)
	}
	return fmt.Errorf("etcdlock: %s %q: %w", op, key, err)
}

// explain turns an error of etcd's client into words that say what to do, and
// into backend.ErrUnavailable if the request may have been carried out.
func (b *Backend) explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, backend.ErrUnavailable) {
		return err
	}
	err, unknown := b.server().describe(ctx, err)
	if unknown {
		return backend.Unavailable(err)
	}
	return err
}

// server is what errors say of the store.
type server struct {
	endpoints    []string
	user, prefix string
}

func (b *Backend) server() server {
	return server{endpoints: b.client.Endpoints(), user: b.client.Username, prefix: b.names.prefix}
}

func (s server) describe(ctx context.Context, err error) (_ error, unknown bool) {
	at := "etcd at " + strings.Join(s.endpoints, ", ")
	var msg string
	switch {
	case is(err, rpctypes.ErrNoSpace):
		// The request that first exceeds the quota is answered with this error
		// and carried out all the same; see Acquire.
		msg, unknown = "is out of space (alarm NOSPACE): compact and defragment it, raise --quota-backend-bytes, then disarm the alarm", true
	case is(err, rpctypes.ErrPermissionDenied):
		msg = fmt.Sprintf("denies permission to user %q: its role has to grant readwrite on prefix %q", s.user, s.prefix)
	case is(err, rpctypes.ErrAuthFailed):
		msg = fmt.Sprintf("refuses the password of user %q", s.user)
	case is(err, rpctypes.ErrUserEmpty):
		msg = "asks for a user and a password, and none was given"
	case is(err, rpctypes.ErrInvalidAuthToken):
		msg = fmt.Sprintf("does not accept the session of user %q any more", s.user)
	case is(err, rpctypes.ErrAuthNotEnabled):
		msg = "has no authentication, but a user was given"
	case is(err, rpctypes.ErrRequestTooLarge):
		msg = "refuses the request: it is larger than --max-request-bytes"
	case is(err, rpctypes.ErrTooManyRequests):
		msg = "refuses the request: it has too many others to carry out"
	case is(err, rpctypes.ErrLeaseTTLTooLarge):
		msg = "refuses the TTL: it is longer than etcd's leases can be"
	case is(err, rpctypes.ErrNoLeader), is(err, rpctypes.ErrTimeout), is(err, rpctypes.ErrTimeoutDueToLeaderFail),
		is(err, rpctypes.ErrTimeoutDueToConnectionLost), is(err, rpctypes.ErrLeaderChanged):
		msg, unknown = "has no quorum, or is electing a leader", true
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		code(err) == codes.DeadlineExceeded || code(err) == codes.Canceled:
		// no answer: no quorum, a broken network, or a caller in a hurry
		msg, unknown = "did not answer in time (unreachable, or without quorum)", true
	case code(err) == codes.Unavailable:
		msg, unknown = "cannot be reached", true
	default:
		msg, unknown = "failed", !refused(err)
	}
	err = fmt.Errorf("%s %s: %w", at, msg, err)
	if ce := context.Cause(ctx); ce != nil && !errors.Is(err, ce) {
		err = fmt.Errorf("%w: %w", err, ce)
	}
	return err, unknown
}

// refused tells whether err is etcd's own word that it did not carry out the
// request, as opposed to a lost connection or an answer that did not arrive.
func refused(err error) bool {
	var ee rpctypes.EtcdError
	if !errors.As(err, &ee) {
		return false
	}
	switch ee.Code() {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.NotFound, codes.OutOfRange:
		return true
	}
	return is(err, rpctypes.ErrTooManyRequests)
}

// is compares what etcd says: errors of streams arrive as gRPC statuses, those
// of other requests as rpctypes' own.
func is(err error, target error) bool {
	var ee rpctypes.EtcdError
	if !errors.As(rpctypes.Error(err), &ee) {
		return false
	}
	var te rpctypes.EtcdError
	return errors.As(target, &te) && ee.Error() == te.Error()
}

func code(err error) codes.Code {
	var ee rpctypes.EtcdError
	if errors.As(err, &ee) {
		return ee.Code()
	}
	return status.Code(err)
}
