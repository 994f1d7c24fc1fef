package backend_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

func query(t *testing.T, raw string) *backend.Query {
	t.Helper()
	return backend.NewQuery(&url.URL{Scheme: "x", RawQuery: raw})
}

func TestQuery(t *testing.T) {
	q := query(t, "name=a%20b&on=false&n=7&wait=1m30s&empty=")
	if s := q.String("name", "x"); s != "a b" {
		t.Errorf("name %q", s)
	}
	if s := q.String("empty", "x"); s != "" {
		t.Errorf("empty %q", s)
	}
	if s := q.String("absent", "x"); s != "x" {
		t.Errorf("absent %q", s)
	}
	if q.Bool("on", true) || !q.Bool("absent2", true) {
		t.Error("on")
	}
	if n, m := q.Int("n", 1, 7), q.Int("absent3", 1, 5); n != 7 || m != 1 {
		t.Errorf("n %d, default %d", n, m)
	}
	if d, e := q.Duration("wait", 0), q.Duration("absent4", time.Hour); d != 90*time.Second || e != time.Hour {
		t.Errorf("wait %v, default %v", d, e)
	}
	if err := q.Err(); err != nil {
		t.Error(err)
	}
}

func TestQueryRefuses(t *testing.T) {
	for raw, want := range map[string]string{
		"on=perhaps":    `option on="perhaps": want true or false`,
		"n=x":           `option n="x": want a whole number, 2 or more`,
		"n=1":           `option n="1": want a whole number, 2 or more`,
		"n=2.5":         `option n="2.5"`,
		"wait=5":        `option wait="5": want a duration`,
		"wait=-5s":      `option wait="-5s": want a duration that is not negative`,
		"on=1&on=0":     `option "on" is given 2 times`,
		"lokfile=false": `unknown option "lokfile": known are n, on, wait`,
		"a=%zz":         `option "a" cannot be parsed`,
		"a=1;b=2":       "semicolon",
	} {
		q := query(t, raw)
		if on, n, wait := q.Bool("on", true), q.Int("n", 3, 2), q.Duration("wait", time.Second); !on || n != 3 || wait != time.Second {
			t.Errorf("%s: bad values are used: %v, %d, %v", raw, on, n, wait)
		}
		if err := q.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
	// all at once, in a fixed order
	q := query(t, "z=1&b=1&on=x")
	q.Bool("on", true)
	err := q.Err()
	if err == nil || strings.Count(err.Error(), "\n") != 2 || strings.Index(err.Error(), `"b"`) > strings.Index(err.Error(), `"z"`) {
		t.Errorf("got %v", err)
	}
	if err := query(t, "x=1").Err(); err == nil || !strings.Contains(err.Error(), "known are none") {
		t.Errorf("got %v", err)
	}
}

func TestQueryRest(t *testing.T) {
	q := query(t, "on=true&pool=5&pool=6&db=1")
	q.Bool("on", false)
	rest := q.Rest()
	if len(rest) != 2 || len(rest["pool"]) != 2 || rest.Get("db") != "1" {
		t.Errorf("rest %v", rest)
	}
	if err := q.Err(); err != nil {
		t.Errorf("what was handed on is refused: %v", err)
	}
}
