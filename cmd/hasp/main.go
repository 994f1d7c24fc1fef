package main

import (
	_ "github.com/hasplock/hasp/efs"
	_ "github.com/hasplock/hasp/memlock"
	_ "github.com/hasplock/hasp/redislock"

	"github.com/hasplock/hasp/cmd/hasp/cli"
)

func main() { cli.Main() }
