package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
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

// Backend keeps locks in etcd. It implements [backend.Backend] and every
// optional interface but [backend.Warner].
type Backend struct {
	client *clientv3.Client
	owned  bool // Close closes client too
	names  names
	// These use the client's connection and not the client's own KV, Watcher and
	// Lease, which a program may have wrapped in a namespace: what is sent in other
	// ways would not be in it.
	kv      etcdserverpb.KVClient
	watcher clientv3.Watcher
	lessor  clientv3.Lease

	// ctx ends at Close and bounds what the backend does by itself: watches,
	// keepalives for waiters, removal of entries that ran out.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	base     base
	ownBases map[string]base    // by key, of those that have one
	slots    map[int64]*slot    // by TTL in seconds
	leases   map[*lease]*slot   // those that are current or have entries
	orphans  []clientv3.LeaseID // leases whose making was not answered
	places   places
	entries  map[ident]*entry
	byName   map[string]*entry
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
	_ backend.Prompt       = (*Backend)(nil)
)

// New returns a backend on client, which stays the caller's: Close leaves it
// open. New sends nothing; whether etcd can be reached is seen at first use.
// What the client's KV, Watcher and Lease have been wrapped in, such as a
// namespace, is passed by: put a namespace into Options.Prefix. See [Owner].
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
	b := &Backend{
		client:   client,
		kv:       clientv3.RetryKVClient(client),
		watcher:  clientv3.NewWatcher(client),
		lessor:   clientv3.NewLease(client),
		names:    names{prefix: prefix},
		slots:    map[int64]*slot{},
		leases:   map[*lease]*slot{},
		entries:  map[ident]*entry{},
		ownBases: map[string]base{},
		byName:   map[string]*entry{},
	}
	b.places.renew()
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// Prompt implements [backend.Prompt]: requests to etcd end with their context.
func (b *Backend) Prompt() bool { return true }

// closeTimeout bounds what Close sends.
const closeTimeout = 3 * time.Second

// Close stops the backend's watches and keepalives and revokes its etcd leases
// that no lock is attached to. Locks that are still held stay so until their
// TTL runs out. The client is closed too if backend.Open made it.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return fmt.Errorf("etcdlock: close: %w", backend.ErrClosed)
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
	// all watches have ended, and no keepalive was sent through lessor
	_, _ = b.watcher.Close(), b.lessor.Close()
	if !b.owned {
		return nil
	}
	if err := b.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcdlock: close: %w", err)
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
