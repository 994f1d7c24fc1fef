// Command hasp-etcd is the other part of command hasp: hasp hands over to it when a
// URL says etcd, and for verify. It has all the other backends in it too, and can be
// called by its own name just as well.
//
// It is a file of its own because etcd's client and the conformance suite make the
// start of hasp longer by half, which every short run of a command under a lock file
// would pay for. Both have to be built together: see make build.
package main

import (
	_ "github.com/hasplock/hasp/efs"
	_ "github.com/hasplock/hasp/etcdlock"
	_ "github.com/hasplock/hasp/memlock"
	_ "github.com/hasplock/hasp/migrate"

	"github.com/hasplock/hasp/cmd/hasp/cli"
	_ "github.com/hasplock/hasp/cmd/hasp/cli/verify"
	_ "github.com/hasplock/hasp/cmd/hasp/internal/redis"
)

func main() { cli.Main() }
