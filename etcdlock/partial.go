package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// There are stores that speak a part of etcd's protocol, such as what Kubernetes
// uses of it, and answer the rest with an error that looks like a passing failure. So
// a store that is opened is asked once for what locks need and can be asked for without
// leaving anything.

// examine returns an error if the store cannot be used, or is not all of etcd.
func (b *Backend) examine(ctx context.Context) error {
	parts := []struct {
		name string
		ask  func(context.Context) error
	}{
		// It needs a quorum, and permission for the prefix, and so says most.
		{"transactions", func(ctx context.Context) error {
			_, err := b.tokens.ask(ctx, "")
			return err
		}},
		{"keepalives of leases", func(ctx context.Context) error {
			_, err := b.keepalives.send(ctx, clientv3.LeaseID(rand.Int64N(math.MaxInt64)+1)) // of none
			return err
		}},
		{"watches", b.askWatch},
	}
	// The rest is asked when that was answered, and not beside it: a watch that is
	// given up while its refusal arrives cannot be closed (see Close).
	if err := parts[0].ask(ctx); lacks(err) {
		return b.incomplete(parts[0].name, err)
	} else if err != nil {
		return err
	}
	parts = parts[1:]
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() {
			if errs[i] = p.ask(ctx); lacks(errs[i]) {
				errs[i] = b.incomplete(p.name, errs[i])
			} else {
				errs[i] = b.explain(ctx, errs[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// askWatch makes a watch.
func (b *Backend) askWatch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range b.client.Watch(ctx, b.names.base(), clientv3.WithCreatedNotify()) {
		return resp.Err()
	}
	return context.Canceled // the watch broke, or ctx ended
}

// lacks tells whether err is the word of a store that does not do what it was asked
// for, in a request that etcd does not refuse so: it is none of etcd's own errors.
func lacks(err error) bool {
	var answer interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &answer) || electing(err) {
		return false
	}
	st := answer.GRPCStatus()
	var own rpctypes.EtcdError
	if errors.As(rpctypes.Error(st.Err()), &own) {
		return false
	}
	switch st.Code() {
	case codes.Unimplemented, codes.Unknown, codes.InvalidArgument:
		return true
	}
	return false
}

// A partialError says that the store does not do what etcd does.
type partialError struct {
	endpoints []string
	part      string
	err       error
}

func (e *partialError) Error() string {
	return fmt.Sprintf("the store at %s is not etcd, or a part of it only: it lacks %s: %v", strings.Join(e.endpoints, ", "), e.part, e.err)
}

func (e *partialError) Unwrap() error { return e.err }

// incomplete says that the store lacks part, unless err says so already.
func (s *store) incomplete(part string, err error) error {
	var told *partialError
	if errors.As(err, &told) {
		return err
	}
	return &partialError{s.client.Endpoints(), part, err}
}
