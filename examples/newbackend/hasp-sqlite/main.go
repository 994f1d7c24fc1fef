// Command hasp-sqlite is command hasp for sqlite: URLs. Beside hasp, or in PATH,
// it is what hasp itself runs for them.
package main

import (
	"github.com/hasplock/hasp/cmd/hasp/cli"
	_ "github.com/hasplock/hasp/cmd/hasp/cli/verify"
	_ "github.com/hasplock/hasp/examples/newbackend" // registers sqlite:
)

func main() { cli.Main() }
