package redislock

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// permissionError says what a user is not allowed to. It matches fs.ErrPermission.
type permissionError struct {
	text  string
	cause error
}

func (e *permissionError) Error() string   { return e.text }
func (e *permissionError) Unwrap() []error { return []error{fs.ErrPermission, e.cause} }

// denials are how the servers begin to say that a user lacks a right: to a client, and
// to a script before Redis 7.2 and since. Valkey and Redict say what Redis 7.2 does.
var denials = []string{"NOPERM", "ERR The user executing the script", "ERR ACL failure in script"}

var deniedCommand = regexp.MustCompile(`to run the '([^' ]+)' command`)

// denied tells whether a reply says that the user lacks a right, and which, in the
// words of ACL SETUSER; ” if the server does not tell which command it was.
func (b *Backend) denied(text string) (right string, ok bool) {
	for _, d := range denials {
		ok = ok || replies(text, d)
	}
	if !ok {
		return "", false
	}
	if m := deniedCommand.FindStringSubmatch(text); m != nil {
		return "+" + strings.ToLower(m[1]), true
	}
	switch {
	case strings.Contains(text, "channel"):
		return "&" + b.prefix + "*", true
	case strings.Contains(text, " key"):
		return "~" + b.prefix + "*", true
	}
	return "", true
}

// lacks makes the error of a user without some rights.
func (b *Backend) lacks(cause error, rights ...string) error {
	user := b.user
	if user == "" {
		user = "default"
	}
	what := strings.Join(rights, " ")
	if what == "" {
		what = "to run a command that the package documentation lists"
	} else {
		what += fmt.Sprintf(" (ACL SETUSER %s %s; the package documentation lists all)", user, what)
	}
	e := b.at(fmt.Sprintf("user %q lacks a permission: %s", user, what), cause)
	return &permissionError{e.Error(), cause}
}
