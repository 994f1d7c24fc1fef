package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/hasplock/hasp/backend"
)

// Options say which migration this process takes part in, and how.
type Options struct {
	// Name is the migration's: 1 to 24 of A-Z, a-z, 0-9, - and _.
	Name string
	// Phase is this process's. Without one the backend can look and take steps, and
	// every Acquire fails.
	Phase Phase
	// OldName and NewName are what the stores are called in messages and in the record,
	// such as their URLs without passwords.
	OldName, NewName string
}

// Backend takes locks in one or both of two stores. It implements backend.Backend and
// every optional interface; which of those that depend on the stores it really has,
// backend.Capabilities tells: it is backend.Selective.
type Backend struct {
	name   string
	phase  Phase
	sides  [2]*store // old, new
	legs   []*store  // those that the phase takes, in order
	claims claims
	lead   lead

	floor atomic.Uint64 // the highest floor that a record has told
	peer  peer
	seen  seen

	life   context.Context
	end    context.CancelFunc
	tasks  sync.WaitGroup // what tells of this process, and calls that hang
	closed atomic.Bool
}

// store is one of the two.
type store struct {
	side Side
	name string
	b    backend.Backend
}

var (
	_ backend.Backend      = (*Backend)(nil)
	_ backend.Selective    = (*Backend)(nil)
	_ backend.Watcher      = (*Backend)(nil)
	_ backend.Breaker      = (*Backend)(nil)
	_ backend.Lister       = (*Backend)(nil)
	_ backend.Clearer      = (*Backend)(nil)
	_ backend.BatchRenewer = (*Backend)(nil)
	_ backend.LossNotifier = (*Backend)(nil)
	_ backend.TokenRaiser  = (*Backend)(nil)
	_ backend.ValueStore   = (*Backend)(nil)
	_ backend.Prompt       = (*Backend)(nil)
	_ backend.Repeater     = (*Backend)(nil)
	_ backend.Punctual     = (*Backend)(nil)
	_ backend.Warner       = (*Backend)(nil)
)

// New makes a Backend of two others, which it closes when it is closed. It asks
// nothing of the stores: what is wrong with the migration the first Acquire tells.
func New(old, new backend.Backend, o *Options) (*Backend, error) {
	if o == nil {
		o = &Options{}
	}
	if err := checkName(o.Name); err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	if o.Phase != "" {
		if _, err := ParsePhase(string(o.Phase)); err != nil {
			return nil, fmt.Errorf("migrate: %w", err)
		}
	}
	b := &Backend{name: o.Name, phase: o.Phase, peer: peer{turn: make(chan struct{}, 1)}}
	for i, s := range []*store{{SideOld, o.OldName, old}, {SideNew, o.NewName, new}} {
		if s.b == nil {
			return nil, fmt.Errorf("migrate: the %s store is nil", s.side)
		}
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("migrate: %w", err)
		}
		if s.name == "" {
			s.name = "the " + string(s.side) + " store"
		}
		b.sides[i] = s
	}
	for _, side := range b.phase.takes() {
		b.legs = append(b.legs, b.store(side))
	}
	b.life, b.end = context.WithCancel(context.Background())
	return b, nil
}

// check refuses a store that cannot take part.
func (s *store) check() error {
	if _, late := s.b.(*lateStore); late {
		return nil // it is looked at when it is opened
	}
	var lacks []string
	for _, c := range []backend.Capability{backend.CapList, backend.CapRaiseToken, backend.CapValues} {
		if !backend.Has(s.b, c) {
			lacks = append(lacks, string(c))
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("the %s store cannot take part: %w: it lacks %s", s.side, backend.ErrUnsupported, strings.Join(lacks, ", "))
	}
	return nil
}

// Name returns the migration's name.
func (b *Backend) Name() string { return b.name }

// Phase returns this process's phase.
func (b *Backend) Phase() Phase { return b.phase }

func (b *Backend) store(s Side) *store {
	if s == SideOld {
		return b.sides[0]
	}
	return b.sides[1]
}

// Has implements backend.Selective: what every store that this phase takes can do. What
// clears is for each store by itself.
func (b *Backend) Has(c backend.Capability) bool {
	n := 0
	for _, s := range b.legs {
		if backend.Has(s.b, c) {
			n++
		}
	}
	if c == backend.CapClear {
		return n > 0
	}
	return n == len(b.legs)
}

// Prompt implements backend.Prompt: if every store that this phase takes is prompt. The
// other one is only ever asked beside the caller.
func (b *Backend) Prompt() bool {
	for _, s := range b.legs {
		if !backend.IsPrompt(s.b) {
			return false
		}
	}
	return true
}

// Punctual implements backend.Punctual.
func (b *Backend) Punctual() bool {
	for _, s := range b.legs {
		if !backend.IsPunctual(s.b) && !backend.IsPrompt(s.b) {
			return false
		}
	}
	return true
}

// Repeats implements backend.Repeater.
func (b *Backend) Repeats() bool {
	return slices.ContainsFunc(b.legs, func(s *store) bool { return backend.Repeats(s.b) })
}

// Warnings implements backend.Warner.
func (b *Backend) Warnings() []string {
	var all []string
	for _, s := range b.sides {
		for _, w := range backend.Warnings(s.b) {
			all = append(all, string(s.side)+" store: "+w)
		}
	}
	return all
}

// Close closes both stores.
func (b *Backend) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	b.end()
	b.tasks.Wait()
	var errs *multierror.Error
	for _, s := range b.sides {
		if err := s.b.Close(); err != nil {
			errs = multierror.Append(errs, sided(s.side, err))
		}
	}
	return errs.ErrorOrNil()
}

// begin refuses what cannot be done with any store.
func (b *Backend) begin(key string) error {
	if b.closed.Load() {
		return backend.ErrClosed
	}
	if err := backend.ValidateKey(key); err != nil {
		return err
	}
	if isReserved(key) {
		return fmt.Errorf("%w: keys that begin with %q are kept for the migration", backend.ErrInvalidKey, RecordKey)
	}
	if len(b.legs) == 0 {
		return &PhaseError{b.name, "none", SideOld, "no phase is configured", "give phase=old, both or new"}
	}
	return nil
}

func isReserved(key string) bool { return strings.HasPrefix(key, RecordKey) }

// each calls f for every leg at once and returns when all have answered.
func each(legs []*store, f func(i int, s *store)) {
	if len(legs) == 1 {
		f(0, legs[0])
		return
	}
	var wg sync.WaitGroup
	for i, s := range legs[1:] {
		wg.Go(func() { f(i+1, s) })
	}
	f(0, legs[0])
	wg.Wait()
}

// joined makes one error of those of several stores: it matches what each of them
// matches, and its text has them all.
func joined(errs ...error) error {
	var all *multierror.Error
	for _, err := range errs {
		if err != nil {
			all = multierror.Append(all, err)
		}
	}
	switch {
	case all == nil:
		return nil
	case len(all.Errors) == 1:
		return all.Errors[0]
	}
	all.ErrorFormat = func(errs []error) string {
		texts := make([]string, len(errs))
		for i, err := range errs {
			texts[i] = backend.Text(err)
		}
		return strings.Join(texts, "; ")
	}
	return all
}

// isUnknown tells whether a store may have acted despite err.
func isUnknown(err error) bool {
	return errors.Is(err, backend.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// beside calls f in a goroutine of its own, for a store that this phase does not take:
// that one may be about to go away, and hang. It returns soon after ctx has ended.
func beside[T any](ctx context.Context, b *Backend, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	go func() {
		v, err := f(ctx)
		ch <- result{v, err}
	}()
	var none T
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(10 * time.Millisecond)
	defer grace.Stop()
	select {
	case r := <-ch: // it may know more than that the context has ended
		return r.v, r.err
	case <-grace.C:
		return none, backend.Unavailable(context.Cause(ctx))
	}
}
