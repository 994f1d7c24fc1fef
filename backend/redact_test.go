package backend_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/hasplock/hasp/backend"
)

// secretForms are URLs in every form that the backends document, and in those that
// people write by mistake; $ is the secret, or a part of it.
var secretForms = []string{
	"redis://user:$@host:6379/0",
	"redis://:$@host:6379/0",
	"REDIS://user:$@host:6379/0",
	"rediss://user:$@host:6379/0",
	"redis+unix://user:$@/run/redis/redis.sock?db=0",
	"redis://user:$@host1:7000,host2:7001/",
	"redis://user:$@host1:7000/?cluster=true&addr=host2:7001",
	"redis://sentinel:$@host1:26379,host2:26379/0?master_name=main&username=u&password=$",
	"redis://host1:26379,host2:26379/0?master_name=main&password=$&username=u",
	"redis://host1:26379/0?master_name=main&sentinel_password=$",
	"redis://host/0?pass%77ord=$",
	"redis://host/0?db=0;password=$",
	"redis://host/0?password=a%zz$",
	"redis://host/0?password=a@$",
	"redis://user:$@[::1]:6379/0?prefix=p:",
	"redis://$@host:6379/0",
	"redis:user:$@host:6379",
	"etcd://user:$@host:2379,host2:2379/prefix?timeout=5s",
	"etcd://user:$@etcd-1,etcd-2,etcd-3/team",
	"etcds://user:$@host:2379/prefix?cacert=/etc/ca.pem&cert=c.pem&key=k.pem",
	"etcd://host:2379/?endpoints=http://user:$@host2:2379",
	"etcd://host:2379/?endpoints=user:$@host2:2379",
	"sql://host/db?user=me&Passwd=$",
	"sql://host/db?auth_token=$",
	// in a migration's URL, which has two others as its options
	"migrate:?name=s&phase=both&old=redis%3A%2F%2Fuser%3A$%40host%3A6379&new=etcd%3A%2F%2Fhost%3A2379",
	"migrate:?name=s&phase=both&old=efs%3A%2F%2F%2Fmnt&new=etcd%3A%2F%2Fuser%3A$%40host%3A2379%2Fprefix%3Ftimeout%3D5s",
	"migrate:?name=s&old=redis%3A%2F%2Fh%2F0%3Fpassword%3D$&new=redis%3A%2F%2F$%40host",
	"migrate:?name=s&old=redis%3A%2F%2Fh%2F0%3Fdb%3D1%26password%3D$%26x%3D1&new=efs%3A%2F%2F%2Fmnt",
	"MIGRATE:?name=s&old=redis%3A%2F%2Fuser%3A$%40host&new=mem%3Aa",
	"migrate:?new=etcd%3A%2F%2Fh%2F%3Fendpoints%3Dhttp%3A%2F%2Fu%3A$%40h2&old=mem%3A",
	"migrate:?old=redis://user:$@host:6379&new=redis://:$@host2",
	"migrate:?old=redis://host/0?db=0&password=$&new=mem:",
	"migrate:?old=redis://host/0?password=$&new=mem:",
	"migrate:?old=redis://user:12&$@host&new=mem:",
	"migrate:?old=redis://user:12;$@host&new=mem:",
	"migrate:?old=redis://user:12#$@host&new=mem:",
	"migrate:?old=redis://user:12?$@host&new=mem:",
	"migrate:?old=redis%3A%2F%2Fuser%3A%25zz$%40host&new=mem%3A",
	"migrate:?old=redis%3A%2F%2Fuser%3Aa%40$%40host&new=mem%3A",
	"migrate:?old=redis%zz%3A%2F%2Fuser%3A$%40host&new=mem%3A",
	"migrate:?old=migrate%3A%3Fold%3Dredis%253A%252F%252Fu%253A$%2540h&new=mem%3A",
	// not escaped as they have to be
	"redis://user:%zz$@host:6379/0",
	"redis://user:$/$@host:6379/0",
	"redis://user:$?$@host:6379/0",
	"redis://user:$#$@host:6379/0",
	"redis://user:12?$@host:6379/0",
	"redis://user:12/$@host:6379/0",
	"redis://user:12#$@host:6379/0",
	"redis://user:a@$@host:6379/0",
	"redis://user:a $@host:6379/0",
	"redis://user:a\"$@host:6379/0",
	"redis://user:a[$@host:6379/0",
	"redis://user:$@host:port/0",
}

// secret is unlike anything else.
const secret = "hunter2"

func TestRedactURL(t *testing.T) {
	for _, form := range secretForms {
		raw := strings.ReplaceAll(form, "$", secret)
		got := backend.RedactURL(raw)
		if strings.Contains(got, secret) {
			t.Errorf("RedactURL(%q) = %q", raw, got)
		}
		scheme, _, _ := strings.Cut(raw, ":")
		if !strings.HasPrefix(strings.ToLower(got), strings.ToLower(scheme)) {
			t.Errorf("RedactURL(%q) = %q, want the scheme to be shown", raw, got)
		}
	}
	// What is not secret is left as it is.
	for _, raw := range []string{
		"migrate:?name=s&phase=both&old=efs%3A%2F%2F%2Fmnt%2Fefs&new=redis%3A%2F%2Fcache%3A6379%2F0%3Fprefix%3Dp",
		"efs:///mnt/efs/sweeps", "/mnt/efs/@home", "efs:///mnt/@home/x:y?lockfile=false", "./locks", "mem:", "mem:///a",
		"redis://localhost:6379", "redis+unix:///run/redis.sock?db=0", "redis://host1:7000/?cluster=true&token_memory=1h&pool_size=5",
		"etcds://a:2379,b:2379/team?timeout=5s&cacert=/etc/ca.pem&key=/etc/key.pem", "s3://bucket/key",
	} {
		if got := backend.RedactURL(raw); got != raw {
			t.Errorf("RedactURL(%q) = %q", raw, got)
		}
	}
	for raw, want := range map[string]string{
		"redis://user:hunter2@host:6379/0":             "redis://user:xxxxx@host:6379/0",
		"redis://h:1,i:2/0?master_name=m&password=abc": "redis://h:1,i:2/0?master_name=m&password=xxxxx",
		"redis://user:%zz@host":                        "redis://…",
	} {
		if got := backend.RedactURL(raw); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", raw, got, want)
		}
	}
}

// Texts may have URLs anywhere, and quote them, also twice.
func TestRedactText(t *testing.T) {
	for _, form := range secretForms {
		raw := strings.ReplaceAll(form, "$", secret)
		for _, text := range []string{
			fmt.Sprintf("hasp: open %q: no", raw),
			fmt.Sprintf(`{"error":%q}`, fmt.Sprintf("hasp: open %q: no", raw)),
			fmt.Sprintf("one %q and another %q", "redis://h", raw),
		} {
			if !strings.Contains(form, "://") {
				continue // nobody can tell that it is one
			}
			got := backend.Redact(text)
			if strings.Contains(got, secret) {
				t.Errorf("Redact(%s) = %s", text, got)
			}
			if i := strings.LastIndex(text, `"`); text[i:] != got[strings.LastIndex(got, `"`):] {
				t.Errorf("Redact(%s) = %s: the end is missing", text, got)
			}
		}
	}
	const text = "see https://example.com/a?b=c, s3://b/k <http://x> and \"redis://h:1\": git://git@host/x is held by a:b@c\n"
	if got := backend.Redact(text); got != text {
		t.Errorf("got %q", got)
	}
	if got, want := backend.Redact("on redis://:p@h:1/0 it is"), "on redis://:xxxxx@h:1/0 it is"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Open says nothing secret, whatever is wrong with the URL or the store.
func TestOpenErrorsHaveNoSecret(t *testing.T) {
	for _, form := range secretForms {
		for _, scheme := range []string{"", "x-unknown", "x-refuse", "x-options"} {
			raw := strings.ReplaceAll(form, "$", secret)
			if _, rest, ok := strings.Cut(raw, ":"); ok && scheme != "" {
				raw = scheme + ":" + rest
			}
			_, err := backend.Open(context.Background(), raw)
			if err == nil {
				t.Fatalf("Open(%q) succeeds", raw)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("Open(%q): %v", raw, err)
			}
		}
	}
}

func init() {
	backend.Register("x-refuse", func(context.Context, *url.URL) (backend.Backend, error) {
		return nil, backend.ErrUnavailable
	})
	backend.Register("x-options", func(_ context.Context, u *url.URL) (backend.Backend, error) {
		q := backend.NewQuery(u)
		for _, name := range []string{"password", "Passwd", "auth_token", "sentinel_password"} {
			q.Duration(name, 0)
		}
		if err := q.Err(); err != nil {
			return nil, err
		}
		return nil, backend.ErrUnavailable
	})
}
