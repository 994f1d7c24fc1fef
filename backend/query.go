package backend

import (
	"errors"
	"fmt"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Query reads the options in a URL's query, so that every backend refuses the
// same mistakes in the same words. Ask for each option, then call Err.
type Query struct {
	values url.Values
	known  []string
	errs   []error
}

// NewQuery parses u's query.
func NewQuery(u *url.URL) *Query {
	q := &Query{}
	var err error
	if q.values, err = url.ParseQuery(u.RawQuery); err != nil {
		q.errs = append(q.errs, fmt.Errorf("the URL's options: %s cannot be parsed: %s", badOption(u.RawQuery), unquoted(err.Error())))
	}
	return q
}

func (q *Query) get(name string) (string, bool) {
	q.known = append(q.known, name)
	vs, ok := q.values[name]
	if !ok {
		return "", false
	}
	if len(vs) > 1 {
		q.errs = append(q.errs, fmt.Errorf("option %q is given %d times", name, len(vs)))
		return "", false
	}
	return vs[0], true
}

func (q *Query) bad(name, val, want string) {
	q.errs = append(q.errs, fmt.Errorf("option %s=%q: want %s", name, redactOption(name, val), want))
}

// String returns option name, or def.
func (q *Query) String(name, def string) string {
	if s, ok := q.get(name); ok {
		return s
	}
	return def
}

// Bool returns option name, or def.
func (q *Query) Bool(name string, def bool) bool {
	s, ok := q.get(name)
	if !ok {
		return def
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		q.bad(name, s, "true or false")
		return def
	}
	return b
}

// Int returns option name, which must be min or more, or def.
func (q *Query) Int(name string, def, min int) int {
	s, ok := q.get(name)
	if !ok {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < min {
		q.bad(name, s, fmt.Sprintf("a whole number, %d or more", min))
		return def
	}
	return n
}

// Duration returns option name, which must not be negative, or def.
func (q *Query) Duration(name string, def time.Duration) time.Duration {
	s, ok := q.get(name)
	if !ok {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		q.bad(name, s, `a duration that is not negative, such as "500ms" or "5s"`)
		return def
	}
	return d
}

// Rest returns the options not asked for so far, and accepts them: for backends
// that hand them on to their client library.
func (q *Query) Rest() url.Values {
	rest := url.Values{}
	for name, vs := range q.values {
		if !q.isKnown(name) {
			rest[name] = vs
			q.known = append(q.known, name)
		}
	}
	return rest
}

// Err returns what was wrong: bad values, and options that nobody asked for.
func (q *Query) Err() error {
	errs := q.errs
	var unknown []string
	for name := range q.values {
		if !q.isKnown(name) {
			unknown = append(unknown, name)
		}
	}
	sort.Strings(unknown)
	for _, name := range unknown {
		errs = append(errs, fmt.Errorf("unknown option %q: known are %s", name, orNothing(q.known)))
	}
	return errors.Join(errs...)
}

func (q *Query) isKnown(name string) bool {
	for _, k := range q.known {
		if k == name {
			return true
		}
	}
	return false
}

func orNothing(ss []string) string {
	if len(ss) == 0 {
		return "none"
	}
	s := append([]string(nil), ss...)
	sort.Strings(s)
	return strings.Join(s, ", ")
}
