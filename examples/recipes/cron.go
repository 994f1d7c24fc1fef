package recipes

import (
	"context"
	"errors"
	"time"

	"github.com/hasplock/hasp"
)

// OncePerDay runs job at most once a day, on however many hosts it is called, and tells
// whether it was run here. What day was the last is kept beside the lock.
func OncePerDay(ctx context.Context, l hasp.Locker, key string, now time.Time, job func(context.Context, *hasp.Lease) error) (ran bool, err error) {
	today := now.UTC().Format(time.DateOnly)
	err = hasp.Do(ctx, l, key, func(ctx context.Context, lease *hasp.Lease) error {
		last, err := l.Value(ctx, key)
		if err != nil && !errors.Is(err, hasp.ErrNoValue) {
			return err
		}
		if string(last) >= today {
			return nil
		}
		// Before the job: a day on which it fails is not tried again. For "at least
		// once" it goes after the job.
		if err := lease.SetValue(ctx, []byte(today)); err != nil {
			return err
		}
		ran = true
		return job(ctx, lease)
	}, hasp.NoWait())
	if errors.Is(err, hasp.ErrHeld) && !ran {
		return false, nil // another host is at it
	}
	return ran, err
}
