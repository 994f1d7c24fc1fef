package redislock

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/hasplock/hasp/backend"
)

// Acquire makes one attempt, in one round trip.
func (b *Backend) Acquire(ctx context.Context, key string, c backend.Claim) (backend.Grant, error) {
	if err := b.begin(key); err != nil {
		return backend.Grant{}, err
	}
	if err := backend.ValidateClaim(c); err != nil {
		return backend.Grant{}, err
	}
	if c.TokenFloor == math.MaxUint64 {
		return backend.Grant{}, backend.ErrTokensExhausted
	}
	n := b.names(key)
	args := []any{
		c.ID, millis(c.TTL) + " " + b.memoryText + " 0", strconv.FormatInt(wholeMillis(c.TTL)+b.memory, 10),
		decimal(c.TokenFloor), b.holderArg(c.Holder), b.manners,
	}
	var reply any
	var acked acknowledged
	var err error
	if b.replicas > 0 {
		reply, acked, err = b.runAndWait(ctx, acquireScript(), n.with(c.ID), true, args)
	} else {
		reply, err = b.run(ctx, acquireScript(), n.with(c.ID), args...)
	}
	if err != nil {
		return backend.Grant{}, b.attemptError(err)
	}
	switch reply := reply.(type) {
	case string:
		token, err := strconv.ParseUint(reply, 10, 64)
		if err != nil {
			return backend.Grant{}, backend.Unavailable(fmt.Errorf("redis: token %q is not a number", reply))
		}
		g := backend.Grant{Key: key, ID: c.ID, Holder: c.Holder, Token: token, TTL: ceilMillis(c.TTL)}
		if err := b.tooFew(acked); err != nil {
			return backend.Grant{}, b.giveBack(ctx, g, acked, err)
		}
		return g, nil
	case []any:
		return backend.Grant{}, b.heldError(key, reply)
	}
	return backend.Grant{}, backend.Unavailable(fmt.Errorf("redis: unexpected answer %v", reply))
}

// heldError reads acquire's {record, ms, first} and break's {record, ms}.
func (b *Backend) heldError(key string, reply []any) error {
	value, _ := reply[0].(string)
	ms, _ := reply[1].(int64)
	left := span(ms)
	held := &backend.HeldError{Record: backend.Record{
		Key: key, State: backend.Held, Note: "it is free, and another waiter's turn",
	}}
	if value != "" {
		var err error
		if held.Record, err = b.held(key, value, left); err != nil {
			return err
		}
	}
	// Only the first in the queue, or a claim that finds nobody in it, is told when
	// the lock or the turn runs out: a thousand waiters must not all come back at
	// that moment. The others are woken when their turn comes.
	if len(reply) > 2 && reply[2] == int64(1) {
		held.RetryAfter = span(ms + 1)
	}
	return held
}
