// Package port has the addresses of servers that tests start.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Nobody is an address at which nothing listens. A port that was found free and closed
// again would not do: another test's server may get it.
const Nobody = "127.0.0.1:1"

// Free finds an address to listen on. It is below those that the kernel gives to
// outgoing connections and to who asks for any, so none of these takes it between here
// and there, nor while a server that is to come back there is away.
func Free(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			tb.Fatal(err)
		}
		return addr
	}
	tb.Fatal("found no free port on 127.0.0.1 between 10000 and 30000")
	return ""
}
