package backend

import "context"

// Capability names an optional interface that lets users do something more.
type Capability string

// The capabilities, in the order of the package comment.
const (
	CapWatch      Capability = "watch"
	CapBreak      Capability = "break"
	CapList       Capability = "list"
	CapBatchRenew Capability = "batch-renew"
	CapLossNotify Capability = "loss-notify"
	CapRaiseToken Capability = "raise-token"
	CapValues     Capability = "values"
	CapClear      Capability = "clear"
	CapSeal       Capability = "seal"
)

// Selective is for backends that are made of others, and have methods for more than
// those they are made of can do: an interface is there for all values of a Go type or
// for none. A capability is had if its interface is implemented and Has agrees.
type Selective interface {
	// Has tells whether the methods of capability c do something. It is asked only
	// for those that are implemented, and its answer never changes.
	Has(c Capability) bool
}

// Capabilities lists what b can do beyond the required methods. Prompt, Punctual,
// Repeater and Warner are left out: they change how the engine calls b, and what it is told.
func Capabilities(b Backend) []Capability {
	var cs []Capability
	for _, c := range []Capability{CapWatch, CapBreak, CapList, CapBatchRenew, CapLossNotify, CapRaiseToken, CapValues, CapClear, CapSeal} {
		if Has(b, c) {
			cs = append(cs, c)
		}
	}
	return cs
}

// Has tells whether b has a capability.
func Has(b Backend, c Capability) bool {
	var ok bool
	switch c {
	case CapWatch:
		_, ok = b.(Watcher)
	case CapBreak:
		_, ok = b.(Breaker)
	case CapList:
		_, ok = b.(Lister)
	case CapBatchRenew:
		_, ok = b.(BatchRenewer)
	case CapLossNotify:
		_, ok = b.(LossNotifier)
	case CapRaiseToken:
		_, ok = b.(TokenRaiser)
	case CapValues:
		_, ok = b.(ValueStore)
	case CapClear:
		_, ok = b.(Clearer)
	case CapSeal:
		_, ok = b.(Sealer)
	}
	if s, selects := b.(Selective); ok && selects {
		return s.Has(c)
	}
	return ok
}

// AsWatcher returns b's Watcher, if it has that capability.
func AsWatcher(b Backend) (Watcher, bool) {
	if !Has(b, CapWatch) {
		return nil, false
	}
	return b.(Watcher), true
}

// AsBatchRenewer returns b's BatchRenewer, if it has that capability.
func AsBatchRenewer(b Backend) (BatchRenewer, bool) {
	if !Has(b, CapBatchRenew) {
		return nil, false
	}
	return b.(BatchRenewer), true
}

// AsLossNotifier returns b's LossNotifier, if it has that capability.
func AsLossNotifier(b Backend) (LossNotifier, bool) {
	if !Has(b, CapLossNotify) {
		return nil, false
	}
	return b.(LossNotifier), true
}

// Break calls b's Break, or returns ErrUnsupported.
func Break(ctx context.Context, b Backend, key string, token uint64) error {
	if br, ok := b.(Breaker); ok {
		return br.Break(ctx, key, token)
	}
	return ErrUnsupported
}

// List calls b's List, or returns ErrUnsupported.
func List(ctx context.Context, b Backend, prefix string) ([]Record, error) {
	if l, ok := b.(Lister); ok {
		return l.List(ctx, prefix)
	}
	return nil, ErrUnsupported
}

// Clear calls b's Clear, or returns ErrUnsupported.
func Clear(ctx context.Context, b Backend, prefix string, stale bool) ([]Record, error) {
	if c, ok := b.(Clearer); ok {
		return c.Clear(ctx, prefix, stale)
	}
	return nil, ErrUnsupported
}

// Seal calls b's Seal, or returns ErrUnsupported.
func Seal(ctx context.Context, b Backend, key, to string) error {
	if s, ok := b.(Sealer); ok {
		return s.Seal(ctx, key, to)
	}
	return ErrUnsupported
}

// Unseal calls b's Unseal, or returns ErrUnsupported.
func Unseal(ctx context.Context, b Backend, key string) error {
	if s, ok := b.(Sealer); ok {
		return s.Unseal(ctx, key)
	}
	return ErrUnsupported
}

// SealAll calls b's SealAll, or returns ErrUnsupported.
func SealAll(ctx context.Context, b Backend, prefix, to string, skip func(key string) bool) ([]Sealing, error) {
	if s, ok := b.(Sealer); ok {
		return s.SealAll(ctx, prefix, to, skip)
	}
	return nil, ErrUnsupported
}

// UnsealAll calls b's UnsealAll, or returns ErrUnsupported.
func UnsealAll(ctx context.Context, b Backend, prefix string) ([]Sealing, error) {
	if s, ok := b.(Sealer); ok {
		return s.UnsealAll(ctx, prefix)
	}
	return nil, ErrUnsupported
}

// RaiseToken calls b's RaiseToken, or returns ErrUnsupported.
func RaiseToken(ctx context.Context, b Backend, key string, floor uint64) error {
	if r, ok := b.(TokenRaiser); ok {
		return r.RaiseToken(ctx, key, floor)
	}
	return ErrUnsupported
}

// ReadValue calls b's Value, or returns ErrUnsupported.
func ReadValue(ctx context.Context, b Backend, key string) (Value, error) {
	if v, ok := b.(ValueStore); ok {
		return v.Value(ctx, key)
	}
	return Value{}, ErrUnsupported
}

// SetValue calls b's SetValue, or returns ErrUnsupported.
func SetValue(ctx context.Context, b Backend, g Grant, v Value) (Grant, error) {
	if s, ok := b.(ValueStore); ok {
		return s.SetValue(ctx, g, v)
	}
	return g, ErrUnsupported
}

// ListValues calls b's ListValues, or returns ErrUnsupported.
func ListValues(ctx context.Context, b Backend, prefix string) ([]KeyValue, error) {
	if v, ok := b.(ValueStore); ok {
		return v.ListValues(ctx, prefix)
	}
	return nil, ErrUnsupported
}

// IsPrompt calls b's Prompt, or returns false.
func IsPrompt(b Backend) bool {
	p, ok := b.(Prompt)
	return ok && p.Prompt()
}

// IsPunctual calls b's Punctual, or returns false.
func IsPunctual(b Backend) bool {
	p, ok := b.(Punctual)
	return ok && p.Punctual()
}

// Repeats calls b's Repeats, or returns false.
func Repeats(b Backend) bool {
	r, ok := b.(Repeater)
	return ok && r.Repeats()
}

// Warnings calls b's Warnings, or returns nil.
func Warnings(b Backend) []string {
	if w, ok := b.(Warner); ok {
		return w.Warnings()
	}
	return nil
}
