package redislock

import (
	"context"
	_ "embed"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// The libraries that scripts start with: Redis has no way to share them.
var (
	//go:embed record.lua
	recordLua string
	//go:embed turn.lua
	turnLua string
	//go:embed token.lua
	tokenLua string
)

var (
	//go:embed acquire-free.lua
	acquireFreeLua string
	//go:embed acquire.lua
	acquireLua string
	//go:embed release-held.lua
	releaseHeldLua string
	//go:embed release.lua
	releaseLua string
	//go:embed renew.lua
	renewLua string
	//go:embed break.lua
	breakLua string
	//go:embed wait.lua
	waitLua string
	//go:embed leave.lua
	leaveLua string
	//go:embed inspect.lua
	inspectLua string
	//go:embed raise.lua
	raiseLua string
	//go:embed probe.lua
	probeLua string
)

var (
	acquireScript = lazily(&acquireFreeLua, &recordLua, &turnLua, &tokenLua, &acquireLua)
	releaseScript = lazily(&releaseHeldLua, &recordLua, &turnLua, &tokenLua, &releaseLua)
	breakScript   = lazily(&recordLua, &turnLua, &tokenLua, &breakLua)
	raiseScript   = lazily(&recordLua, &turnLua, &tokenLua, &raiseLua)
	waitScript    = lazily(&recordLua, &turnLua, &waitLua)
	inspectScript = lazily(&recordLua, &turnLua, &inspectLua)
	leaveScript   = lazily(&turnLua, &leaveLua)
	renewScript   = lazily(&renewLua)
	probeScript   = lazily(&probeLua)
)

// lazily makes a script when it is first needed: a program that only links this
// package in has no use for the sums of nine texts.
func lazily(parts ...*string) func() *redis.Script {
	return sync.OnceValue(func() *redis.Script {
		var text strings.Builder
		for _, p := range parts {
			text.WriteString(*p)
		}
		return redis.NewScript(text.String())
	})
}

// run executes script, in one round trip unless the server does not know it yet.
func (b *Backend) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (reply any, err error) {
	err = b.do(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		reply, err = script.Run(ctx, client, keys, args...).Result()
		return err
	})
	return reply, err
}

// do has f talk to the server.
func (b *Backend) do(ctx context.Context, f func(context.Context, redis.UniversalClient) error) error {
	if b.lanes == nil {
		return f(ctx, b.client)
	}
	return b.lanes.do(ctx, f)
}

// pipeline is the function of that name, but the answers are errors if it cannot be
// sent.
func (b *Backend) pipeline(ctx context.Context, script *redis.Script, calls []call) (cmds []*redis.Cmd) {
	err := b.do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		cmds = pipeline(ctx, client, script, calls)
		return nil
	})
	for _, cmd := range cmds {
		cmd.SetErr(ended(ctx, cmd.Err()))
	}
	if err != nil {
		cmds = make([]*redis.Cmd, len(calls))
		for i := range cmds {
			cmds[i] = redis.NewCmdResult(nil, err)
		}
	}
	return cmds
}

// call is one execution of a script.
type call struct {
	keys []string
	args []any
}

// pipeline executes script for each call, in one round trip to each server
// concerned. A server that does not know the script yet, or forgot it, is sent
// its text in a second one.
func pipeline(ctx context.Context, client redis.UniversalClient, script *redis.Script, calls []call) []*redis.Cmd {
	cmds := make([]*redis.Cmd, len(calls))
	p := client.Pipeline()
	for i, c := range calls {
		cmds[i] = script.EvalSha(ctx, p, c.keys, c.args...)
	}
	_, _ = p.Exec(ctx) // each command has its own error
	var again []int
	for i, cmd := range cmds {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			again = append(again, i)
		}
	}
	if len(again) == 0 {
		return cmds
	}
	p = client.Pipeline()
	for _, i := range again {
		cmds[i] = script.Eval(ctx, p, calls[i].keys, calls[i].args...)
	}
	_, _ = p.Exec(ctx)
	return cmds
}
