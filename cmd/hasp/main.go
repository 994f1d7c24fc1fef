package main

import (
	_ "github.com/hasplock/hasp/efs"
	_ "github.com/hasplock/hasp/memlock"
	_ "github.com/hasplock/hasp/migrate"

	"github.com/hasplock/hasp/cmd/hasp/cli"
	_ "github.com/hasplock/hasp/cmd/hasp/internal/redis"
)

func main() { cli.Main() }
