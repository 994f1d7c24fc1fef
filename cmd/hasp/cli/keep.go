package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hasplock/hasp"
	"github.com/hasplock/hasp/cmd/hasp/internal/job"
)

// keeper is what once --keep has besides: the command's output, which becomes the value
// beside the lock.
type keeper struct {
	l   hasp.Locker
	key string
	out *job.Capture

	value  []byte // what is kept; nil if that is not known
	failed error  // why the output could not be kept
}

// errTooLong: the command has written more than can be kept.
var errTooLong = &exitError{exitCorrupt, fmt.Errorf("the command has written more than the %d KiB that can be kept: nothing is kept, and its output went to standard error; have it print an id or a path instead", hasp.MaxValueLen>>10)}

// look tells whether there is a value.
func (k *keeper) look(ctx context.Context) (bool, error) {
	v, err := k.l.Value(ctx, k.key)
	switch {
	case errors.Is(err, hasp.ErrNoValue):
		return false, nil
	case err != nil:
		return false, err
	}
	k.value = v
	return true, nil
}

// capture has the command's output come here.
func (k *keeper) capture(spec *job.Spec) (err error) {
	if k.out, err = job.NewCapture(hasp.MaxValueLen, os.Stderr); err != nil {
		return fmt.Errorf("the command's output: %w", err)
	}
	spec.Stdout = k.out.File()
	return nil
}

// started is called when the command has been started, or could not be.
func (k *keeper) started() {
	if k.out != nil {
		k.out.Started()
	}
}

// keep sets the value if the command has succeeded and its lock was not lost.
func (k *keeper) keep(ctx context.Context, lease *hasp.Lease, end outcome) error {
	out, whole := k.out.Output(lastWords)
	switch {
	case end.stopped != nil || end.code != exitOK:
	case !whole:
		k.failed = errTooLong
		spill([]byte("\n")) // its last line may be open
	default:
		if k.failed = lease.SetValue(ctx, out); k.failed == nil {
			k.value = append([]byte{}, out...)
			return nil
		}
	}
	spill(out)
	return k.failed
}

// spill writes what is no value to standard error, and does not wait for long for who
// reads that.
func spill(out []byte) {
	if len(out) == 0 {
		return
	}
	if out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = os.Stderr.Write(out)
	}()
	select {
	case <-done:
	case <-time.After(lastWords):
	}
}

// verdict prints the value if there is one, and turns what happened into this
// program's end, as verdict does.
func (k *keeper) verdict(a *app, t target, ran bool, end outcome, err, cerr error, warn func(error)) error {
	switch {
	case k.value != nil:
		// It is decided, and whatever has become of the lock since changes nothing.
		if err != nil {
			warn(fmt.Errorf("%w; the value was kept before that", t.named(err)))
		} else if cerr != nil && !ran {
			warn(cerr)
		}
		_, err := a.values.Write(k.value)
		return written(err)
	case k.failed == nil || errors.Is(k.failed, hasp.ErrLost):
		return verdict(t, ran, end, err, cerr, warn)
	}
	e := fail(t.named(k.failed))
	why := fmt.Errorf("once %q: %w", t.name, e.err)
	var he *hasp.Error
	switch {
	case k.failed == error(errTooLong):
	case errors.As(k.failed, &he):
		why = fmt.Errorf("once %q: the command has succeeded, and its output could not be kept: %w", t.name, he.Err)
		if errors.Is(k.failed, hasp.ErrUnavailable) {
			why = fmt.Errorf("%w; whether it is kept all the same hasp value tells, and once --keep runs the command again if it is not", why)
		}
	}
	return &exitError{e.code, why}
}
