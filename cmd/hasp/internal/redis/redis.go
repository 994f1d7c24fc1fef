// Package redis is the Redis backend as the command has it in it.
package redis

import (
	"github.com/redis/go-redis/v9/logging"

	_ "github.com/hasplock/hasp/redislock"
)

// go-redis writes to stderr about each connection that it cannot make. The errors
// that it returns say the same, and the command reports those.
func init() { logging.Disable() }
