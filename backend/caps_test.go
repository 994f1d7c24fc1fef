package backend_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hasplock/hasp/backend"
)

// Backends that lack a capability answer with ErrUnsupported, and those that have
// it with their own word.
func TestCapabilitiesThatAreLacking(t *testing.T) {
	var b backend.Backend = opened{}
	if caps := backend.Capabilities(b); len(caps) != 0 {
		t.Errorf("capabilities %v", caps)
	}
	_, errList := backend.List(t.Context(), b, "")
	_, errValue := backend.ReadValue(t.Context(), b, "k")
	_, errSet := backend.SetValue(t.Context(), b, backend.Grant{}, backend.Value{})
	_, errValues := backend.ListValues(t.Context(), b, "")
	for verb, err := range map[string]error{
		"break": backend.Break(t.Context(), b, "k", 1), "list": errList, "raise": backend.RaiseToken(t.Context(), b, "k", 1),
		"value": errValue, "set value": errSet, "list values": errValues,
	} {
		if !errors.Is(err, backend.ErrUnsupported) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if backend.IsPrompt(b) || backend.IsPunctual(b) {
		t.Error("a backend that does not say so is prompt or punctual")
	}
	if ws := backend.Warnings(b); ws != nil {
		t.Errorf("warnings %q", ws)
	}
}

type capable struct{ backend.Backend }

func (capable) Break(context.Context, string, uint64) error            { return errRefused }
func (capable) List(context.Context, string) ([]backend.Record, error) { return nil, errRefused }
func (capable) RaiseToken(context.Context, string, uint64) error       { return errRefused }
func (capable) Value(context.Context, string) (backend.Value, error) {
	return backend.Value{}, errRefused
}
func (capable) SetValue(_ context.Context, g backend.Grant, _ backend.Value) (backend.Grant, error) {
	return g, errRefused
}
func (capable) ListValues(context.Context, string) ([]backend.KeyValue, error) {
	return nil, errRefused
}
func (capable) Prompt() bool       { return true }
func (capable) Punctual() bool     { return true }
func (capable) Warnings() []string { return []string{"soft mount"} }

func TestCapabilitiesThatAreThere(t *testing.T) {
	b := capable{}
	if caps := backend.Capabilities(b); len(caps) != 4 {
		t.Errorf("capabilities %v", caps)
	}
	_, errList := backend.List(t.Context(), b, "")
	_, errValue := backend.ReadValue(t.Context(), b, "k")
	_, errSet := backend.SetValue(t.Context(), b, backend.Grant{}, backend.Value{})
	_, errValues := backend.ListValues(t.Context(), b, "")
	for verb, err := range map[string]error{
		"break": backend.Break(t.Context(), b, "k", 1), "list": errList, "raise": backend.RaiseToken(t.Context(), b, "k", 1),
		"value": errValue, "set value": errSet, "list values": errValues,
	} {
		if !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if !backend.IsPrompt(b) || !backend.IsPunctual(b) {
		t.Error("not prompt or not punctual")
	}
	if ws := backend.Warnings(b); len(ws) != 1 {
		t.Errorf("warnings %q", ws)
	}
}

// selective has methods that not all of its values mean.
type selective struct {
	capable
	has backend.Capability
}

func (s selective) Has(c backend.Capability) bool { return c == s.has }
func (selective) OnLoss(func(string, string)) func() {
	return func() {}
}

func TestSelective(t *testing.T) {
	for _, c := range []backend.Capability{backend.CapBreak, backend.CapLossNotify} {
		if caps := backend.Capabilities(selective{has: c}); len(caps) != 1 || caps[0] != c {
			t.Errorf("%s: capabilities %v", c, caps)
		}
		if _, ok := backend.AsLossNotifier(selective{has: c}); ok != (c == backend.CapLossNotify) {
			t.Errorf("%s: loss notifier %v", c, ok)
		}
	}
	// what it claims and has no method for it has not
	if caps := backend.Capabilities(selective{has: backend.CapWatch}); len(caps) != 0 {
		t.Errorf("capabilities %v", caps)
	}
	if _, ok := backend.AsWatcher(selective{has: backend.CapWatch}); ok {
		t.Error("a watcher without Watch")
	}
	if _, ok := backend.AsBatchRenewer(selective{has: backend.CapBatchRenew}); ok {
		t.Error("a batch renewer without RenewAll")
	}
}
