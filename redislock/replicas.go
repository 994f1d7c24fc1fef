package redislock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
)

// acknowledged is WAIT's answer.
type acknowledged struct {
	replicas int64
	err      error
}

// runAndWait sends the script and WAIT on one connection, as WAIT asks, in one round
// trip. The first key is the lock's; alone says that it will do where the keys are on
// the move.
func (b *Backend) runAndWait(ctx context.Context, script *redis.Script, keys []string, alone bool, args []any) (reply any, acked acknowledged, err error) {
	err = b.do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		node, err := master(ctx, client, keys[0])
		keys, asking := keys, false
		// A cluster's client goes on for commands of its own; this is not one. Here each
		// answer leads further: to the owner, its target, and both again with one key.
		for range 6 {
			if err != nil {
				break
			}
			reply, acked, err = b.sendAndWait(ctx, node, script, keys, asking, args)
			switch {
			case err == nil:
				return nil
			case moving(err) && alone && len(keys) > 1:
				keys, asking = keys[:1], false
				node, err = master(ctx, client, keys[0])
			default:
				var to redis.UniversalClient
				if to, asking = redirected(ctx, client, err); to != nil {
					node, err = to, nil
				}
			}
		}
		return err
	})
	return reply, acked, err
}

func (b *Backend) sendAndWait(ctx context.Context, node redis.UniversalClient, script *redis.Script, keys []string, asking bool, args []any) (reply any, acked acknowledged, err error) {
	send := func(run func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) (*redis.Cmd, *redis.IntCmd) {
		p := node.Pipeline()
		if asking {
			_ = p.Process(ctx, redis.NewCmd(ctx, "asking"))
		}
		cmd := run(ctx, p, keys, args...)
		wait := redis.NewIntCmd(ctx, "wait", b.replicas, b.replicasTimeout.Milliseconds())
		_ = p.Process(ctx, wait)
		_, _ = p.Exec(ctx) // each command has its own error
		return cmd, wait
	}
	cmd, wait := send(script.EvalSha)
	if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd, wait = send(script.Eval)
	}
	reply, err = cmd.Result()
	return reply, acknowledged{wait.Val(), wait.Err()}, err
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

// redirected returns the client of the server that err names, of a cluster whose slots
// move, and whether it has to be told that it was asked; nil if there is none.
func redirected(ctx context.Context, client redis.UniversalClient, err error) (node redis.UniversalClient, asking bool) {
	c, ok := client.(*redis.ClusterClient)
	if !ok {
		return nil, false
	}
	addr, asking := redis.IsAskError(err)
	if !asking {
		if addr, ok = redis.IsMovedError(err); !ok {
			return nil, false
		}
		c.ReloadState(ctx)
	}
	found := make(chan *redis.Client, 1)
	_ = c.ForEachMaster(ctx, func(_ context.Context, m *redis.Client) error { // it is called for all at once
		if m.Options().Addr == addr {
			select {
			case found <- m:
			default:
			}
		}
		return nil
	})
	select {
	case m := <-found:
		return m, asking
	default:
		return nil, false
	}
}

// tooFew is nil if enough replicas have acknowledged.
func (b *Backend) tooFew(acked acknowledged) error {
	if acked.err != nil {
		_, err := b.explain(acked.err)
		return fmt.Errorf("redis: WAIT for %d replicas: %w", b.replicas, err)
	}
	if acked.replicas < int64(b.replicas) {
		return fmt.Errorf("redis: %d of the %d replicas asked for acknowledged within %v", acked.replicas, b.replicas, b.replicasTimeout)
	}
	return nil
}

// giveBack releases a lock that a failover could lose, as err says.
func (b *Backend) giveBack(ctx context.Context, g backend.Grant, acked acknowledged, err error) error {
	if acked.err != nil && !errors.Is(err, fs.ErrPermission) {
		return backend.Unavailable(err) // another attempt can tell
	}
	if rerr := b.Release(ctx, g); rerr != nil {
		return backend.Unavailable(fmt.Errorf("%w, and the lock could not be given back: %w", err, rerr))
	}
	return err
}
