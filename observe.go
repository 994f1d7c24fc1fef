package hasp

import (
	"context"
	"log/slog"
	"time"

	"github.com/hasplock/hasp/backend"
)

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	EventAttempt       EventKind = "attempt"        // an attempt is about to be made
	EventWaiting       EventKind = "waiting"        // an attempt found the lock held, and waiting goes on
	EventAcquired      EventKind = "acquired"       // a lease was got
	EventRenewed       EventKind = "renewed"        // a heartbeat succeeded
	EventRenewalFailed EventKind = "renewal failed" // a heartbeat failed, with unknown outcome; it is repeated
	EventLost          EventKind = "lost"           // a lease ended without its Release
	EventReleased      EventKind = "released"       // a lease was released
	EventWarning       EventKind = "warning"        // something went wrong that the caller's result does not show
)

// Event is what an Options.Observer is told.
type Event struct {
	Kind    EventKind
	Key     string
	Token   uint64         // of the lease; 0 before there is one
	Attempt int            // attempt, waiting, acquired: which attempt, from 1
	Waited  time.Duration  // waiting, acquired: since Acquire was called
	Left    time.Duration  // waiting: the longest that waiting can still take; -1 without bound
	Margin  time.Duration  // renewed, renewal failed: until the lease would be lost otherwise
	HeldFor time.Duration  // lost, released: since it was acquired
	Blocker backend.Record // waiting: who is in the way
	Err     error          // waiting (store unavailable), renewal failed, lost, released, warning: why
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

// emit tells the observer and the logger.
func (l *locker) emit(e Event) {
	if l.opts.Observer != nil {
		l.opts.Observer(e)
	}
	if l.opts.Logger == nil {
		return
	}
	ctx, level := context.Background(), e.Kind.level()
	if !l.opts.Logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("key", e.Key))
	if e.Token != 0 {
		attrs = append(attrs, slog.Uint64("token", e.Token))
	}
	if e.Attempt != 0 {
		attrs = append(attrs, slog.Int("attempt", e.Attempt))
	}
	if e.Kind == EventWaiting || e.Kind == EventAcquired {
		attrs = append(attrs, slog.Duration("waited", e.Waited))
	}
	if e.Kind == EventWaiting && e.Blocker.State != "" {
		attrs = append(attrs, slog.String("blocker", e.Blocker.String()))
	}
	if e.Kind == EventRenewed || e.Kind == EventRenewalFailed {
		attrs = append(attrs, slog.Duration("margin", e.Margin))
	}
	if e.HeldFor != 0 {
		attrs = append(attrs, slog.Duration("held_for", e.HeldFor))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.Any("error", e.Err))
	}
	l.opts.Logger.LogAttrs(ctx, level, "hasp: "+string(e.Kind), attrs...)
}
