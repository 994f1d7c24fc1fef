package redislock

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hasplock/hasp/backend"
)

// Release frees the lock if g's claim holds it, in one round trip, and hands it
// to the first waiter. Without g's token it withdraws the claim: an attempt of it that
// arrives later, for a minute, takes nothing.
func (b *Backend) Release(ctx context.Context, g backend.Grant) error {
	if err := b.begin(g.Key); err != nil {
		return err
	}
	var begins string
	keys := b.names(g.Key).all()
	if g.Token == 0 {
		keys = b.names(g.Key).with(g.ID)
	} else {
		begins = strconv.FormatUint(g.Token, 10) + " " + g.ID + " " + millis(g.TTL) + " " + b.memoryText + " 0 "
	}
	reply, err := b.run(ctx, releaseScript(), keys, g.ID, b.manners, begins, b.memoryText)
	if err != nil {
		return b.verbError(err)
	}
	switch reply {
	case int64(1):
		return nil
	case int64(0):
		return backend.ErrLost
	}
	return backend.Unavailable(fmt.Errorf("redis: unexpected answer %v", reply))
}

// Break frees the lock if its holder has this token. The holder learns of it at
// once.
func (b *Backend) Break(ctx context.Context, key string, token uint64) error {
	if err := b.begin(key); err != nil {
		return err
	}
	reply, err := b.run(ctx, breakScript(), b.names(key).all(), strconv.FormatUint(token, 10), b.manners)
	if err != nil {
		return b.verbError(err)
	}
	switch reply := reply.(type) {
	case int64:
		if reply == 0 {
			return backend.ErrNotHeld
		}
		return nil
	case []any:
		return b.heldError(key, reply)
	}
	return backend.Unavailable(fmt.Errorf("redis: unexpected answer %v", reply))
}

// RaiseToken lifts the last token of key to floor, if it is less.
func (b *Backend) RaiseToken(ctx context.Context, key string, floor uint64) error {
	if err := b.begin(key); err != nil {
		return err
	}
	_, err := b.run(ctx, raiseScript(), []string{b.lockName(key)}, strconv.FormatUint(floor, 10), b.memoryText)
	return b.verbError(err)
}
