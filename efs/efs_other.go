//go:build !unix

package efs

import (
	"context"
	"fmt"
	"net/url"
	"runtime"

	"github.com/hasplock/hasp/backend"
)

func init() {
	backend.Register("efs", func(context.Context, *url.URL) (backend.Backend, error) { return nil, errUnsupported() })
}

func errUnsupported() error {
	return fmt.Errorf("locks in directories on %s: %w: renames there do not have the properties that the protocol rests on", runtime.GOOS, backend.ErrUnsupported)
}

// Backend cannot be had on this system.
type Backend struct{ backend.Backend }

// Open returns an error that matches backend.ErrUnsupported on this system.
func Open(string, *Options) (*Backend, error) { return nil, errUnsupported() }

// OpenPath returns an error that matches backend.ErrUnsupported on this system.
func OpenPath(string, *Options) (*Backend, string, error) { return nil, "", errUnsupported() }
