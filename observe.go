package hasp

import (
	"context"
	"log/slog"
	"time"

	"github.com/hasplock/hasp/backend"
)

// EventKind says what happened.
type EventKind string

// The kinds of events. Each Acquire and TryAcquire ends with one of EventAcquired or
// EventFailed, so the waiters of the moment are the calls (by Event.Acquire) that
// have had an EventWaiting and none of those two yet.
const (
	EventAttempt       EventKind = "attempt"        // the lock is about to be looked at, in the store or among this process's own
	EventWaiting       EventKind = "waiting"        // an attempt found the lock held, and waiting goes on
	EventAcquired      EventKind = "acquired"       // a lease was got
	EventFailed        EventKind = "failed"         // an Acquire or TryAcquire ended without a lease, for whatever reason
	EventRenewed       EventKind = "renewed"        // a heartbeat succeeded
	EventRenewalFailed EventKind = "renewal failed" // a heartbeat failed, with unknown outcome; it is repeated
	EventLost          EventKind = "lost"           // a lease ended without its Release
	EventReleased      EventKind = "released"       // a lease was released
	EventWarning       EventKind = "warning"        // something went wrong that the caller's result does not show
)

// Event is what an Options.Observer is told. Key, Blocker and Err are as they are:
// backend.Printable makes them fit for a terminal or a page.
type Event struct {
	Kind    EventKind
	Time    time.Time // when it happened, which may be before the Observer is told
	Key     string
	Acquire uint64        // attempt, waiting, acquired, failed: which call of Acquire or TryAcquire, from 1 in each Locker
	Token   uint64        // of the lease; 0 before there is one
	Attempt int           // attempt, waiting, acquired, failed: which attempt of that call, from 1, as TimeoutError counts them; 0 if it failed before the first
	Waited  time.Duration // waiting, acquired, failed: since Acquire was called
	Left    time.Duration // waiting: the longest that waiting can still take; -1 without bound
	Margin  time.Duration // renewed, renewal failed: until the lease would be lost otherwise
	HeldFor time.Duration // lost, released: since it was acquired
	Blocker Record        // waiting, failed: who is in the way; State is empty if nobody was seen
	Err     error         // waiting (store unavailable), failed, renewal failed, lost, released, warning: why
}

func (k EventKind) level() slog.Level {
	switch k {
	case EventAttempt, EventRenewed:
		return slog.LevelDebug
	case EventRenewalFailed, EventWarning:
		return slog.LevelWarn
	case EventLost:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// makeSinks makes what events are told to.
func (l *locker) makeSinks() {
	if o := l.opts.Observer; o != nil {
		l.observer = &sink{tell: o}
	}
	if log := l.opts.Logger; log != nil {
		l.logger = &sink{tell: func(e Event) { logEvent(log.Handler(), e) }}
	}
}

// observed tells whether anybody is told of events.
func (l *locker) observed() bool { return l.observer != nil || l.logger != nil }

// emit tells the observer and the logger. It never waits for either.
func (l *locker) emit(e Event) {
	if !l.observed() {
		return
	}
	e.Time = time.Now()
	if l.observer != nil {
		l.observer.add(e)
	}
	if l.logger != nil && l.opts.Logger.Enabled(context.Background(), e.Kind.level()) {
		l.logger.add(e)
	}
}

// closeSinks tells what has not been told yet.
func (l *locker) closeSinks() {
	if l.observer != nil {
		l.observer.close()
	}
	if l.logger != nil {
		l.logger.close()
	}
}

func logEvent(h slog.Handler, e Event) {
	r := slog.NewRecord(e.Time, e.Kind.level(), "hasp: "+string(e.Kind), 0)
	r.AddAttrs(slog.String("key", backend.Printable(e.Key)))
	if e.Token != 0 {
		r.AddAttrs(slog.Uint64("token", e.Token))
	}
	if e.Attempt != 0 {
		r.AddAttrs(slog.Int("attempt", e.Attempt))
	}
	if e.Kind == EventWaiting || e.Kind == EventAcquired || e.Kind == EventFailed {
		r.AddAttrs(slog.Duration("waited", e.Waited))
	}
	if e.Kind == EventWaiting && e.Blocker.State != "" {
		r.AddAttrs(slog.String("blocker", e.Blocker.String()))
	}
	if e.Kind == EventRenewed || e.Kind == EventRenewalFailed {
		r.AddAttrs(slog.Duration("margin", e.Margin))
	}
	if e.HeldFor != 0 {
		r.AddAttrs(slog.Duration("held_for", e.HeldFor))
	}
	if e.Err != nil {
		r.AddAttrs(slog.String("error", backend.Text(e.Err)))
	}
	_ = h.Handle(context.Background(), r) // as slog does: there is nobody to tell
}
