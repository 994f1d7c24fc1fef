//go:build !linux

package redislock

import "testing"

func unconnectable(t *testing.T) string {
	t.Skip("how full a queue of connections can be differs between systems; seen on Linux")
	return ""
}

func readAtOnce(*testing.T, *eager, []byte) {}
