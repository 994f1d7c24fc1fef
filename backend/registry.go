package backend

import (
	"context"
	"fmt"
	"net/url"
	"sort"
	"strings"
	"sync"
)

// Opener opens a backend from its URL. It checks that the store can be used
// (reachable, writable, permitted) and fails with a clear error if not.
type Opener func(ctx context.Context, u *url.URL) (Backend, error)

var registry = struct {
	sync.Mutex
	openers map[string]Opener
}{openers: map[string]Opener{}}

// Register makes a URL scheme known to Open. Backend packages call it from
// init; it panics if the scheme is taken, as database/sql.Register does.
func Register(scheme string, open Opener) {
	registry.Lock()
	defer registry.Unlock()
	if _, dup := registry.openers[scheme]; dup || scheme == "" || open == nil {
		panic(fmt.Sprintf("backend: Register of scheme %q: empty, nil or taken", scheme))
	}
	registry.openers[scheme] = open
}

// Schemes lists the registered schemes in order.
func Schemes() []string {
	registry.Lock()
	defer registry.Unlock()
	var ss []string
	for s := range registry.openers {
		ss = append(ss, s)
	}
	sort.Strings(ss)
	return ss
}

// Open opens the backend that rawURL names. A bare path (no scheme) is a
// directory of lock files, as if written efs:///path.
func Open(ctx context.Context, rawURL string) (Backend, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	open, err := opener(u, rawURL)
	if err != nil {
		return nil, err
	}
	b, err := open(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("hasp: open %q: %w", RedactURL(rawURL), err)
	}
	return b, nil
}

func parseURL(rawURL string) (*url.URL, error) {
	if rawURL == "" {
		return nil, fmt.Errorf("hasp: open: the URL is empty")
	}
	if !strings.Contains(rawURL, ":") || strings.HasPrefix(rawURL, "/") || strings.HasPrefix(rawURL, ".") {
		return &url.URL{Scheme: "efs", Path: rawURL}, nil
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// Its error quotes the URL, or parts of it, which may be a password's.
		return nil, fmt.Errorf("hasp: open %q: the URL cannot be parsed: %s (in a user or password, write %% : / ? # [ ] @ and spaces as %%25, %%3A and so on)", RedactURL(rawURL), unquoted(parseCause(err).Error()))
	}
	if isAmbiguous(u) {
		return nil, fmt.Errorf("hasp: open %q: an @ comes after the host: write those in a user or password, a path or an option's name as %%40, and / ? # as %%2F %%3F %%23", RedactURL(rawURL))
	}
	return u, nil
}

func opener(u *url.URL, rawURL string) (Opener, error) {
	registry.Lock()
	open := registry.openers[u.Scheme]
	registry.Unlock()
	if open == nil {
		return nil, fmt.Errorf("hasp: open %q: no backend for scheme %q; this program has %s", RedactURL(rawURL), u.Scheme, orNone(Schemes()))
	}
	return open, nil
}

func parseCause(err error) error {
	if ue, ok := err.(*url.Error); ok {
		return ue.Err
	}
	return err
}

func orNone(ss []string) string {
	if len(ss) == 0 {
		return "none (import a backend package, such as github.com/hasplock/hasp/efs)"
	}
	return strings.Join(ss, ", ")
}
