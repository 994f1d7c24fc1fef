package backend

import "context"

// Capability names an optional interface.
type Capability string

// The capabilities, in the order of the package comment.
const (
	CapWatch      Capability = "watch"
	CapBreak      Capability = "break"
	CapList       Capability = "list"
	CapBatchRenew Capability = "batch-renew"
	CapLossNotify Capability = "loss-notify"
	CapRaiseToken Capability = "raise-token"
)

// Capabilities lists what b can do beyond the required methods.
func Capabilities(b Backend) []Capability {
	var cs []Capability
	add := func(has bool, c Capability) {
		if has {
			cs = append(cs, c)
		}
	}
	_, ok := b.(Watcher)
	add(ok, CapWatch)
	_, ok = b.(Breaker)
	add(ok, CapBreak)
	_, ok = b.(Lister)
	add(ok, CapList)
	_, ok = b.(BatchRenewer)
	add(ok, CapBatchRenew)
	_, ok = b.(LossNotifier)
	add(ok, CapLossNotify)
	_, ok = b.(TokenRaiser)
	add(ok, CapRaiseToken)
	return cs
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

// RaiseToken calls b's RaiseToken, or returns ErrUnsupported.
func RaiseToken(ctx context.Context, b Backend, key string, floor uint64) error {
	if r, ok := b.(TokenRaiser); ok {
		return r.RaiseToken(ctx, key, floor)
	}
	return ErrUnsupported
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

// Warnings calls b's Warnings, or returns nil.
func Warnings(b Backend) []string {
	if w, ok := b.(Warner); ok {
		return w.Warnings()
	}
	return nil
}
