//go:build stores

package main

import (
	_ "github.com/hasplock/hasp/etcdlock"
	_ "github.com/hasplock/hasp/redislock"
)
