package migrate_test

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/memlock"
	"github.com/hasplock/hasp/migrate"
)

// lab is two stores and a migration between them.
type lab struct {
	t        testing.TB
	old, new *memlock.Store
}

func newLab(t testing.TB) *lab { return &lab{t, memlock.New(), memlock.New()} }

// client is a process of phase p.
func (l *lab) client(p migrate.Phase) *migrate.Backend {
	l.t.Helper()
	b, err := migrate.New(l.old.Client(), l.new.Client(), &migrate.Options{Name: "sweeps", Phase: p})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = b.Close() })
	return b
}

// begun is a lab whose migration has come to a stage.
func begun(t testing.TB, stage migrate.Stage) *lab {
	t.Helper()
	l := newLab(t)
	if err := l.begin(stage, time.Minute); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) begin(stage migrate.Stage, ttl time.Duration) error {
	op, err := migrate.New(l.old.Client(), l.new.Client(), &migrate.Options{Name: "sweeps"})
	if err != nil {
		return err
	}
	defer op.Close()
	step, err := op.Start(context.Background(), &migrate.StartOptions{MaxTTL: ttl})
	for err == nil && step.To != stage {
		step, err = op.Advance(context.Background(), nil)
	}
	return err
}

// operator is a client without a phase.
func (l *lab) operator() *migrate.Backend { return l.client("") }

func claim(who string) backend.Claim {
	return backend.Claim{ID: rand.Text(), Holder: backend.Holder{Owner: who, Host: "host-" + who, PID: 7}, TTL: 10 * time.Second}
}

func mustTake(t testing.TB, b backend.Backend, key, who string) backend.Grant {
	t.Helper()
	g, err := b.Acquire(context.Background(), key, claim(who))
	if err != nil {
		t.Fatalf("%s: %v", who, err)
	}
	return g
}

func mustRelease(t testing.TB, b backend.Backend, g backend.Grant) {
	t.Helper()
	if err := b.Release(context.Background(), g); err != nil {
		t.Fatalf("release: %v", err)
	}
}

// mustStep takes a step that has to succeed.
func mustStep(t testing.TB, step func(context.Context, *migrate.StepOptions) (migrate.Step, error), to migrate.Stage) migrate.Step {
	t.Helper()
	s, err := step(context.Background(), nil)
	if err != nil {
		t.Fatalf("the step to %s: %v", to, err)
	}
	if s.To != to {
		t.Fatalf("the step led to %s, want %s", s.To, to)
	}
	return s
}

// mustFree looks into a store itself.
func mustState(t testing.TB, s *memlock.Store, key string, want backend.State) backend.Record {
	t.Helper()
	r, err := s.Client().Inspect(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if r.State != want {
		t.Errorf("%q is %s, want %s", key, r, want)
	}
	return r
}

// mortal is an operator's two clients. The process is killed at its n-th request, which
// is executed or not; nothing that it asks for after that reaches a store.
type mortal struct {
	old, new *mortalClient
	die      func()

	mu   sync.Mutex
	left int
	exec bool
}

type mortalClient struct {
	*memlock.Client
	m *mortal
}

func newMortal(l *lab, n int, exec bool) *mortal {
	m := &mortal{left: n, exec: exec}
	m.old, m.new = &mortalClient{l.old.Client(), m}, &mortalClient{l.new.Client(), m}
	return m
}

func (m *mortal) dead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left <= 0
}

// request counts one, and tells whether it is executed and whether its answer is heard.
func (m *mortal) request() (exec, heard bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left--
	if m.left == 0 && m.die != nil {
		m.die()
	}
	return m.left > 0 || m.left == 0 && m.exec, m.left > 0
}

var errKilled = backend.Unavailable(errors.New("killed"))

func mortally[T any](m *mortal, f func() (T, error)) (v T, err error) {
	exec, heard := m.request()
	if exec {
		v, err = f()
	}
	if !heard {
		var none T
		return none, errKilled
	}
	return v, err
}

func (c *mortalClient) Acquire(ctx context.Context, key string, cl backend.Claim) (backend.Grant, error) {
	return mortally(c.m, func() (backend.Grant, error) { return c.Client.Acquire(context.WithoutCancel(ctx), key, cl) })
}
func (c *mortalClient) Renew(ctx context.Context, g backend.Grant) (backend.Grant, error) {
	return mortally(c.m, func() (backend.Grant, error) { return c.Client.Renew(context.WithoutCancel(ctx), g) })
}
func (c *mortalClient) Release(ctx context.Context, g backend.Grant) error {
	_, err := mortally(c.m, func() (struct{}, error) { return struct{}{}, c.Client.Release(context.WithoutCancel(ctx), g) })
	return err
}
func (c *mortalClient) List(ctx context.Context, prefix string) ([]backend.Record, error) {
	return mortally(c.m, func() ([]backend.Record, error) { return c.Client.List(context.WithoutCancel(ctx), prefix) })
}
func (c *mortalClient) Value(ctx context.Context, key string) (backend.Value, error) {
	return mortally(c.m, func() (backend.Value, error) { return c.Client.Value(context.WithoutCancel(ctx), key) })
}
func (c *mortalClient) ListValues(ctx context.Context, prefix string) ([]backend.KeyValue, error) {
	return mortally(c.m, func() ([]backend.KeyValue, error) { return c.Client.ListValues(context.WithoutCancel(ctx), prefix) })
}
func (c *mortalClient) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (backend.Grant, error) {
	return mortally(c.m, func() (backend.Grant, error) { return c.Client.SetValue(context.WithoutCancel(ctx), g, v) })
}
