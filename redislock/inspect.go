package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Inspect asks the key's master who holds key, in one round trip.
func (b *Backend) Inspect(ctx context.Context, key string) (backend.Record, error) {
	if err := b.begin(key); err != nil {
		return backend.Record{}, err
	}
	reply, err := b.run(ctx, inspectScript(), b.names(key).all())
	return b.inspected(key, reply, err)
}

func (b *Backend) inspected(key string, reply any, err error) (backend.Record, error) {
	if err != nil {
		return backend.Record{}, b.verbError(err)
	}
	list, ok := reply.([]any)
	if !ok || len(list) != 4 {
		return backend.Record{}, backend.Unavailable(fmt.Errorf("redis: unexpected answer %v", reply))
	}
	value, _ := list[0].(string)
	ms, _ := list[1].(int64)
	now, _ := list[2].(string)
	waiting, _ := list[3].(int64)
	if value == "" {
		return backend.Record{Key: key, State: backend.Free}, nil
	}
	rec, err := parseRecord(value)
	if err != nil {
		return backend.Record{}, err
	}
	r := rec.report(key, span(ms))
	if us, err := strconv.ParseInt(now, 10, 64); err == nil && rec.held {
		r.HeldFor = max(0, time.Duration(us-rec.since)*time.Microsecond)
	}
	if waiting > 0 {
		r.Note = fmt.Sprintf("%d waiting", waiting)
	}
	return r, nil
}

// List returns the held keys that start with prefix, in byte order. It looks at
// every key of every primary, so it is for people, not for programs that lock.
func (b *Backend) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	if b.closed.Load() {
		return nil, backend.ErrClosed
	}
	keys, err := b.scan(ctx, b.pattern(prefix), func(name string) (string, bool) {
		key, ok := b.keyOf(name)
		return key, ok && strings.HasPrefix(key, prefix)
	})
	if err != nil {
		return nil, b.verbError(err)
	}
	var out []backend.Record
	for chunk := range slices.Chunk(keys, scanCount) {
		calls := make([]call, len(chunk))
		for i, key := range chunk {
			calls[i] = call{keys: b.names(key).all()}
		}
		for i, cmd := range b.pipeline(ctx, inspectScript(), calls) {
			reply, err := cmd.Result()
			r, err := b.inspected(chunk[i], reply, err)
			switch {
			case errors.Is(err, backend.ErrCorrupt): // the others can be told all the same
				r = backend.Record{Key: chunk[i], State: backend.Unknown, Note: backend.Text(err)}
			case err != nil:
				return nil, fmt.Errorf("key %q: %w", chunk[i], err)
			}
			if r.State != backend.Free {
				out = append(out, r)
			}
		}
	}
	return out, nil
}
