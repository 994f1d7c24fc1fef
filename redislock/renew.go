package redislock

import (
	"context"
	"fmt"
	"time"

	"github.com/hasplock/hasp/backend"
)

// Renew restarts the TTL of a lock that g holds, in one round trip.
func (b *Backend) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	if err := b.begin(g.Key); err != nil {
		return backend.Grant{}, err
	}
	reply, err := b.run(ctx, renewScript(), []string{b.lockName(g.Key)}, millis(g.TTL), g.ID)
	r := renewal(g, 0, reply, b.verbError(err))
	return r.Grant, r.Err
}

// renewChunk is how many locks one script renews. The server does nothing else
// meanwhile: this many take it about a tenth of a millisecond.
const renewChunk = 128

// RenewAll renews all grants, in one round trip to each server concerned. Where
// there is one server, a script has the keys of many locks, which costs either
// side a tenth of what a command for each does.
func (b *Backend) RenewAll(ctx context.Context, gs []backend.Grant) []backend.Renewal {
	out := make([]backend.Renewal, len(gs))
	size := 1
	if b.exact {
		size = renewChunk
	}
	var calls []call
	var which [][]int // the grants of each call
	open := map[time.Duration]int{}
	for i, g := range gs {
		if err := b.begin(g.Key); err != nil {
			out[i].Err = err
			continue
		}
		at, ok := open[g.TTL]
		if !ok || len(which[at]) == size {
			at = len(calls)
			open[g.TTL] = at
			room := min(size, len(gs)-i)
			calls = append(calls, call{make([]string, 0, room), append(make([]any, 0, room+1), millis(g.TTL))})
			which = append(which, make([]int, 0, room))
		}
		calls[at].keys = append(calls[at].keys, b.lockName(g.Key))
		calls[at].args = append(calls[at].args, g.ID)
		which[at] = append(which[at], i)
	}
	if len(calls) == 0 {
		return out
	}
	for c, cmd := range b.pipeline(ctx, renewScript(), calls) {
		reply, err := cmd.Result()
		err = b.verbError(err)
		for k, i := range which[c] {
			out[i] = renewal(gs[i], k, reply, err)
		}
	}
	return out
}

// renewal reads element k of renew.lua's answer.
func renewal(g backend.Grant, k int, reply any, err error) backend.Renewal {
	if err != nil {
		return backend.Renewal{Err: err}
	}
	if list, ok := reply.([]any); ok && k < len(list) {
		switch list[k] {
		case int64(1):
			g.TTL = ceilMillis(g.TTL)
			return backend.Renewal{Grant: g}
		case int64(0):
			return backend.Renewal{Err: backend.ErrLost}
		case int64(-1):
			return backend.Renewal{Err: fmt.Errorf("%w: the lock's key has something else", backend.ErrCorrupt)}
		}
	}
	return backend.Renewal{Err: backend.Unavailable(fmt.Errorf("redis: unexpected answer %v", reply))}
}
