package etcdlock

import (
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Deletion of an entry that this backend holds is loss, and a watch tells of it
// at once. There is one watch however many locks are held. It spans the names of
// the entries held, from the first to the last in byte order, and not the whole
// prefix, so that a process with one lock is not sent every release in the
// fleet. An entry is taken into it some time after it was granted: locks that
// are taken and released in a busy loop cost nothing.

// watchAfter is how often new entries are taken into the watch. A deletion before
// that is seen late, and not missed, because the watch starts at the revision
// where the entry was put.
const watchAfter = 200 * time.Millisecond

// lossWatch is guarded by Backend.mu.
type lossWatch struct {
	subs  map[int]func(key, id string)
	next  int
	fresh []*entry // held, and not watched yet
	timer *time.Timer

	watched int // entries with watched set
	lo, hi  string
	// from is the revision that the watch started at, seen the one up to which
	// it has reported.
	from, seen int64
	cancel     context.CancelFunc // of the watch; nil: none
}

// OnLoss implements [backend.LossNotifier].
func (b *Backend) OnLoss(f func(key, id string)) (cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lw := &b.loss
	if lw.subs == nil {
		lw.subs = map[int]func(key, id string){}
		for _, e := range b.entries {
			if e.state == held {
				lw.addLocked(b, e)
			}
		}
	}
	n := lw.next
	lw.next++
	lw.subs[n] = f
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(lw.subs, n)
	}
}

// report tells the subscribers of lost entries.
func (b *Backend) report(lost []*entry) {
	if len(lost) == 0 {
		return
	}
	b.mu.Lock()
	fs := make([]func(key, id string), 0, len(b.loss.subs))
	for _, f := range b.loss.subs {
		fs = append(fs, f)
	}
	lost = slices.DeleteFunc(lost, func(e *entry) bool { return e.leaving })
	b.mu.Unlock()
	for _, e := range lost {
		for _, f := range fs {
			f(e.key, e.id)
		}
	}
}

// addLocked has e watched soon.
func (lw *lossWatch) addLocked(b *Backend, e *entry) {
	if lw.subs == nil || e.watched {
		return
	}
	lw.fresh = append(lw.fresh, e)
	if lw.timer == nil && !b.closed {
		lw.timer = time.AfterFunc(watchAfter, b.extendWatch)
	}
}

// extendWatch takes the entries that are still held into the watch.
func (b *Backend) extendWatch() {
	b.mu.Lock()
	defer b.mu.Unlock()
	lw := &b.loss
	lw.timer = nil
	from := lw.seen + 1
	widen := lw.cancel == nil
	var young []*entry
	for _, e := range lw.fresh {
		if e.forgotten || e.state != held || e.watched {
			continue
		}
		if time.Since(e.since) < watchAfter/2 {
			young = append(young, e)
			continue
		}
		e.watched = true
		lw.watched++
		inside := lw.lo <= e.name && e.name <= lw.hi
		if lw.cancel != nil && inside && e.rev >= lw.from {
			continue
		}
		if lw.lo == "" || e.name < lw.lo {
			lw.lo = e.name
		}
		lw.hi = max(lw.hi, e.name)
		if from == 1 || e.rev < from {
			from = e.rev + 1
		}
		widen = true
	}
	lw.fresh = young
	if len(young) > 0 && !b.closed {
		lw.timer = time.AfterFunc(watchAfter, b.extendWatch)
	}
	if b.closed || lw.watched == 0 || !widen {
		return
	}
	if lw.cancel != nil {
		lw.cancel()
	}
	// What the new watch repeats of the old one does no harm.
	lw.from, lw.seen = from, from-1
	var ctx context.Context
	ctx, lw.cancel = context.WithCancel(clientv3.WithRequireLeader(b.ctx))
	lo, end := lw.lo, lw.hi+"\x00"
	b.spawnLocked(func() { b.runWatch(ctx, lo, end, from) })
}

// unwatchLocked takes e out of the watch, and ends the watch with the last one.
func (lw *lossWatch) unwatchLocked(e *entry) {
	if !e.watched {
		return
	}
	e.watched = false
	if lw.watched--; lw.watched == 0 && lw.cancel != nil {
		lw.cancel()
		lw.cancel, lw.lo, lw.hi, lw.from, lw.seen = nil, "", "", 0, 0
	}
}

// runWatch reports deletions of watched entries until ctx ends. When the watch
// breaks it looks at all of them and starts again from there.
func (b *Backend) runWatch(ctx context.Context, lo, end string, from int64) {
	pause := firstPause
	for ctx.Err() == nil {
		if from > 0 {
			if b.follow(ctx, lo, end, from) {
				pause = firstPause
			}
			from = 0
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		var err error
		if from, err = b.lookAtAll(ctx); err != nil {
			from = 0
			pause = min(2*pause, lastPause)
		}
	}
}

// follow reports deletions until the watch breaks. It tells whether there was an
// answer.
func (b *Backend) follow(ctx context.Context, lo, end string, from int64) (answered bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, stream := b.watchStream(ctx)
	for resp := range b.client.Watch(ctx, lo, clientv3.WithRange(end), clientv3.WithRev(from), clientv3.WithFilterPut()) {
		if err := resp.Err(); err != nil {
			b.watchRefused(stream, err)
			return answered
		}
		answered = true
		var lost []*entry
		b.mu.Lock()
		if ctx.Err() == nil {
			b.loss.seen = max(b.loss.seen, resp.Header.Revision)
		}
		for _, ev := range resp.Events {
			e := b.byName[string(ev.Kv.Key)]
			if e != nil && e.state == held && ev.Kv.ModRevision > e.rev {
				b.forgetLocked(e)
				lost = append(lost, e)
			}
		}
		b.mu.Unlock()
		b.report(lost)
	}
	return answered
}

// lookAtAll reports the watched entries that are gone, and returns the revision
// from which a watch tells of the others.
func (b *Backend) lookAtAll(ctx context.Context) (from int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	resp, err := b.get(ctx, b.names.base(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	var rs []renewal
	b.mu.Lock()
	for _, e := range b.entries {
		if e.watched {
			rs = append(rs, renewal{e: e})
		}
	}
	b.mu.Unlock()
	for len(rs) > 0 {
		some := rs[:min(len(rs), maxOps)]
		rs = rs[len(some):]
		missing, err := b.look(ctx, some)
		if err != nil {
			return 0, err
		}
		var lost []*entry
		b.mu.Lock()
		for j, r := range some {
			if missing[j] && !r.e.forgotten {
				b.forgetLocked(r.e)
				lost = append(lost, r.e)
			}
		}
		b.mu.Unlock()
		b.report(lost)
	}
	return resp.Header.Revision + 1, nil
}
