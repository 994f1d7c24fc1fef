// Command hasp-etcd is command hasp with the etcd backend in it, and all others.
// hasp hands over to it when a URL says etcd, if it stands beside hasp or in
// PATH; it can be called by its own name just as well.
//
// It is a program of its own because etcd's client takes longer to initialize
// than all the rest of hasp together, which every short run of a command under a
// lock file would pay for.
package main

import (
	_ "github.com/hasplock/hasp/efs"
	_ "github.com/hasplock/hasp/etcdlock"
	_ "github.com/hasplock/hasp/memlock"

	"github.com/hasplock/hasp/cmd/hasp/cli"
	_ "github.com/hasplock/hasp/cmd/hasp/internal/redis"
)

func main() { cli.Main() }
