package etcdtest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/etcdlock"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/redistest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// config is what the suite is told of etcdlock on servers that url names and
// client looks at.
func config(name, url string, client *clientv3.Client) conformance.Config {
	return conformance.Config{
		Name: name,
		URL:  url,
		Fair: true,
		// Leases have whole seconds, and live one longer than the locks on them;
		// etcd looks for expired ones twice a second.
		MinTTL: 2 * time.Second,
		Slack:  3 * time.Second,
		Leftovers: func(ctx context.Context) ([]string, error) {
			// A lease without keys is not counted: the rules have clients that are
			// closed, or killed, with a lock that somebody else then frees, and such
			// a lease ends with its TTL. TestVerbs counts them.
			keys, _, err := etcdtest.Left(ctx, client)
			var out []string
			for _, k := range keys {
				// the base of all tokens, and of keys with a floor beyond the clock; values
				if !strings.HasPrefix(k, etcdlock.DefaultPrefix+"token-base") && !strings.HasPrefix(k, etcdlock.DefaultPrefix+"value/") {
					out = append(out, fmt.Sprintf("key %q", k))
				}
			}
			return out, err
		},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t, nil)
	cfg := config("etcd", srv.URL(""), srv.Client())
	cfg.Open = func(ctx context.Context) (backend.Backend, error) {
		p := redistest.StartProxy(t, srv.Addr())
		b, err := backend.Open(ctx, "etcd://"+p.Addr())
		if err != nil {
			p.Close()
			return nil, err
		}
		return &proxied{b.(*etcdlock.Backend), p}, nil
	}
	cfg.Partition = func(_ context.Context, b backend.Backend) (func() error, error) {
		p := b.(*proxied).proxy
		p.Cut()
		return func() error { p.Heal(); return nil }, nil
	}
	cfg.Restart = func(context.Context) error { srv.Restart(); return nil }
	cfg.Wipe = func(context.Context) error { srv.Wipe(); return nil }
	conformance.Run(t, cfg)
}

func TestConformanceCluster(t *testing.T) {
	t.Parallel()
	cl := etcdtest.StartCluster(t, 3, nil)
	cfg := config("etcd cluster", cl.URL(""), cl.Client())
	cfg.Restart = func(context.Context) error { cl.Restart(); return nil }
	cfg.Wipe = func(context.Context) error { cl.Wipe(); return nil }
	conformance.Run(t, cfg)
}

// proxied is a client that can be cut off.
type proxied struct {
	*etcdlock.Backend
	proxy *redistest.Proxy
}

func (p *proxied) Close() error {
	err := p.Backend.Close()
	p.proxy.Close()
	return err
}

// The oldest etcd that is supported.
func TestConformanceContainer(t *testing.T) {
	t.Parallel()
	if err := etcdtest.HasImage(); err != nil {
		t.Skip(err)
	}
	addr := etcdtest.StartContainer(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // looked at until the end
	conformance.Run(t, config("etcd 3.4", "etcd://"+addr+"/", client))
}
