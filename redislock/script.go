package redislock

import (
	"context"
	"embed"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/redislock/internal/conn"
)

//go:embed lua
var luaFiles embed.FS

// The scripts, and what each begins with: Redis has no way to share libraries.
var (
	acquireScript   = script("acquire-free", "record", "turn", "token", "acquire")
	releaseScript   = script("release-held", "record", "turn", "token", "release")
	breakScript     = script("record", "turn", "token", "break")
	raiseScript     = script("record", "turn", "token", "raise")
	waitScript      = script("record", "turn", "wait")
	inspectScript   = script("record", "turn", "inspect")
	leaveScript     = script("turn", "leave")
	renewScript     = script("renew")
	valueScript     = script("record", "token", "value")
	valueHeadScript = script("valuehead")
	probeScript     = script("probe")
)

// script makes a script of files in lua when it is first needed: a program that only
// links this package in has no use for the sums of all these texts.
func script(files ...string) func() *redis.Script {
	return sync.OnceValue(func() *redis.Script {
		var text strings.Builder
		for _, name := range files {
			part, _ := luaFiles.ReadFile("lua/" + name + ".lua") // TestScripts: they are all there
			text.Write(part)
		}
		return redis.NewScript(text.String())
	})
}

// run executes script, in one round trip unless the server does not know it yet, or
// the keys are on the move.
func (b *Backend) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (reply any, err error) {
	err = b.do(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		reply, err = script.Run(ctx, client, keys, args...).Result()
		if len(keys) > 1 && (moving(err) || sentOn(err)) {
			reply, err = runAlone(ctx, client, script, call{keys, args}).Result()
		}
		return err
	})
	return reply, err
}

// moving tells whether err says that the keys of a lock are on their way from one
// server of a cluster to another. Each of them is in one place, but not all in the
// same, and keys that do not exist are nowhere, so a script that has more than one is
// refused, by either side; or stopped in the middle when it has removed one.
func moving(err error) bool {
	return err != nil && (redis.HasErrorPrefix(err, "TRYAGAIN") || strings.Contains(err.Error(), "attempted to access a non local key"))
}

// sentOn tells whether err is a redirection that the client did not follow any more. It
// tries four times by itself, and a server that has none of the keys sends it on, to one
// that refuses: where keys come and go meanwhile, either can be the last answer.
func sentOn(err error) bool {
	return err != nil && (redis.HasErrorPrefix(err, "ASK") || redis.HasErrorPrefix(err, "MOVED"))
}

// runAlone executes script on a lock whose keys are on the move, with one key at a
// time: PROTOCOL.md says why that is enough.
func runAlone(ctx context.Context, client redis.UniversalClient, script *redis.Script, c call) *redis.Cmd {
	if script != leaveScript() {
		return script.Run(ctx, client, c.keys[:1], c.args...)
	}
	if cmd := script.Run(ctx, client, c.keys[1:2], c.args...); cmd.Err() != nil {
		return cmd
	}
	return script.Run(ctx, client, c.keys[2:3], c.args...)
}

// do has f talk to the server.
func (b *Backend) do(ctx context.Context, f func(context.Context, redis.UniversalClient) error) error {
	if b.conns == nil {
		return f(ctx, b.client)
	}
	return b.conns.Do(ctx, f)
}

// pipeline is the function of that name, but the answers are errors if it cannot be
// sent.
func (b *Backend) pipeline(ctx context.Context, script *redis.Script, calls []call) (cmds []*redis.Cmd) {
	err := b.do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		cmds = pipeline(ctx, client, script, calls)
		return nil
	})
	for _, cmd := range cmds {
		cmd.SetErr(conn.Ended(ctx, cmd.Err()))
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
// its text in a second one; for keys on the move there are more.
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
	if len(again) > 0 {
		p = client.Pipeline()
		for _, i := range again {
			cmds[i] = script.Eval(ctx, p, calls[i].keys, calls[i].args...)
		}
		_, _ = p.Exec(ctx)
	}
	for i, cmd := range cmds {
		if len(calls[i].keys) > 1 && (moving(cmd.Err()) || sentOn(cmd.Err())) {
			cmds[i] = runAlone(ctx, client, script, calls[i])
		}
	}
	return cmds
}
