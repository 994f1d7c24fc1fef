package etcdlock

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// All keepalives go over one stream that is kept: where etcd has users, the client
// library logs in anew for each stream. clientv3's KeepAlive is not used because the
// engine decides when a heartbeat is due, and its KeepAliveOnce makes a stream for
// each, and repeats without a pause while etcd cannot be reached.
type keepalives struct {
	*store
	ctx   context.Context   // of the streams
	spawn func(func()) bool // false: the backend is closed

	// making is a mutex that can be waited for under a context: one stream is made
	// at a time.
	making chan struct{}

	mu     sync.Mutex
	stream *keepaliveStream // nil: none, or it has broken
	// once is set when a kept stream was found not to answer where a new one does.
	// etcd's grpc-proxy answers the first keepalive on a stream, and the others when
	// it has sent one of its own, which is up to a third of the TTL later.
	once bool
}

// keepaliveStream is one stream and the keepalives on it that are not answered yet.
type keepaliveStream struct {
	cancel  context.CancelFunc
	send    func(clientv3.LeaseID) error // not concurrently
	sending sync.Mutex

	mu     sync.Mutex
	waits  map[clientv3.LeaseID]chan int64 // of TTLs; one keepalive of a lease at a time
	broken chan struct{}                   // closed when the stream has ended
	err    error                           // with this, set before
}

// staleStream is how long an answer on a stream that is not new may take before
// another stream is tried.
const staleStream = time.Second

var errNoAnswer = errors.New("no answer to a keepalive")

// send sends one keepalive, and returns the TTL in seconds that etcd says the
// lease has now; 0 if it does not know the lease.
func (ka *keepalives) send(ctx context.Context, id clientv3.LeaseID) (ttl int64, err error) {
	err = ka.withLeader(ctx, func(ctx context.Context) error {
		var slow bool
		for again := range 2 {
			token := ka.login.current()
			s, used, err := ka.get(ctx)
			if err != nil {
				return err
			}
			ttl, err = s.keepAlive(ctx, id, used)
			if err == nil && slow {
				ka.mu.Lock()
				ka.once = true
				ka.mu.Unlock()
			}
			ka.doneWith(s, err)
			if err == nil || again > 0 || ctx.Err() != nil {
				return err
			}
			// It may have broken long ago, or have been ended for another's sake:
			// that says nothing of the server.
			slow = errors.Is(err, errNoAnswer)
			if ka.login != nil && tokenRefused(err) {
				// Requests get another token by themselves, streams do not.
				if err := ka.login.renew(ctx, ka.client.ActiveConnection(), token); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if is(err, rpctypes.ErrLeaseNotFound) {
		return 0, nil
	}
	return ttl, err
}

// get returns the stream that is kept, or a new one.
func (ka *keepalives) get(ctx context.Context) (_ *keepaliveStream, used bool, err error) {
	if s := ka.kept(); s != nil {
		return s, true, nil
	}
	select {
	case ka.making <- struct{}{}:
		defer func() { <-ka.making }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if s := ka.kept(); s != nil {
		return s, true, nil
	}
	// It outlives ctx, except that it has to be made in time.
	sctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ka.ctx))
	inTime := context.AfterFunc(ctx, cancel)
	stream, err := etcdserverpb.NewLeaseClient(ka.client.ActiveConnection()).LeaseKeepAlive(sctx)
	if !inTime() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, false, err
	}
	s := &keepaliveStream{
		cancel: cancel, waits: map[clientv3.LeaseID]chan int64{}, broken: make(chan struct{}),
		send: func(id clientv3.LeaseID) error {
			return stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id)})
		},
	}
	if !ka.spawn(func() { s.receive(stream.Recv) }) {
		cancel()
		return nil, false, errClosing
	}
	ka.mu.Lock()
	defer ka.mu.Unlock()
	if !ka.once {
		ka.stream = s
	}
	return s, false, nil
}

func (ka *keepalives) kept() *keepaliveStream {
	ka.mu.Lock()
	defer ka.mu.Unlock()
	return ka.stream
}

var errClosing = errors.New("the backend is being closed")

// doneWith ends s if it has failed, or is for one keepalive only.
func (ka *keepalives) doneWith(s *keepaliveStream, err error) {
	ka.mu.Lock()
	defer ka.mu.Unlock()
	if err != nil || ka.once {
		if ka.stream == s {
			ka.stream = nil
		}
		s.cancel()
	}
}

// keepAlive sends one keepalive and waits for its answer.
func (s *keepaliveStream) keepAlive(ctx context.Context, id clientv3.LeaseID, used bool) (ttl int64, err error) {
	answer := make(chan int64, 1)
	s.mu.Lock()
	s.waits[id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waits[id] == answer {
			delete(s.waits, id)
		}
	}()
	s.sending.Lock()
	// If this fails, the reason is what the stream ended with.
	_ = s.send(id)
	s.sending.Unlock()
	var stale <-chan time.Time
	if used {
		t := time.NewTimer(staleStream)
		defer t.Stop()
		stale = t.C
	}
	select {
	case ttl := <-answer:
		return ttl, nil
	case <-s.broken:
		return 0, s.err
	case <-stale:
		return 0, errNoAnswer
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// receive hands out answers until the stream ends.
func (s *keepaliveStream) receive(recv func() (*etcdserverpb.LeaseKeepAliveResponse, error)) {
	defer s.cancel()
	for {
		resp, err := recv()
		if err != nil {
			s.err = err
			close(s.broken)
			return
		}
		s.mu.Lock()
		if answer := s.waits[clientv3.LeaseID(resp.ID)]; answer != nil {
			delete(s.waits, clientv3.LeaseID(resp.ID))
			answer <- resp.TTL
		}
		s.mu.Unlock()
	}
}
