package etcdlock

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
)

func TestParseURL(t *testing.T) {
	for _, tc := range []struct {
		url       string
		endpoints string
		prefix    string
		user      string
		tls       bool
	}{
		{"etcd://h1", "http://h1:2379", "", "", false},
		{"etcd://h1:1/", "http://h1:1", "", "", false},
		{"etcd://h1,h2,h3:3/a/b", "http://h1:2379 http://h2:2379 http://h3:3", "a/b", "", false},
		{"etcd://h1:1,h2:2/p?endpoints=h3:3,h4", "http://h1:1 http://h2:2 http://h3:3 http://h4:2379", "p", "", false},
		{"etcd://[::1]:2379/", "http://[::1]:2379", "", "", false},
		{"etcd://u:p%40@h1/x%20y", "http://h1:2379", "x y", "u p@", false},
		{"etcds://h1/", "https://h1:2379", "", "", true},
		{"etcd://h1/?insecure=true", "https://h1:2379", "", "", true},
	} {
		u, err := url.Parse(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := parseURL(u)
		if err != nil {
			t.Errorf("%s: %v", tc.url, err)
			continue
		}
		c := cfg.client
		if got := strings.Join(c.Endpoints, " "); got != tc.endpoints {
			t.Errorf("%s: endpoints %s", tc.url, got)
		}
		if cfg.prefix != tc.prefix {
			t.Errorf("%s: prefix %q", tc.url, cfg.prefix)
		}
		if got := strings.TrimSpace(c.Username + " " + c.Password); got != tc.user {
			t.Errorf("%s: user %q", tc.url, got)
		}
		if (c.TLS != nil) != tc.tls {
			t.Errorf("%s: TLS %v", tc.url, c.TLS != nil)
		}
		if c.DialKeepAliveTime != 5*time.Second {
			t.Errorf("%s: keepalive %v", tc.url, c.DialKeepAliveTime)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ url, want string }{
		{"etcd:///p", "no endpoint"},
		{"etcd://h1/?colour=red", `unknown option "colour"`},
		{"etcd://h1/?timeout=soon", "timeout"},
		{"etcd://h1/?timeout=-1s", "timeout"},
		{"etcd://h1/?insecure=perhaps", "insecure"},
		{"etcd://u@h1/", "password"},
		{"etcd://h1/?endpoints=a/b", `endpoint "a/b"`},
		{"etcd://h1/?endpoints=h2:2379,h3:http", "endpoint 3 of the URL"},
		{"etcd://h1/?endpoints=h2:0", "port from 1 to 65535"},
		{"etcd://h1/?endpoints=h2:65536", "port from 1 to 65535"},
		{"etcd://h1/?endpoints=a/b:1", "host:port"},
		{"etcd://h1/?endpoints=:1", "host:port"},
		{"etcd://u:p@h1/?endpoints=u:p@h2", "once, before the first host"},
		{"etcds://h1/?cert=x", "belong together"},
		{"etcds://h1/?cacert=" + empty, "no certificate"},
		{"etcds://h1/?cacert=/no/such/file", "/no/such/file"},
		{"etcds://h1/?cert=/no/such&key=/no/such", "cert and key"},
	} {
		u, err := url.Parse(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseURL(u); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error about %s", tc.url, err, tc.want)
		}
	}
}

func TestNames(t *testing.T) {
	n := names{prefix: "p/"}
	for _, key := range []string{"a", "a/b", " ", "é/ü"} {
		got, ok := n.keyOf(n.queue(key) + "instance.0")
		if !ok || got != key {
			t.Errorf("key %q comes back as %q, %v", key, got, ok)
		}
	}
	for _, name := range []string{"", "p/token-base", "p/lock/a", "p/lock/\tx", "p/lock/a\t", "q/lock/a\tx"} {
		if key, ok := n.keyOf(name); ok {
			t.Errorf("%q was taken for an entry of %q", name, key)
		}
	}
}

func TestPlaces(t *testing.T) {
	var p places
	p.renew()
	used := map[string]bool{}
	take := func() string {
		name := p.name("q\t", func(name string) bool { return used[name] })
		used[name] = true
		return name
	}
	a, b := take(), take()
	if a == b {
		t.Fatalf("%q was given out twice", a)
	}
	delete(used, a)
	if got := take(); got != a {
		t.Errorf("%q is free, but %q was given out", a, got)
	}
	delete(used, a)
	p.renew()
	if got := take(); got == a {
		t.Errorf("%q was given out again after a deletion of unknown outcome", a)
	}
}

func TestBase(t *testing.T) {
	for _, bs := range []base{{}, {sum: 1, floor: 2}, {sum: 1<<64 - 1, floor: 1 << 63, keyed: true}} {
		enc := bs.encode()
		got, err := decodeBase(kv("b", enc.text))
		if err != nil || !reflect.DeepEqual(got, enc) {
			t.Errorf("%+v comes back as %+v, %v", enc, got, err)
		}
	}
	for _, text := range []string{"", "1", "x 1", "1 x", "1 2 3", "-1 0", "1 2 keyed keyed"} {
		if got, err := decodeBase(kv("b", text)); err == nil {
			t.Errorf("%q was taken for %+v", text, got)
		}
	}
}

func TestReleasedIsBounded(t *testing.T) {
	var r released
	for i := range 3 * releasedSize {
		r.add(ident{"k", strings.Repeat("x", 1+i)})
	}
	if len(r.idents) != releasedSize || len(r.ring) != releasedSize {
		t.Errorf("%d and %d are remembered", len(r.idents), len(r.ring))
	}
	if r.has(ident{"k", "x"}) || !r.has(ident{"k", strings.Repeat("x", 3*releasedSize)}) {
		t.Error("the last ones are not those remembered")
	}
}

func TestWholeSeconds(t *testing.T) {
	for d, want := range map[time.Duration]int64{
		time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, 300 * time.Second: 300, 1<<63 - 1: 9223372037,
	} {
		if got := wholeSeconds(d); got != want {
			t.Errorf("%v: %d s, want %d", d, got, want)
		}
	}
}

// No form of a URL, documented or mistaken, makes an error that shows the password.
func TestOpenHidesPassword(t *testing.T) {
	const secret = "s3cret"
	for _, raw := range []string{
		"etcd://user:s3cret@127.0.0.1:1/p?timeout=2s",
		"etcd://user:s3cret@127.0.0.1:1,127.0.0.1:1/p?timeout=2s&endpoints=127.0.0.1:1",
		"etcd://:s3cret@127.0.0.1:1/",
		"etcd://s3cret@127.0.0.1:1/",
		"etcd://127.0.0.1:1/?timeout=2s&endpoints=user:s3cret@127.0.0.1:1",
		"etcd://127.0.0.1:1/?timeout=2s&endpoints=user:s3cret@127.0.0.1",
		"etcd://127.0.0.1:1/?timeout=2s&endpoints=user%3As3cret%40127.0.0.1:1",
		"etcd://127.0.0.1:1/?timeout=2s&endpoints=etcd://user:s3cret@127.0.0.1:1",
		"etcd://127.0.0.1:1/?timeout=2s&endpoints=user:pass,s3cret@127.0.0.1:1",
		"etcd://127.0.0.1:1/?timeout=2s&endpoints=user:12,s3cret/x@127.0.0.1:1",
		"etcd://user:pw@127.0.0.1:1,user:s3cret@127.0.0.1:1/?timeout=2s",
		"etcd://127.0.0.1:1,user:s3cret/?timeout=2s",
		"etcd://user:s3cret/@127.0.0.1:1/?timeout=2s",
	} {
		for _, scheme := range []string{"etcd:", "etcds:"} {
			raw := scheme + strings.TrimPrefix(raw, "etcd:")
			b, err := backend.Open(t.Context(), raw)
			if err == nil {
				t.Errorf("%s: opened", raw)
				_ = b.Close()
				continue
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", raw, err)
			}
		}
	}
	// Here backend.Open cannot tell that something is a password, and repeats the URL.
	for _, endpoints := range []string{"h1:1,user:s3cret", "user:12,s3cret/x", "h1,user:1:s3cret", "user/s3cret:1"} {
		u := &url.URL{Scheme: "etcd", Host: "h1", RawQuery: url.Values{"endpoints": {endpoints}}.Encode()}
		if _, err := parseURL(u); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", u, err)
		}
	}
}

type departure struct{ by string }

func (d *departure) Error() string { return "ended by " + d.by }

// Who cancels with a cause finds it in what Open returns.
func TestOpenTellsCause(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			cancel(&departure{"the test"}) // it has been reached, and does not answer
		}
	}()
	_, err = backend.Open(ctx, "etcd://"+silent.Addr().String()+"/")
	var cause *departure
	if !errors.As(err, &cause) || !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}
