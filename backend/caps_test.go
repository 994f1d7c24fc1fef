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
	for verb, err := range map[string]error{
		"break": backend.Break(t.Context(), b, "k", 1), "list": errList, "raise": backend.RaiseToken(t.Context(), b, "k", 1),
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
func (capable) Prompt() bool                                           { return true }
func (capable) Punctual() bool                                         { return true }
func (capable) Warnings() []string                                     { return []string{"soft mount"} }

func TestCapabilitiesThatAreThere(t *testing.T) {
	b := capable{}
	if caps := backend.Capabilities(b); len(caps) != 3 {
		t.Errorf("capabilities %v", caps)
	}
	_, errList := backend.List(t.Context(), b, "")
	for verb, err := range map[string]error{
		"break": backend.Break(t.Context(), b, "k", 1), "list": errList, "raise": backend.RaiseToken(t.Context(), b, "k", 1),
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
