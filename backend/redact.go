package backend

import (
	"iter"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// hidden stands for a secret that is not shown.
const hidden = "xxxxx"

// The patterns are made when they are first needed: most programs never do.
var (
	// A migration's URL has other URLs as its options.
	urlStart = pattern(`[A-Za-z][A-Za-z0-9+.-]*://|(?i:migrate:\?)`)
	// What options that hold secrets are called, by any backend.
	secretName = pattern(`(?i)pass|pwd|secret|token|auth|cred|api_?key|signature`)
	quoted     = pattern(`"(\\.|[^"\\])*"?`)
)

func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// isSecret tells whether an option is called like one that holds a secret, and is not
// one of hasp's own backends that holds none.
func isSecret(name string) bool { return name != "token_memory" && secretName().MatchString(name) }

// Redact returns text without the secrets of the URLs in it: what a program shows
// of stores' URLs, and of texts that may quote them, goes through it. A URL ends at
// white space, or at the closing quotation mark if it began after one.
func Redact(text string) string {
	if !strings.Contains(text, "://") && !strings.Contains(text, ":?") {
		return text
	}
	var b strings.Builder
	for {
		at := urlStart().FindStringIndex(text)
		if at == nil {
			b.WriteString(text)
			return b.String()
		}
		from := at[1]
		if text[from-1] == '?' {
			from-- // what may end it
		}
		end := from + urlLength(text[:at[0]], text[from:])
		b.WriteString(text[:at[0]])
		b.WriteString(redactURL(text[at[0]:end], false))
		text = text[end:]
	}
}

// urlLength returns how much of text belongs to a URL that began between the two.
func urlLength(before, text string) int {
	inner, isQuoted := strings.CutSuffix(before, `"`)
	if !isQuoted {
		if end := strings.IndexAny(text, " \t\r\n\"<>`"); end >= 0 {
			return len(strings.TrimRight(text[:end], `\`))
		}
		return len(text)
	}
	// A quoted text in a quoted text has its marks escaped, and those of its own twice:
	// the closing mark has as many backslashes as the opening one.
	depth := backslashes(inner)
	for i := range len(text) {
		if text[i] == '"' {
			if n := backslashes(text[:i]); n <= depth {
				return i - n
			}
		}
	}
	return len(text)
}

// backslashes returns how many of them text ends in.
func backslashes(text string) int { return len(text) - len(strings.TrimRight(text, `\`)) }

// RedactURL returns a store's URL as it may be shown: without the password, and
// without the values of options whose names say that they are secret. A URL that
// cannot be parsed, or in which an @ stands where a password with a character that
// was not escaped would have left it, is shown as its scheme alone. A user name
// without a password is hidden too: it may be a password without its colon.
func RedactURL(raw string) string { return redactURL(raw, true) }

// redactURL does so for a URL that is a store's, or may be anything.
func redactURL(raw string, store bool) string {
	scheme, rest, ok := strings.Cut(raw, ":")
	if !ok || strings.ContainsAny(scheme, `/\.`) {
		return raw // a path
	}
	none := "…"
	if urlStart().FindString(scheme+"://") == scheme+"://" {
		none = scheme + "://…"
	}
	u, err := url.Parse(raw)
	if err != nil || isAmbiguous(u) {
		return none
	}
	if rest == "" || u.RawQuery == "" && u.User == nil {
		return raw // as it was written
	}
	u.RawQuery = redactQuery(u.RawQuery)
	if u.User != nil {
		_, has := u.User.Password()
		switch {
		case has:
			u.User = url.UserPassword(u.User.Username(), hidden)
		case store || isStore(u.Scheme):
			u.User = url.User(hidden)
		}
	}
	return u.String()
}

// isAmbiguous tells whether an @ stands where it may be the one that ends a password
// with a /, ? or # in it, which then looks like a port, a path or options.
func isAmbiguous(u *url.URL) bool {
	if u.Host == "" && u.User == nil && u.Opaque == "" && u.Path != "" {
		return false // there is nobody to log in to: the path is a file's
	}
	if strings.Contains(u.Opaque+u.EscapedPath()+u.Fragment, "@") {
		return true
	}
	for option := range options(u.RawQuery) {
		name, _, _ := strings.Cut(option, "=")
		if plain, err := url.QueryUnescape(name); err != nil || strings.Contains(plain, "@") {
			return true
		}
	}
	return false
}

// options yields what a query consists of, with what separates it from the next.
func options(raw string) iter.Seq2[string, string] {
	return func(yield func(option, sep string) bool) {
		for raw != "" {
			end := strings.IndexAny(raw, "&;")
			if end < 0 {
				end = len(raw)
			}
			option, sep := raw[:end], raw[end:min(end+1, len(raw))]
			raw = raw[end+len(sep):]
			if !yield(option, sep) {
				return
			}
		}
	}
}

// isStore tells whether it is a scheme of stores, known to this program or not.
func isStore(scheme string) bool {
	registry.Lock()
	defer registry.Unlock()
	_, ok := registry.openers[scheme]
	return ok || strings.HasPrefix(scheme, "redis") || strings.HasPrefix(scheme, "etcd")
}

// redactQuery returns the options without the secret ones' values.
func redactQuery(raw string) string {
	var b strings.Builder
	for option, sep := range options(raw) {
		name, val, has := strings.Cut(option, "=")
		b.WriteString(name)
		if has {
			plain, _ := url.QueryUnescape(name) // else it is ambiguous
			b.WriteString("=" + redactOption(plain, val))
		}
		b.WriteString(sep)
	}
	return b.String()
}

// redactOption returns the value of an option as it may be shown.
func redactOption(name, val string) string {
	plain, err := url.QueryUnescape(val)
	switch {
	case val == "":
		return val
	case err != nil, isSecret(name):
		return hidden
	case isURL(plain):
		shown := redactURL(plain, true)
		switch {
		case shown == plain:
			return val // as it was written
		case plain == val:
			return shown
		}
		return url.QueryEscape(shown)
	case strings.Contains(plain, "@"):
		return hidden
	}
	return val
}

// isURL tells whether an option's value is the URL of something, as a migration's are.
func isURL(text string) bool {
	at := urlStart().FindStringIndex(text)
	return at != nil && at[0] == 0
}

// unquoted returns a text without what it quotes: the library's errors quote parts
// of the URL, which can be parts of a password.
func unquoted(text string) string { return quoted().ReplaceAllString(text, "…") }

// badOption returns the name of the option that cannot be parsed.
func badOption(raw string) string {
	for option := range options(raw) {
		name, val, _ := strings.Cut(option, "=")
		_, err := url.QueryUnescape(val)
		if plain, nerr := url.QueryUnescape(name); nerr == nil && err != nil {
			return "option " + strconv.Quote(plain)
		}
	}
	return "one"
}
