package cli

import (
	"os"
	"strings"
	"unsafe"

	"github.com/hasplock/hasp/backend"
)

// hideArguments takes secrets out of what other users of the host see of this
// process: its arguments, which the kernel shows from where they are in memory.
// They could be seen before it was done, so that a password is better in HASP_URL.
func hideArguments() {
	for i, arg := range os.Args {
		shown := backend.Redact(arg)
		if shown == arg {
			continue
		}
		os.Args[i] = strings.Clone(arg)
		// The runtime's strings of the arguments are the kernel's own bytes.
		there := unsafe.Slice(unsafe.StringData(arg), len(arg))
		for n := copy(there, shown); n < len(there); n++ {
			there[n] = ' '
		}
	}
}
