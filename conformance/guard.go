package conformance

import (
	"context"
	"errors"
	"sync"

	"github.com/hasplock/hasp/backend"
)

// spawn is wg.Go for what calls the backend: a panic is the rule's and does not end
// the program.
func (x *trial) spawn(wg *sync.WaitGroup, f func()) {
	wg.Go(func() {
		defer x.recovered()
		f()
	})
}

// guarded is a backend for the engine, which makes calls from goroutines of its own. One
// that panics there is noted as what the trial saw, and its outcome is unknown.
type guarded struct {
	backend.Backend
	x *trial
}

var errPanicked = errors.New("the call panicked")

// panicked is deferred: it notes a panic and sets the call's error.
func (b guarded) panicked(err *error) {
	if v := recover(); v != nil {
		b.x.errorf("a call panicked: %v, %s", v, panicFrame())
		*err = backend.Unavailable(errPanicked)
	}
}

// Has implements backend.Selective.
func (b guarded) Has(c backend.Capability) bool { return backend.Has(b.Backend, c) }

// Prompt implements backend.Prompt.
func (b guarded) Prompt() bool { return backend.IsPrompt(b.Backend) }

// Punctual implements backend.Punctual.
func (b guarded) Punctual() bool { return backend.IsPunctual(b.Backend) }

// Repeats implements backend.Repeater.
func (b guarded) Repeats() bool { return backend.Repeats(b.Backend) }

// Warnings implements backend.Warner.
func (b guarded) Warnings() []string { return backend.Warnings(b.Backend) }

func (b guarded) Acquire(ctx context.Context, key string, c backend.Claim) (g backend.Grant, err error) {
	defer b.panicked(&err)
	return b.Backend.Acquire(ctx, key, c)
}

func (b guarded) Renew(ctx context.Context, g backend.Grant) (next backend.Grant, err error) {
	defer b.panicked(&err)
	return b.Backend.Renew(ctx, g)
}

func (b guarded) Release(ctx context.Context, g backend.Grant) (err error) {
	defer b.panicked(&err)
	return b.Backend.Release(ctx, g)
}

func (b guarded) Inspect(ctx context.Context, key string) (r backend.Record, err error) {
	defer b.panicked(&err)
	return b.Backend.Inspect(ctx, key)
}

func (b guarded) Watch(ctx context.Context, key string, c backend.Claim) (wake <-chan struct{}, stop func(context.Context, bool) error, err error) {
	defer b.panicked(&err)
	wake, inner, err := b.Backend.(backend.Watcher).Watch(ctx, key, c)
	if err != nil || inner == nil {
		return wake, inner, err
	}
	return wake, func(ctx context.Context, granted bool) (err error) {
		defer b.panicked(&err)
		return inner(ctx, granted)
	}, nil
}

func (b guarded) RenewAll(ctx context.Context, gs []backend.Grant) (rs []backend.Renewal) {
	var err error
	defer func() {
		if err == nil {
			return
		}
		rs = make([]backend.Renewal, len(gs))
		for i, g := range gs {
			rs[i] = backend.Renewal{Grant: g, Err: err}
		}
	}()
	defer b.panicked(&err)
	return b.Backend.(backend.BatchRenewer).RenewAll(ctx, gs)
}

func (b guarded) OnLoss(f func(key, id string)) func() {
	return b.Backend.(backend.LossNotifier).OnLoss(f)
}

func (b guarded) Break(ctx context.Context, key string, token uint64) (err error) {
	defer b.panicked(&err)
	return backend.Break(ctx, b.Backend, key, token)
}

func (b guarded) List(ctx context.Context, prefix string) (rs []backend.Record, err error) {
	defer b.panicked(&err)
	return backend.List(ctx, b.Backend, prefix)
}

func (b guarded) RaiseToken(ctx context.Context, key string, floor uint64) (err error) {
	defer b.panicked(&err)
	return backend.RaiseToken(ctx, b.Backend, key, floor)
}

func (b guarded) Value(ctx context.Context, key string) (v backend.Value, err error) {
	defer b.panicked(&err)
	return backend.ReadValue(ctx, b.Backend, key)
}

func (b guarded) SetValue(ctx context.Context, g backend.Grant, v backend.Value) (next backend.Grant, err error) {
	defer b.panicked(&err)
	return backend.SetValue(ctx, b.Backend, g, v)
}

func (b guarded) ListValues(ctx context.Context, prefix string) (vs []backend.KeyValue, err error) {
	defer b.panicked(&err)
	return backend.ListValues(ctx, b.Backend, prefix)
}
