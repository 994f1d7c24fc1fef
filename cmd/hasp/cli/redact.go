package cli

import (
	"io"
	"strings"

	"github.com/hasplock/hasp/backend"
)

// redactingWriter is standard output, or a file that was asked for: nothing secret
// of a URL gets through. Standard error is an errorWriter, which does the same. What is written
// in pieces is put together first, since a URL may be cut in two.
type redactingWriter struct{ w io.Writer }

func (r redactingWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(r.w, backend.Redact(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// redactArg is for an argument that is no URL unless somebody has mixed them up.
func redactArg(arg string) string {
	if !hasURL(arg) {
		return arg
	}
	return backend.RedactURL(arg)
}

// hasURL tells whether a text that should be no URL has one in it. A migration's has
// those of its stores escaped.
func hasURL(arg string) bool {
	return strings.Contains(arg, "://") || strings.Contains(strings.ToLower(arg), "migrate:?")
}
