package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// DefaultPrefix is where a backend keeps its keys unless told otherwise.
const DefaultPrefix = "hasp/"

// Options are what New can be told. The zero value, or nil, is the default.
type Options struct {
	// Prefix is put before every key that the backend writes; a slash is added
	// if it does not end in one. Empty means DefaultPrefix. Backends exclude
	// each other only if they have the same prefix. A role that is restricted
	// to a range needs to read and write this prefix, and no more.
	Prefix string
}

// Backend keeps locks in etcd. Its methods may be called concurrently.
type Backend struct {
	*store
	owned      bool // Close closes the client too
	names      names
	tokens     tokens
	keepalives keepalives

	// ctx ends at Close and bounds what the backend does by itself: watches,
	// keepalives for waiters, removal of entries that ran out.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	slots    map[int64]*slot    // by TTL in seconds
	leases   map[*lease]*slot   // those that are current or have entries
	orphans  []clientv3.LeaseID // leases whose making was not answered
	places   places
	entries  map[ident]*entry
	byName   map[string]*entry
	waiters  map[ident]*waiter // those of Watch, until they are stopped
	released released
	loss     lossWatch
}

var (
	_ backend.Backend      = (*Backend)(nil)
	_ backend.Watcher      = (*Backend)(nil)
	_ backend.Breaker      = (*Backend)(nil)
	_ backend.Lister       = (*Backend)(nil)
	_ backend.BatchRenewer = (*Backend)(nil)
	_ backend.LossNotifier = (*Backend)(nil)
	_ backend.TokenRaiser  = (*Backend)(nil)
	_ backend.ValueStore   = (*Backend)(nil)
	_ backend.Prompt       = (*Backend)(nil)
)

// New returns a backend on client, which stays the caller's: Close leaves it
// open. New sends nothing; whether etcd can be reached is seen at first use.
// Keys are read, written and watched through the client's KV and Watcher: if they are
// wrapped in a namespace, so are the locks, and exclude only those of clients in the
// same one. (Leases are in no namespace.) See [Owner].
//
// A client for locks should have DialKeepAliveTime set, so that a connection
// which has silently died is replaced: seconds, well below the TTLs in use.
func New(client *clientv3.Client, opts *Options) *Backend {
	prefix := DefaultPrefix
	if opts != nil && opts.Prefix != "" {
		prefix = opts.Prefix
	}
	if !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	etcd := &store{client: client, user: client.Username, prefix: prefix}
	b := &Backend{
		store:   etcd,
		names:   names{prefix: prefix},
		slots:   map[int64]*slot{},
		leases:  map[*lease]*slot{},
		entries: map[ident]*entry{},
		byName:  map[string]*entry{},
		waiters: map[ident]*waiter{},
	}
	b.places.renew()
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.tokens = tokens{store: etcd, names: b.names, own: map[string]base{}}
	b.keepalives = keepalives{store: etcd, ctx: b.ctx, spawn: b.spawn, making: make(chan struct{}, 1)}
	return b
}

// Prompt implements [backend.Prompt]: requests to etcd end with their context.
func (b *Backend) Prompt() bool { return true }

// closeTimeout bounds what Close sends.
const closeTimeout = 3 * time.Second

// Close stops the backend's watches and keepalives and revokes its etcd leases
// that no lock is attached to. Locks that are still held stay so until their
// TTL runs out. The client is closed too if backend.Open made it. Another Close
// does nothing.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	var doomed []*entry
	for _, e := range b.entries {
		if e.state != held {
			doomed = append(doomed, e)
		}
	}
	for l := range b.leases {
		l.stopTimers()
	}
	if b.loss.timer != nil {
		b.loss.timer.Stop()
	}
	b.mu.Unlock()
	b.cancel()
	b.wg.Wait()

	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// An error is no reason to keep the connection open, and what could not be
	// removed goes with its lease, which nobody keeps alive from here on.
	_ = b.remove(ctx, doomed)
	b.revokeIdle(ctx)
	if !b.owned {
		return nil
	}
	// The client (3.7.3) waits for ever for a watch that was given up while its refusal
	// arrived. Then that is not waited for, and the connection is closed all the same.
	closed := make(chan error, 1)
	go func() { closed <- b.client.Close() }()
	select {
	case err := <-closed:
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("etcdlock: close: %w", err)
		}
	case <-time.After(closeTimeout):
		_ = b.client.ActiveConnection().Close()
	}
	return nil
}

// enter admits a call, or says that the backend is closed.
func (b *Backend) enter(op, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return b.fail(op, key, backend.ErrClosed)
	}
	return nil
}

// spawn runs f in the background unless the backend is closed.
func (b *Backend) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spawnLocked(f)
}

func (b *Backend) spawnLocked(f func()) bool {
	if b.closed {
		return false
	}
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		f()
	}()
	return true
}
