package etcdlock

import (
	"container/list"
	"context"
	"time"
)

// A shared lease lives as long as anything on it is renewed. An entry whose own
// heartbeats have stopped (they were turned off, or its outcome was never
// learned and nobody claims it) must run out all the same. So each entry has a
// due time, its TTL after its last renewal, and the backend removes it then. If
// the process cannot do that because it was killed, stopped or cut off, it
// cannot keep the lease alive either, and the lease takes the entry with it.

// reapTimeout bounds one attempt at removal, and reapPause is what comes before
// the next one after a failure.
const (
	reapTimeout = 5 * time.Second
	reapPause   = time.Second
)

// place is where an entry stands in its lease's order.
type place = *list.Element

// scheduleLocked sets when e is to be removed. It is called with b.mu held.
func (b *Backend) scheduleLocked(e *entry, due time.Time) {
	l := e.lease
	if e.forgotten {
		return
	}
	e.due = due
	// The order is kept by construction: all entries of a lease have one TTL,
	// so a renewal is due last. What is due earlier goes in front.
	switch back := l.order.Back(); {
	case e.place != nil && (back == e.place || !due.Before(back.Value.(*entry).due)):
		l.order.MoveToBack(e.place)
	case e.place != nil:
		l.order.MoveToFront(e.place)
	case back == nil || !due.Before(back.Value.(*entry).due):
		e.place = l.order.PushBack(e)
	default:
		e.place = l.order.PushFront(e)
	}
	b.armLocked(l)
}

func (b *Backend) unscheduleLocked(e *entry) {
	if e.place != nil {
		e.lease.order.Remove(e.place)
		e.place, e.due = nil, time.Time{}
	}
}

// armLocked sees to it that the entry which is due next is reaped. A timer that goes
// off too early, for an entry that was renewed or released meanwhile, finds nothing
// to do and is set anew: locks that are taken and released in a loop set none.
func (b *Backend) armLocked(l *lease) {
	front := l.order.Front()
	if front == nil || b.closed {
		return
	}
	due := front.Value.(*entry).due
	if l.reaper != nil {
		if !l.reapAt.After(due) {
			return
		}
		l.reaper.Stop()
	}
	l.reapAt = due
	l.armed++
	n := l.armed
	l.reaper = time.AfterFunc(time.Until(due), func() {
		b.spawn(func() { b.reap(l, n) })
	})
}

// reap removes the entries of l that are due. It is called by l's nth timer.
func (b *Backend) reap(l *lease, n int) {
	now := time.Now()
	var due, lost []*entry
	b.mu.Lock()
	if n == l.armed { // else it was too late to stop this one, and another is set
		l.reaper = nil
	}
	for front := l.order.Front(); front != nil; front = l.order.Front() {
		e := front.Value.(*entry)
		if e.due.After(now) {
			break
		}
		b.unscheduleLocked(e)
		if e.state == held {
			lost = append(lost, e)
		}
		e.state = expired
		due = append(due, e)
	}
	b.armLocked(l)
	b.mu.Unlock()
	b.report(lost)
	if len(due) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, reapTimeout)
	defer cancel()
	if err := b.remove(ctx, due); err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range due {
		b.scheduleLocked(e, time.Now().Add(reapPause))
	}
}

// condemn has e removed as soon as etcd can be reached.
func (b *Backend) condemn(e *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.state = expired
	b.scheduleLocked(e, time.Now())
}
