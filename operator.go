package hasp

import (
	"context"
	"time"

	"github.com/hasplock/hasp/backend"
)

func (l *locker) Inspect(ctx context.Context, key string) (Record, error) {
	return ask(ctx, l, "inspect", key, func(ctx context.Context) (Record, error) { return l.b.Inspect(ctx, key) })
}

func (l *locker) List(ctx context.Context, prefix string) ([]Record, error) {
	return asked(ctx, l, "list", prefix, func(ctx context.Context) ([]Record, error) { return backend.List(ctx, l.b, prefix) })
}

func (l *locker) Break(ctx context.Context, key string, token uint64) error {
	_, err := ask(ctx, l, "break", key, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, backend.Break(ctx, l.b, key, token)
	})
	return err
}

func (l *locker) Warnings() []string { return backend.Warnings(l.b) }

// ask makes one call to the backend that has to do with key and no lease.
func ask[T any](ctx context.Context, l *locker, op, key string, f func(context.Context) (T, error)) (T, error) {
	if err := backend.ValidateKey(key); err != nil {
		var none T
		return none, &Error{op, key, err}
	}
	return asked(ctx, l, op, key, f)
}

// asked is ask for what need not be a valid key.
func asked[T any](ctx context.Context, l *locker, op, key string, f func(context.Context) (T, error)) (none T, _ error) {
	if l.isClosed() {
		return none, &Error{op, key, ErrClosed}
	}
	v, err := call(ctx, l, time.Now(), true, f, nil)
	switch {
	case err == nil:
		return v, nil
	case l.isClosed():
		return none, &Error{op, key, ErrClosed}
	}
	return none, &Error{op, key, err}
}
