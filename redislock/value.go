package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// Value implements [backend.ValueStore]: a read of the value's primary.
func (b *Backend) Value(ctx context.Context, key string) (backend.Value, error) {
	if err := b.begin(key); err != nil {
		return backend.Value{}, err
	}
	var text string
	err := b.do(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		text, err = client.Get(ctx, b.valueName(key)).Result()
		if errors.Is(err, redis.Nil) {
			text, err = "", nil
		}
		return err
	})
	if err != nil {
		return backend.Value{}, b.verbError(err)
	}
	return parseValue(text)
}

// SetValue implements [backend.ValueStore], in one round trip. It restarts the TTL,
// and waits for the replicas that an Acquire waits for.
//
// In a cluster, while the slot of the lock is being moved to another server and the
// lock and its value are not both on the same one, the error matches
// [backend.ErrUnavailable]. Then nothing was set.
func (b *Backend) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	if err := b.begin(g.Key); err != nil {
		return g, err
	}
	if err := v.Validate(); err != nil {
		return g, err
	}
	held := ""
	if g.Token != 0 {
		held = decimal(g.Token)
	}
	reply, acked, err := b.runTogether(ctx, valueScript(), []string{b.lockName(g.Key), b.valueName(g.Key)},
		g.ID, held, millis(g.TTL), decimal(v.Token), decimal(v.Seq), formatValue(v))
	if err != nil {
		return g, b.verbError(err)
	}
	switch reply {
	case int64(0):
		return g, backend.ErrLost
	case int64(-1):
		return g, backend.ErrOldValue
	case int64(1):
		if err := b.tooFew(acked); err != nil {
			// It is set, and a failover could lose it. Another attempt waits again.
			return g, backend.Unavailable(err)
		}
		g.TTL = ceilMillis(g.TTL)
		return g, nil
	}
	return g, backend.Unavailable(fmt.Errorf("redis: unexpected answer %v", reply))
}

// runTogether executes a script that needs all its keys on one server, and if
// Options.Replicas asks for it, waits for replicas.
func (b *Backend) runTogether(ctx context.Context, script *redis.Script, keys []string, args ...any) (reply any, acked acknowledged, err error) {
	if b.replicas > 0 {
		return b.runAndWait(ctx, script, keys, false, args)
	}
	err = b.do(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		reply, err = script.Run(ctx, client, keys, args...).Result()
		return err
	})
	return reply, acked, err
}

// ListValues implements [backend.ValueStore]. It leaves the data out. Like List it
// looks at every key of every primary.
func (b *Backend) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	if b.closed.Load() {
		return nil, backend.ErrClosed
	}
	keys, err := b.scan(ctx, b.pattern(prefix)+"}"+valueSuffix, func(name string) (string, bool) {
		lock, ok := strings.CutSuffix(name, valueSuffix)
		if !ok {
			return "", false
		}
		key, ok := b.keyOf(lock)
		return key, ok && strings.HasPrefix(key, prefix)
	})
	if err != nil {
		return nil, b.verbError(err)
	}
	var out []backend.KeyValue
	for chunk := range slices.Chunk(keys, scanCount) {
		calls := make([]call, len(chunk))
		for i, key := range chunk {
			calls[i] = call{keys: []string{b.valueName(key)}}
		}
		for i, cmd := range b.pipeline(ctx, valueHeadScript(), calls) {
			head, err := cmd.Text()
			if errors.Is(err, redis.Nil) {
				continue // the server was wiped meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("key %q: %w", chunk[i], b.verbError(err))
			}
			v, err := parseValue(head)
			if err != nil {
				return nil, fmt.Errorf("key %q: %w", chunk[i], err)
			}
			v.Data = nil
			out = append(out, backend.KeyValue{Key: chunk[i], Value: v})
		}
	}
	return out, nil
}

const (
	wordSet     = "set"
	wordDeleted = "deleted"
)

// formatValue and parseValue are each other's inverse: value.lua says what is in it.
func formatValue(v backend.Value) string {
	word := wordSet
	if v.Deleted {
		word = wordDeleted
	}
	return decimal(v.Token) + " " + decimal(v.Seq) + " " + word + " " + string(v.Data)
}

func parseValue(text string) (v backend.Value, err error) {
	if text == "" {
		return v, nil
	}
	f := strings.SplitN(text, " ", 4)
	if len(f) == 4 {
		var err2 error
		v.Token, err = strconv.ParseUint(f[0], 10, 64)
		v.Seq, err2 = strconv.ParseUint(f[1], 10, 64)
		v.Deleted = f[2] == wordDeleted
		v.Data = []byte(f[3])
		if err == nil && err2 == nil && (v.Deleted || f[2] == wordSet) && v.Validate() == nil {
			return v, nil
		}
	}
	return backend.Value{}, fmt.Errorf("%w: %.80q, which is beside the lock, is not a value", backend.ErrCorrupt, text)
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
