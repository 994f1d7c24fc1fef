package etcdlock

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The queue of a key is its entries in the order of their create revisions: the
// oldest one holds the key, and each of the others watches the one before it. A
// deletion (release, expiry, break, a waiter that gives up) wakes one.

const (
	// searchTimeout bounds one look at the queue.
	searchTimeout = 5 * time.Second
	// After a failed look at the queue, or a broken watch, the next one comes
	// after a pause that doubles from firstPause to lastPause.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
	// wokenPause is how long a waiter that was woken has for its attempt before
	// its place is looked up without it.
	wokenPause = 2 * time.Second
)

// preceding is the entry before a waiter's in the queue.
type preceding struct {
	name string // "" if there is none
	rev  int64  // its create revision
	seen int64  // the revision at which it was there
}

// precedingOf is what e's put found, which read the two youngest entries as of rev.
func precedingOf(e *entry, kvs []*mvccpb.KeyValue, rev int64) *preceding {
	a := &preceding{seen: rev}
	for _, kv := range kvs {
		if string(kv.Key) != e.name {
			a.name, a.rev = string(kv.Key), kv.CreateRevision
			break
		}
	}
	return a
}

// Watch implements [backend.Watcher]: it puts c at the end of key's queue.
func (b *Backend) Watch(ctx context.Context, key string, c backend.Claim) (<-chan struct{}, func(context.Context, bool) error, error) {
	const op = "wait for"
	if err := b.check(key, c); err != nil {
		return nil, nil, b.fail(op, key, err)
	}
	if err := b.enter(op, key); err != nil {
		return nil, nil, err
	}
	w := &waiter{
		b: b, key: key, id: c.ID,
		wake:  make(chan struct{}, 1),
		again: make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	b.mu.Lock()
	b.waiters[ident{key, c.ID}] = w
	b.mu.Unlock()
	if e := b.tracked(key, c.ID); e != nil {
		// an attempt whose outcome is unknown may have put it
		w.adopt(e)
	} else if err := w.enqueue(ctx, c); err != nil {
		w.unregister()
		if e := b.tracked(key, c.ID); e != nil {
			b.condemn(e)
		}
		return nil, nil, b.fail(op, key, err)
	}
	var wctx context.Context
	wctx, w.cancel = context.WithCancel(clientv3.WithRequireLeader(b.ctx))
	if !b.spawn(func() { defer close(w.done); w.run(wctx) }) {
		w.cancel()
		w.unregister()
		return nil, nil, b.fail(op, key, backend.ErrClosed)
	}
	return w.wake, w.stop, nil
}

func (w *waiter) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		before, err := w.search(ctx)
		if err == nil && before.name != "" {
			var gone bool
			if gone, err = w.follow(ctx, before); !gone && err == nil {
				continue
			}
		}
		if err != nil {
			w.rest(ctx, pause)
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		w.signal()
		w.rest(ctx, wokenPause)
	}
}

// rest waits for an attempt's word, at most for d.
func (w *waiter) rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.again:
	case <-t.C:
	case <-ctx.Done():
	}
}

// search returns the entry before w's. None means that an attempt is worth
// making: it is w's turn, or w's entry is gone and has to be put again.
func (w *waiter) search(ctx context.Context) (before preceding, err error) {
	select {
	case <-w.again: // what it asks for is being done
	default:
	}
	b := w.b
	var name string
	var rev int64
	b.mu.Lock()
	if e := b.entries[ident{w.key, w.id}]; e != nil {
		name, rev = e.name, e.rev
		if found := e.ahead; found != nil {
			e.ahead = nil
			b.mu.Unlock()
			return *found, nil
		}
	}
	b.mu.Unlock()
	if rev == 0 {
		return preceding{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	last := append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(rev-1), clientv3.WithKeysOnly())
	resp, err := b.txn(ctx, cmps{exists(name, rev)},
		ops{clientv3.OpGet(b.names.queue(w.key), last...)}, nil)
	if err != nil || !resp.Succeeded {
		return preceding{}, err
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return preceding{}, nil
	}
	return preceding{string(kvs[0].Key), kvs[0].CreateRevision, resp.Header.Revision}, nil
}

// follow watches the entry before w's until it is deleted. A false answer
// without an error means that w has been queued again.
//
// The watch begins when it is made, and if anything was written since the entry
// was seen, it is looked up then. A watch from the revision at which it was seen
// would need no look, but etcd brings watches that begin in the past up to date
// ten times a second: hand-offs in a busy queue took 50 ms on average.
func (w *waiter) follow(ctx context.Context, before preceding) (gone bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, stream := w.b.watchStream(ctx)
	events := w.b.client.Watch(ctx, before.name, clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	for {
		select {
		case resp, ok := <-events:
			switch {
			case !ok:
				return false, context.Canceled // the watch broke, or ctx ended
			case resp.Err() != nil:
				w.b.watchRefused(stream, resp.Err())
				return false, resp.Err()
			case len(resp.Events) > 0:
				return true, nil
			case resp.Created && resp.Header.Revision > before.seen:
				there, err := w.exists(ctx, before)
				if err != nil {
					return false, err
				}
				if !there {
					return true, nil
				}
			}
		case <-w.again:
			return false, nil
		}
	}
}

// exists tells whether an entry is there.
func (w *waiter) exists(ctx context.Context, a preceding) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	resp, err := w.b.get(ctx, a.name, clientv3.WithKeysOnly())
	if err != nil {
		return false, err
	}
	return len(resp.Kvs) > 0 && resp.Kvs[0].CreateRevision == a.rev, nil
}
