package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hasplock/hasp/backend"
)

var errRefused = errors.New("connection refused")

func init() {
	backend.Register("regtest", func(_ context.Context, u *url.URL) (backend.Backend, error) {
		if u.Host == "refused" {
			return nil, errRefused
		}
		return opened{u: *u}, nil
	})
	backend.Register("efs", func(_ context.Context, u *url.URL) (backend.Backend, error) { return opened{u: *u}, nil })
}

// opened is a backend that knows no more than how it was opened.
type opened struct {
	backend.Backend
	u url.URL
}

func TestOpen(t *testing.T) {
	b, err := backend.Open(t.Context(), "regtest://host/path?a=b")
	if err != nil {
		t.Fatal(err)
	}
	if u := b.(opened).u; u.Host != "host" || u.Path != "/path" || u.RawQuery != "a=b" {
		t.Errorf("opened with %+v", u)
	}
	if !slices.Contains(backend.Schemes(), "regtest") || !slices.IsSorted(backend.Schemes()) {
		t.Errorf("schemes %q", backend.Schemes())
	}
}

func TestOpenErrors(t *testing.T) {
	for raw, want := range map[string]string{
		"":                           "the URL is empty",
		"nosuch://host/path":         `hasp: open "nosuch://host/path": no backend for scheme "nosuch"; this program has `,
		"NOSUCH:x":                   `no backend for scheme "nosuch"`,
		"regtest://refused/x":        `hasp: open "regtest://refused/x": connection refused`,
		"://x":                       "the URL cannot be parsed",
		"regtest://user:pw@%zz/":     "the URL cannot be parsed",
		"regtest://h/%zz":            "the URL cannot be parsed",
		"regtest://refused/\x00":     "the URL cannot be parsed",
		"regtest://u:secret@refused": `hasp: open "regtest://u:xxxxx@refused": connection refused`,
	} {
		_, err := backend.Open(t.Context(), raw)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v, want %q", raw, err, want)
		}
	}
	if _, err := backend.Open(t.Context(), "regtest://refused/x"); !errors.Is(err, errRefused) {
		t.Errorf("%v has lost its cause", err)
	}
}

// A bare path is a directory of lock files.
func TestOpenBarePath(t *testing.T) {
	for _, path := range []string{"/mnt/efs/sweeps", "./locks", "../locks", "locks", "/mnt/a:b?c#d%zz", "./a:b"} {
		b, err := backend.Open(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if u := b.(opened).u; u.Scheme != "efs" || u.Path != path || u.RawQuery != "" {
			t.Errorf("%s: opened with %+v", path, u)
		}
	}
}

// No error shows a password, wherever in the URL it cannot be parsed.
func TestPasswordsAreNotShown(t *testing.T) {
	const secret = "hunter2-s3cret"
	for _, raw := range []string{
		"nosuch://user:%s@host/path",
		"regtest://user:%s@refused/path",
		"regtest://user:%s@host:port/",
		"regtest://user:%s@ho st/",
		"regtest://user:%s@host/%%zz",
		"regtest://user:%s@[::1/",
		"regtest://user:%s%%zz@host/",
		"regtest://:%s@refused",
		"regtest://user:%s\x7f@host",
	} {
		raw := fmt.Sprintf(raw, secret)
		_, err := backend.Open(t.Context(), raw)
		if err == nil {
			t.Errorf("%q was opened", raw)
		} else if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	open := func(context.Context, *url.URL) (backend.Backend, error) { return nil, nil }
	for name, register := range map[string]func(){
		"taken": func() { backend.Register("regtest", open) },
		"empty": func() { backend.Register("", open) },
		"nil":   func() { backend.Register("regtest-nil", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "backend: Register") {
					t.Errorf("recovered %v", r)
				}
			}()
			register()
		})
	}
}
