//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// redisCount is how many commands a Redis server has carried out.
type redisCount struct {
	requests float64 // sent by clients
	commands float64 // those, and what scripts did within them
}

func (c redisCount) minus(d redisCount) redisCount {
	return redisCount{c.requests - d.requests, c.commands - d.commands}
}

// countRedis reads INFO commandstats, which does not tell what a client sent from
// what a script did. kind does: all but redsync send only scripts and messages
// about subscriptions, and no script of redsync's sets a key.
func countRedis(ctx context.Context, c *redis.Client, kind string) (redisCount, error) {
	text, err := c.Info(ctx, "commandstats").Result()
	if err != nil {
		return redisCount{}, err
	}
	var n redisCount
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, rest, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "cmdstat_"), ":calls=")
		if !ok {
			continue
		}
		calls, _, _ := strings.Cut(rest, ",")
		x, err := strconv.ParseFloat(calls, 64)
		if err != nil {
			return redisCount{}, fmt.Errorf("INFO commandstats: %q: %w", lines.Text(), err)
		}
		switch name {
		case "info", "hello", "client|setinfo", "client|maint_notifications", "ping":
			continue // of the counting, and of connections
		case "eval", "evalsha", "subscribe", "unsubscribe", "ssubscribe", "sunsubscribe", "psubscribe":
			n.requests += x
		case "set":
			if kind == redsyncName {
				n.requests += x
			}
		}
		n.commands += x
	}
	return n, nil
}
