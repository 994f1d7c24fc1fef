package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func kv(key, value string) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)}
}

// Whether a request may have been carried out is what the engine goes by.
func TestDescribe(t *testing.T) {
	s := server{endpoints: []string{"http://h1:2379"}, user: "alice", prefix: "p/"}
	for _, tc := range []struct {
		err     error
		unknown bool
		says    string
	}{
		{rpctypes.ErrNoSpace, true, "out of space"},
		{rpctypes.ErrPermissionDenied, false, `user "alice"`},
		{rpctypes.ErrGRPCPermissionDenied, false, `prefix "p/"`},
		{rpctypes.ErrAuthFailed, false, "refuses the password"},
		{rpctypes.ErrUserEmpty, false, "asks for a user"},
		{rpctypes.ErrInvalidAuthToken, false, "session"},
		{rpctypes.ErrRequestTooLarge, false, "max-request-bytes"},
		{rpctypes.ErrTooManyRequests, false, "too many"},
		{rpctypes.ErrLeaseTTLTooLarge, false, "TTL"},
		{rpctypes.ErrLeaseNotFound, false, "failed"},
		{rpctypes.ErrNoLeader, true, "quorum"},
		{rpctypes.ErrTimeout, true, "quorum"},
		{rpctypes.ErrTimeoutDueToLeaderFail, true, "quorum"},
		{status.Error(codes.Unknown, "raft proposal dropped"), true, "electing"},
		{rpctypes.ErrStopped, true, "cannot be reached"},
		{rpctypes.ErrCorrupt, true, "failed"},
		{status.Error(codes.Unavailable, "connection refused"), true, "connection refused"},
		{status.Error(codes.ResourceExhausted, "message larger than max"), true, "failed"},
		{status.Error(codes.Internal, "x"), true, "failed"},
		{status.Error(codes.Unknown, "x"), true, "failed"},
		{context.DeadlineExceeded, true, "in time"},
		{context.Canceled, true, "in time"},
		{errors.New("anything else"), true, "failed"},
	} {
		err, unknown := s.describe(context.Background(), tc.err)
		if unknown != tc.unknown {
			t.Errorf("%v: unknown outcome %v, want %v", tc.err, unknown, tc.unknown)
		}
		if denied := errors.Is(tc.err, rpctypes.ErrPermissionDenied) || errors.Is(tc.err, rpctypes.ErrGRPCPermissionDenied); errors.Is(err, fs.ErrPermission) != denied {
			t.Errorf("%v: matches fs.ErrPermission: %v", tc.err, !denied)
		}
		if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "h1:2379") {
			t.Errorf("%v: described as %q", tc.err, err)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := fmt.Errorf("the user went home")
	cancel(cause)
	if err, _ := s.describe(ctx, ctx.Err()); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
}

// What etcd says while it has no leader is not the word of a store that is none.
func TestLacks(t *testing.T) {
	for err, want := range map[error]bool{
		status.Error(codes.Unknown, "raft proposal dropped"):   false,
		status.Error(codes.Unknown, "unsupported transaction"): true,
		status.Error(codes.Unimplemented, "unknown service"):   true,
		status.Error(codes.Unavailable, "connection refused"):  false,
		rpctypes.ErrNoLeader:     false,
		rpctypes.ErrGRPCTimeout:  false,
		context.DeadlineExceeded: false,
		fmt.Errorf("put: %w", status.Error(codes.Unknown, "raft proposal dropped")): false,
	} {
		if lacks(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, text := range []string{"", "x", "{}", `{"ttl_ms":1}`, `{"id":"a","ttl_ms":0}`, `[]`} {
		if v, err := decode(kv("k", text)); !errors.Is(err, backend.ErrCorrupt) {
			t.Errorf("%q was taken for %+v, %v", text, v, err)
		}
	}
}
