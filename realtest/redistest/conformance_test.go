package redistest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/realtest/redistest"
	"github.com/hasplock/hasp/redislock"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	testConformance(t, "redis", redistest.Options{Persist: true})
}

func TestConformanceValkey(t *testing.T) {
	t.Parallel()
	testConformance(t, "valkey", redistest.Options{Persist: true, Program: "valkey-server"})
}

func testConformance(t *testing.T, name string, o redistest.Options) {
	s := redistest.Start(t, &o)
	conformance.Run(t, conformance.Config{
		Name: name,
		URL:  s.URL(),
		Fair: true,
		Open: func(ctx context.Context) (backend.Backend, error) {
			p := redistest.StartProxy(t, s.Addr())
			b, err := backend.Open(ctx, "redis://"+p.Addr())
			if err != nil {
				p.Close()
				return nil, err
			}
			return &proxied{b.(*redislock.Backend), p}, nil
		},
		Partition: func(_ context.Context, b backend.Backend) (func() error, error) {
			p := b.(*proxied).proxy
			p.Cut()
			return func() error { p.Heal(); return nil }, nil
		},
		Restart: func(context.Context) error { s.Restart(); return nil },
		Wipe:    func(context.Context) error { s.Wipe(); return nil },
		Leftovers: func(context.Context) ([]string, error) {
			return leftovers(s.Keys(), s), nil
		},
	})
}

func TestConformanceCluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	conformance.Run(t, conformance.Config{
		Name: "redis cluster",
		URL:  c.URL(),
		Fair: true,
		// Each client dials each node anew, and a machine that is short of processors
		// answers that late: seen to take a second.
		MinTTL: 1500 * time.Millisecond,
		Wipe:   func(context.Context) error { c.Wipe(); return nil },
		Leftovers: func(context.Context) ([]string, error) {
			var out []string
			for _, s := range c.Nodes {
				out = append(out, leftovers(s.Keys(), s)...)
			}
			return out, nil
		},
	})
}

// proxied is a client that can be cut off.
type proxied struct {
	*redislock.Backend
	proxy *redistest.Proxy
}

func (p *proxied) Close() error {
	err := p.Backend.Close()
	p.proxy.Close()
	return err
}

// leftovers are the keys that are no free lock's memory, nor a value, nor a withdrawal's
// mark for a minute, and subscriptions.
func leftovers(keys []string, s *redistest.Server) []string {
	var out []string
	for _, k := range keys {
		if strings.HasSuffix(k, "}:value") {
			continue
		}
		if strings.Contains(k, "}:withdrawn:") {
			if ms, ok := s.Do("pttl", k).(int64); ok && ms != -1 && ms <= 60000 {
				continue
			}
		}
		v, ok := "", strings.HasSuffix(k, "}")
		if ok {
			v = fmt.Sprint(s.Do("get", k))
		}
		if !ok || len(strings.Fields(v)) > 2 {
			out = append(out, k+" = "+v)
		}
	}
	for _, ch := range s.Channels() {
		out = append(out, "a subscription to "+ch)
	}
	return out
}
