package redislock

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

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
	terms := b.termsArgs(c.TTL)
	args := [...]any{
		c.ID, terms[0], terms[1], strconv.FormatUint(c.TokenFloor, 10), b.holderArg(c.Holder), b.manners,
	}
	var reply any
	var acked int64
	var err error
	if b.replicas > 0 {
		reply, acked, err = b.acquireAndWait(ctx, n, args[:])
	} else {
		reply, err = b.run(ctx, acquireScript(), n.all(), args[:]...)
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
		if acked < int64(b.replicas) {
			return backend.Grant{}, b.tooFewReplicas(ctx, g, acked)
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
	left := time.Duration(ms) * time.Millisecond
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
		held.RetryAfter = left + time.Millisecond
	}
	return held
}

// acquireAndWait sends the script and WAIT on one connection, as WAIT asks, in
// one round trip.
func (b *Backend) acquireAndWait(ctx context.Context, n names, args []any) (reply any, acked int64, err error) {
	err = b.do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		node, err := master(ctx, client, n.lock)
		if err == nil {
			reply, acked, err = b.sendAndWait(ctx, node, n, args)
		}
		return err
	})
	return reply, acked, err
}

func (b *Backend) sendAndWait(ctx context.Context, node redis.UniversalClient, n names, args []any) (reply any, acked int64, err error) {
	send := func(run func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) (*redis.Cmd, *redis.IntCmd) {
		p := node.Pipeline()
		cmd := run(ctx, p, n.all(), args...)
		wait := redis.NewIntCmd(ctx, "wait", b.replicas, b.replicasTimeout.Milliseconds())
		_ = p.Process(ctx, wait)
		_, _ = p.Exec(ctx) // each command has its own error
		return cmd, wait
	}
	cmd, wait := send(acquireScript().EvalSha)
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd, wait = send(acquireScript().Eval)
	}
	if reply, err = cmd.Result(); err != nil {
		return nil, 0, err
	}
	if _, granted := reply.(string); granted && wait.Err() != nil {
		return nil, 0, backend.Unavailable(fmt.Errorf("redis: WAIT for %d replicas: %w", b.replicas, wait.Err()))
	}
	return reply, wait.Val(), nil
}

// master returns the client of the server that has name.
func master(ctx context.Context, client redis.UniversalClient, name string) (redis.UniversalClient, error) {
	if c, ok := client.(interface {
		MasterForKey(context.Context, string) (*redis.Client, error)
	}); ok {
		return c.MasterForKey(ctx, name)
	}
	return client, nil
}

// tooFewReplicas gives the lock back, for a copy of it may not survive.
func (b *Backend) tooFewReplicas(ctx context.Context, g backend.Grant, acked int64) error {
	err := fmt.Errorf("redis: %d of the %d replicas asked for acknowledged within %v", acked, b.replicas, b.replicasTimeout)
	if rerr := b.Release(ctx, g); rerr != nil {
		return backend.Unavailable(fmt.Errorf("%w, and the lock could not be given back: %w", err, rerr))
	}
	return err
}
