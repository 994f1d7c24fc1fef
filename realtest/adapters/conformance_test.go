package adapters_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/realtest/adapters"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/redistest"
)

func TestMain(m *testing.M) { conformance.Main(m, open) }

// open is also what worker processes do.
func open(_ context.Context, url string) (backend.Backend, error) {
	kind, addr, _ := strings.Cut(url, "://")
	switch kind {
	case "bsm":
		return adapters.OpenRedis(addr), nil
	case "mutex":
		return adapters.OpenEtcd("http://" + addr)
	}
	return nil, fmt.Errorf("adapters: no library is called %q", kind)
}

// lacks are the capabilities that neither library has.
func lacks(more map[string]string) map[string]string {
	m := map[string]string{
		"watch":       "the library waits by itself, and hasp's engine is to",
		"break":       "the library frees a lock only for its holder",
		"list":        "the library does not list locks",
		"batch-renew": "the library renews one lock at a time",
		"loss-notify": "the library does not tell which lock was lost",
		"raise-token": "the library's numbers cannot be raised",
		"values":      "the library keeps no values",
	}
	maps.Copy(m, more)
	return m
}

// opener opens clients that can be cut off from the server at addr.
func opener(t *testing.T, kind, addr string) (func(context.Context) (backend.Backend, error), func(context.Context, backend.Backend) (func() error, error)) {
	openClient := func(ctx context.Context) (backend.Backend, error) {
		p := redistest.StartProxy(t, addr)
		b, err := open(ctx, kind+"://"+p.Addr())
		if err != nil {
			p.Close()
			return nil, err
		}
		return &proxied{b, p}, nil
	}
	partition := func(_ context.Context, b backend.Backend) (func() error, error) {
		p := b.(*proxied).proxy
		p.Cut()
		return func() error { p.Heal(); return nil }, nil
	}
	return openClient, partition
}

// proxied is a client that can be cut off.
type proxied struct {
	backend.Backend
	proxy *redistest.Proxy
}

func (p *proxied) Close() error {
	err := p.Backend.Close()
	p.proxy.Close()
	return err
}

func TestRedislock(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, &redistest.Options{Persist: true})
	cfg := conformance.Config{
		Name: "bsm/redislock", URL: "bsm://" + s.Addr(),
		Restart: func(context.Context) error { s.Restart(); return nil },
		Wipe:    func(context.Context) error { s.Wipe(); return nil },
		Leftovers: func(context.Context) ([]string, error) {
			return s.Keys(), nil
		},
		Lacks: lacks(nil),
	}
	cfg.Open, cfg.Partition = opener(t, "bsm", s.Addr())
	check(t, cfg, []string{
		"acquire-repeatable",  // tokens do not rise
		"grant-without-state", // Refresh needs the Lock
		"history-processes",   // tokens do not rise
		"release-idempotent",  // ErrLockNotHeld
		"restart-recovers",    // tokens do not rise
		"token-after-expiry",
		"token-after-reopen",
		"token-rises",
		"wipe-token",
	})
}

func TestMutex(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, nil)
	client := s.Client()
	cfg := conformance.Config{
		Name: "concurrency.Mutex", URL: "mutex://" + s.Addr(),
		// It is rounded up to 2 s, which is also the least that the server grants. It looks
		// for expired leases twice a second.
		MinTTL:  1500 * time.Millisecond,
		Slack:   2 * time.Second,
		Restart: func(context.Context) error { s.Restart(); return nil },
		Wipe:    func(context.Context) error { s.Wipe(); return nil },
		Leftovers: func(ctx context.Context) ([]string, error) {
			keys, _, err := etcdtest.Left(ctx, client)
			return keys, err
		},
		Lacks: lacks(nil),
	}
	cfg.Open, cfg.Partition = opener(t, "mutex", s.Addr())
	check(t, cfg, []string{
		"keys-nested", // a Mutex looks at all keys that start with its name and a slash
		"token-floor", // a revision cannot be raised
		"wipe-token",  // and begins anew in an empty server
	})
}

// check runs the suite and compares which rules failed with what is known, and with what
// docs/adapters.md says of the library.
func check(t *testing.T, cfg conformance.Config, want []string) {
	if told := inDocs(t, cfg.Name); !slices.Equal(told, want) {
		t.Errorf("docs/adapters.md has the rules\n%q\nand not\n%q", told, want)
	}
	rep, err := conformance.Check(t.Context(), cfg)
	if len(rep.Results) == 0 {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := rep.WriteTable(&table); err != nil {
		t.Error(err)
	}
	t.Log("\n" + table.String())
	var failed []string
	for _, r := range rep.Results {
		if r.Outcome == conformance.Failed {
			failed = append(failed, r.Rule)
		}
	}
	slices.Sort(failed)
	if !slices.Equal(failed, want) {
		t.Errorf("failed:\n%q\nand expected were:\n%q", failed, want)
	}
}

// inDocs are the rules in the table that docs/adapters.md has under a heading.
func inDocs(t *testing.T, heading string) []string {
	page, err := os.ReadFile("../../docs/adapters.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var rules []string
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, word := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				rules = append(rules, word)
			}
		}
	}
	slices.Sort(rules)
	return rules
}
