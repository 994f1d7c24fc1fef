package migratetest

import (
	"context"
	"flag"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	_ "github.com/hasplock/hasp/efs"
	_ "github.com/hasplock/hasp/etcdlock"
	_ "github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
	"github.com/hasplock/hasp/realtest/etcdtest"
	"github.com/hasplock/hasp/realtest/redistest"
	_ "github.com/hasplock/hasp/redislock"
)

func TestMain(m *testing.M) {
	conformance.WorkerMain()
	flag.Parse()
	_ = flag.Set("test.parallel", "6") // they wait more than they compute
	os.Exit(m.Run())
}

// kind is a kind of store that a migration can lead from and to.
type kind struct {
	name   string
	minTTL time.Duration
	slack  time.Duration
	lacks  map[string]string
	// share is one server for all stores of this kind: each store is a part of it.
	share func(t testing.TB) func(t testing.TB, part string) store
}

// store is what a migration uses.
type store struct{ url string }

var kinds = []*kind{
	{name: "efs", minTTL: 500 * time.Millisecond, slack: time.Second,
		lacks: map[string]string{
			string(backend.CapBatchRenew): "a directory has no request for several renewals",
			string(backend.CapLossNotify): "a file server does not tell its clients of changes",
			"keys-nested":                 "a key is also a path: the guard of a is in the way of the directory for a/b",
		},
		share: func(t testing.TB) func(testing.TB, string) store {
			return func(t testing.TB, part string) store {
				return store{"efs://" + t.TempDir()}
			}
		}},
	{name: "redis", minTTL: 500 * time.Millisecond, slack: time.Second,
		share: func(t testing.TB) func(testing.TB, string) store {
			s := redistest.Start(t, &redistest.Options{Binary: true})
			return func(t testing.TB, part string) store { return store{url: s.URL() + "?prefix=" + part + ":"} }
		}},
	{name: "etcd", minTTL: 2 * time.Second, slack: 3 * time.Second,
		share: func(t testing.TB) func(testing.TB, string) store {
			s := etcdtest.Start(t, nil)
			return func(t testing.TB, part string) store { return store{url: s.URL("/" + part)} }
		}},
	{name: "mem", minTTL: 500 * time.Millisecond, slack: time.Second,
		lacks: map[string]string{conformance.Processes: "memory of one process"},
		share: func(t testing.TB) func(testing.TB, string) store {
			return func(t testing.TB, part string) store { return store{url: "mem:///" + part} }
		}},
}

// lab starts the servers once, for all the tests of a run.
type lab struct {
	mu    sync.Mutex
	parts map[*kind]func(testing.TB, string) store
}

// start starts what the kinds need, for as long as t lasts.
func start(t testing.TB) *lab {
	l := &lab{parts: map[*kind]func(testing.TB, string) store{}}
	for _, k := range kinds {
		l.parts[k] = k.share(t)
	}
	return l
}

func (l *lab) store(t testing.TB, k *kind, part string) store {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.parts[k](t, part)
}

// begin takes a migration to a stage.
func begin(old, new string, stage migrate.Stage, ttl time.Duration) error {
	b, err := backend.Open(context.Background(), migrate.URL("sweeps", "", old, new))
	if err != nil {
		return err
	}
	defer b.Close()
	op := b.(*migrate.Backend)
	step, err := op.Start(context.Background(), &migrate.StartOptions{MaxTTL: ttl})
	for err == nil && step.To != stage {
		step, err = op.Advance(context.Background(), &migrate.StepOptions{LegacyGone: true})
	}
	return err
}
