package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fail is what every verb's error goes through. Operation and key are added by
// whoever called: once, and alike for all backends.
func (b *Backend) fail(_, _ string, err error) error { return err }

// explain turns an error of etcd's client into words that say what to do, and
// into backend.ErrUnavailable if the request may have been carried out.
func (s *store) explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, backend.ErrUnavailable) {
		return err
	}
	err, unknown := s.server().describe(ctx, err)
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

func (s *store) server() server {
	return server{endpoints: s.client.Endpoints(), user: s.user, prefix: s.prefix}
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
		err = &deniedError{err}
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
	case electing(err):
		msg, unknown = "has no quorum, or is electing a leader", true
	case code(err) == codes.Unimplemented:
		msg = "does not know the request: it is not etcd, or a part of it only"
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

// deniedError is etcd's word that a user lacks a right. It matches fs.ErrPermission.
type deniedError struct{ cause error }

func (e *deniedError) Error() string   { return e.cause.Error() }
func (e *deniedError) Unwrap() []error { return []error{fs.ErrPermission, e.cause} }

// withCause adds to an error why ctx has ended, if its caller has said so: what says
// that a dial or a request was cancelled does not.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && cause != ctx.Err() && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// electing tells whether err is etcd's own word that it has no leader now.
func electing(err error) bool {
	return is(err, rpctypes.ErrNoLeader) || is(err, rpctypes.ErrTimeout) || is(err, rpctypes.ErrTimeoutDueToLeaderFail) ||
		is(err, rpctypes.ErrTimeoutDueToConnectionLost) || is(err, rpctypes.ErrLeaderChanged) || proposalDropped(err)
}

// proposalDropped tells of a word of etcd's that has no code: a write came to a member
// that had no leader just then, or to one that was giving the office to another. The
// answer says that it was not carried out; it is not relied on, as with the others.
func proposalDropped(err error) bool {
	var answer interface{ GRPCStatus() *status.Status }
	return errors.As(err, &answer) && answer.GRPCStatus().Code() == codes.Unknown && answer.GRPCStatus().Message() == "raft proposal dropped"
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
