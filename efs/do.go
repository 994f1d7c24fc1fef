package efs

import (
	"context"
	"errors"

	"github.com/hasplock/hasp"
)

// Do is hasp.DoURL for the lock whose file is at path, as a program of the lock-file
// protocol names it:
//
//	err := efs.Do(ctx, "/mnt/efs/sweeps/foo/lock", nil, func(ctx context.Context, lease *hasp.Lease) error { ... })
//
// Missing directories are made. With nil options it waits as hasp.Options says. fn's
// context and the error are as those of hasp.Do.
func Do(ctx context.Context, path string, opts *hasp.Options, fn func(ctx context.Context, lease *hasp.Lease) error) (err error) {
	b, key, err := OpenPath(path, nil)
	if err != nil {
		return &hasp.Error{Op: "open", Key: path, Err: err}
	}
	l := hasp.New(b, opts)
	defer func() { err = errors.Join(err, l.Close()) }()
	return hasp.Do(ctx, l, key, fn)
}
