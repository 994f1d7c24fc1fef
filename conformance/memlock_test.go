package conformance_test

import (
	"context"
	"testing"
	"time"

	"github.com/hasplock/hasp/backend"
	"github.com/hasplock/hasp/conformance"
	"github.com/hasplock/hasp/memlock"
)

func TestMemlock(t *testing.T) {
	store := memlock.New()
	conformance.Run(t, conformance.Config{
		Name:   "memlock",
		Open:   func(context.Context) (backend.Backend, error) { return store.Client(), nil },
		MinTTL: 300 * time.Millisecond,
		Lacks:  map[string]string{conformance.Processes: "memory of one process"},
		Partition: func(_ context.Context, b backend.Backend) (func() error, error) {
			b.(*memlock.Client).Partition(true)
			return func() error { b.(*memlock.Client).Partition(false); return nil }, nil
		},
		Wipe: func(context.Context) error { store.Wipe(); return nil },
	})
}
