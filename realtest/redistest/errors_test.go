package redistest_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/realtest/internal/pause"
	"github.com/hasplock/hasp/realtest/internal/port"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

// mustNotOpen opens url, and the error must have all the words and none of secret.
func mustNotOpen(t *testing.T, url string, words ...string) error {
	t.Helper()
	var err error
	begun := time.Now()
	for again := true; again; {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		start, stood := time.Now(), pause.Watch()
		var b backend.Backend
		b, err = backend.Open(ctx, url)
		took := time.Since(start)
		cancel()
		if err == nil {
			stood()
			b.Close()
			t.Errorf("%s: opened", url)
			return nil
		}
		late := stood()
		// Where the machine stands still, what there is to say may not come in time.
		again = late > time.Second/2 && took >= 2*time.Second && time.Since(begun) < patient
		if took-late > 3*time.Second {
			t.Errorf("%s: failed after %v, the deadline was 2 s", url, took)
		}
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v\nwant %q in it", url, err, w)
		}
	}
	for _, secret := range []string{"sesame", "tresor"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	return err
}

func TestOpenErrors(t *testing.T) {
	plain := redistest.Start(t, &redistest.Options{Binary: true, Unix: true})
	locked := redistest.Start(t, &redistest.Options{Password: "sesame"})
	tls := redistest.Start(t, &redistest.Options{TLS: true})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := l.Addr().String() // accepts in the kernel, and nobody answers
	defer l.Close()
	closed := port.Nobody

	mustNotOpen(t, "redis://"+closed, "connection refused")
	mustNotOpen(t, "rediss://"+closed, "connection refused")
	mustNotOpen(t, "redis://"+silent, "no answer in time")
	mustNotOpen(t, "rediss://"+silent, "TLS")
	mustNotOpen(t, "redis://"+closed+"/?cluster=true", "connection refused")
	mustNotOpen(t, "redis://"+closed+"/?master_name=m", "sentinel")
	mustNotOpen(t, "redis+unix:///no/such/socket", "no such file")
	mustNotOpen(t, "redis://"+locked.Addr(), "asks for a password")
	mustNotOpen(t, "redis://:tresor@"+locked.Addr(), "password is wrong")
	mustNotOpen(t, "redis://nobody:tresor@"+locked.Addr(), "user name or password is wrong")
	mustNotOpen(t, "rediss://"+plain.Addr(), "TLS")
	mustNotOpen(t, "redis://"+tls.Addr(), "TLS")
	mustNotOpen(t, "rediss://"+tls.Addr(), "certificate is not trusted")
	mustNotOpen(t, "redis://"+plain.Addr()+"/99", "no such database")
	mustNotOpen(t, "redis://"+plain.Addr()+"/x", "database number")
	mustNotOpen(t, plain.URL("bogus=1"), "bogus")
	mustNotOpen(t, plain.URL("prefix=a{b"), "prefix", "braces")
	mustNotOpen(t, plain.URL("patience=-1s"), "patience")
	mustNotOpen(t, plain.URL("replicas=-1"), "replicas")
	mustNotOpen(t, plain.URL("token_memory=1ns"), "token memory")
	mustNotOpen(t, plain.URL("cluster=maybe"), "cluster")
	mustNotOpen(t, plain.URL("prefix=a:", "prefix=b:"), "prefix", "2 times")

	for _, url := range []string{plain.URL(), plain.UnixURL(), plain.UnixURL("prefix=x:"), locked.URL(), "rediss://" + tls.Addr() + "/?skip_verify=true", plain.URL("pool_size=3", "read_timeout=2s", "max_retries=2")} {
		b := open(t, url)
		release(t, b, acquire(t, b, "k", claim(time.Minute)))
		_, stop := mustWatch(t, b, "k", claim(time.Minute))
		stop(false)
	}
}

func TestTLSClient(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{TLS: true, Password: "sesame"})
	client := redis.NewClient(&redis.Options{Addr: s.Addr(), Password: "sesame", TLSConfig: s.TLS()})
	defer client.Close()
	b, err := redislock.New(client, &redislock.Options{Prefix: "tls:"})
	if err != nil {
		t.Fatal(err)
	}
	if ws := b.Warnings(); len(ws) != 1 || !strings.Contains(ws[0], "ContextTimeoutEnabled") {
		t.Errorf("warnings %q", ws)
	}
	release(t, b, acquire(t, b, "k", claim(time.Minute)))
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := client.Ping(context.Background()).Err(); err != nil {
		t.Errorf("Close closed the caller's client: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	readonly := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, ReadOnly: true})
	defer readonly.Close()
	for want, c := range map[string]redis.UniversalClient{"Ring": ring, "replicas": readonly, "nil": nil} {
		if _, err := redislock.New(c, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%T): %v", c, err)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	s := redistest.Start(t, &redistest.Options{Binary: true})
	b := open(t, s.URL())
	ctx := context.Background()
	g := acquire(t, b, "k", claim(time.Minute))
	c := claim(time.Minute)
	wake, stop := mustWatch(t, b, "k", c)
	s.Do("config", "set", "maxmemory", "1")
	_, err := b.Acquire(ctx, "k2", claim(time.Minute))
	if !errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("acquire: %v, want ErrUnavailable: it can pass", err)
	}
	mustNotOpen(t, s.URL(), "out of memory")
	// who holds a lock keeps it, can free it, and wakes the next
	if _, err := b.Renew(ctx, g); err != nil {
		t.Errorf("renew: %v", err)
	}
	release(t, b, g)
	mustWake(t, "the waiter", wake)
	if _, err := b.Renew(ctx, g); !errors.Is(err, backend.ErrLost) {
		t.Errorf("renew after release: %v", err)
	}
	s.Do("config", "set", "maxmemory", "0")
	g2 := acquire(t, b, "k", c)
	stop(true)
	if g2.Token <= g.Token {
		t.Errorf("token %d after %d", g2.Token, g.Token)
	}
	s.Do("config", "set", "maxmemory", "1")
	if err := b.Break(ctx, "k", g2.Token); err != nil {
		t.Errorf("break: %v", err)
	}
	s.Do("config", "set", "maxmemory", "0")
	mustBeLost(t, "renew after break", func() error { _, err := b.Renew(ctx, g2); return err }())
	release(t, b, acquire(t, b, "k", claim(time.Minute)))
	if r, err := b.Inspect(ctx, "k2"); err != nil || r.State != backend.Free {
		t.Errorf("the refused acquire left %+v (%v)", r, err)
	}
}

func TestCorrupt(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	ctx := context.Background()
	for name, put := range map[string][]any{
		"text":   {"set", "hasp:{k}", "hello"},
		"empty":  {"set", "hasp:{k}", ""},
		"token":  {"set", "hasp:{k}", "99999999999999999999999 x"},
		"list":   {"rpush", "hasp:{k}", "a", "b"},
		"hash":   {"hset", "hasp:{k}", "a", "b"},
		"stream": {"xadd", "hasp:{k}", "1-1", "a", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			s.Do("del", "hasp:{k}")
			s.Do(put...)
			before := s.Do("dump", "hasp:{k}")
			g := backend.Grant{Key: "k", ID: "x", Token: 1, TTL: time.Minute}
			_, errAcquire := b.Acquire(ctx, "k", claim(time.Minute))
			_, errRenew := b.Renew(ctx, g)
			_, errInspect := b.Inspect(ctx, "k")
			for verb, err := range map[string]error{
				"acquire": errAcquire, "renew": errRenew, "inspect": errInspect,
				"release": b.Release(ctx, g), "break": b.Break(ctx, "k", 1), "raise": b.RaiseToken(ctx, "k", 1),
			} {
				if name == "token" && verb != "acquire" {
					continue
				}
				if !errors.Is(err, backend.ErrCorrupt) {
					t.Errorf("%s: %v", verb, err)
				}
			}
			if s.Do("dump", "hasp:{k}") != before {
				t.Error("it was changed")
			}
		})
	}
}

func TestClosed(t *testing.T) {
	s := redistest.Start(t, nil)
	b := open(t, s.URL())
	ctx := context.Background()
	g := acquire(t, b, "k", claim(time.Minute))
	_, stop, err := b.Watch(ctx, "k", claim(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, errAcquire := b.Acquire(ctx, "k", claim(time.Minute))
	_, errRenew := b.Renew(ctx, g)
	_, errInspect := b.Inspect(ctx, "k")
	_, errList := b.List(ctx, "")
	_, _, errWatch := b.Watch(ctx, "k", claim(time.Minute))
	for verb, err := range map[string]error{
		"acquire": errAcquire, "renew": errRenew, "inspect": errInspect, "list": errList, "watch": errWatch,
		"release": b.Release(ctx, g), "break": b.Break(ctx, "k", 1), "raise": b.RaiseToken(ctx, "k", 1),
		"renew all": b.RenewAll(ctx, []backend.Grant{g})[0].Err, "stop": stop(ctx, false),
	} {
		if !errors.Is(err, backend.ErrClosed) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	b.OnLoss(func(string, string) {})()
	if err := b.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	s := redistest.Start(t, nil)
	ctx := context.Background()
	for range 3 {
		a, b := open(t, s.URL()), open(t, s.URL())
		g := acquire(t, a, "k", claim(time.Minute))
		for range 5 {
			_, stop := mustWatch(t, b, "k", claim(time.Minute))
			stop(false)
		}
		cctx, cancel := context.WithCancel(ctx)
		cancel()
		if _, _, err := b.Watch(cctx, "k", claim(time.Minute)); err == nil {
			t.Error("watch with a cancelled context succeeded")
		}
		if n := len(s.Channels()); n != 2 {
			t.Errorf("%d subscriptions, want one per backend", n)
		}
		release(t, a, g)
		a.Close()
		b.Close()
	}
	eventually(t, "connections and subscriptions are gone", func() bool {
		return s.Connections() == 0 && len(s.Channels()) == 0
	})
	for _, k := range s.Keys() {
		if k != "hasp:{k}" || s.Do("pttl", k).(int64) <= 0 {
			t.Errorf("%s is left behind", k)
		}
	}
}
