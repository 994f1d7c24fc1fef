package backend

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns s fit for a terminal, a log or a page. Keys, holders' names and
// what other programs have written are anyone's text. What does not show itself as
// what it is (control characters, line ends, marks that turn the direction of
// text, invisible characters, what is not UTF-8) is written as in a Go string: \n,
// \x1b, \u202e. All else stays, backslashes too. What is read by programs, such as
// JSON, has the exact text instead.
func Printable(s string) string {
	clean := true
	for i, r := range s {
		if !shows(r) || r == utf8.RuneError && badAt(s, i) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && badAt(s, i):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case shows(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// shows tells whether r is a letter, mark, number, symbol or space. Format characters
// are none of these.
func shows(r rune) bool { return strconv.IsGraphic(r) }

// badAt tells whether the replacement character that was read at s[i:] stands for a
// byte that is not UTF-8.
func badAt(s string, i int) bool {
	_, n := utf8.DecodeRuneInString(s[i:])
	return n == 1
}

// Text returns what err says, as Printable, in one line and never empty: a sentence
// that ends with a cause can be put together with it. Lines, of which errors.Join
// makes one for each error, are joined by semicolons.
func Text(err error) string {
	if err == nil {
		return "no error"
	}
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, Printable(line))
		}
	}
	if len(lines) == 0 {
		return fmt.Sprintf("an error without words (%T)", err)
	}
	return strings.Join(lines, "; ")
}
